"""Karpathy's layout of captions, in which Flickr30k, RSICD and UCM-Captions come: one JSON with `images`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from mmpoison.datasets.entries import ImageEntry
from mmpoison.datasets.published.json_lists import read_lists

# Karpathy's split of COCO calls the rest of the validation images so; they are trained on
_SPLITS = {"restval": "train"}


class _Sentence(msgspec.Struct, gc=False):
    raw: Any  # the builder refuses what is no text, without losing the image


class _Image(msgspec.Struct, gc=False):
    filename: str
    sentences: list[_Sentence]
    split: str = "train"


def read_karpathy(path: Path, problem: Callable[[str], None]) -> list[ImageEntry]:
    """Read the images of `{"images": [{"filename", "split", "sentences": [{"raw"}]}]}`.

    Args:
        path: The file.
        problem: Called with each entry that is broken.

    Returns:
        Their file names without a folder, captions and splits, in the order of the file.

    Raises:
        InputError: If the file is missing or is no JSON of this layout.
    """
    images: list[_Image | None] = read_lists(path, {"images": _Image}, problem)["images"]
    return [
        ImageEntry(
            image.filename,
            [sentence.raw for sentence in image.sentences],
            f"{path.name} images[{index}]",
            split=_SPLITS.get(image.split, image.split),
        )
        for index, image in enumerate(images)
        if image is not None
    ]
