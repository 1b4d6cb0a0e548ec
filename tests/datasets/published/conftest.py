"""Small files in the layouts of Flickr30k, PASCAL Sentences and Visual Genome, for the sets that are made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mmpoison.pairs.splits import shipped_split

PASCAL_SPLIT = shipped_split("pascal-sentences")


def write_flickr(folder: Path) -> None:
    """Write six images with five captions each."""
    folder.mkdir(parents=True)
    lines = [
        f"{number}.jpg#{which}\tflickr {number} caption {which}"
        for number in range(1000, 1006)
        for which in range(5)
    ]
    (folder / "results_20130124.token").write_text("\n".join(lines) + "\n")


def write_pascal(
    folder: Path, names: Sequence[str] = tuple(PASCAL_SPLIT.splits), **more: Any
) -> None:
    """Write images of the published split with five captions each, and more entries."""
    folder.mkdir(parents=True)
    entries = {
        name: {"category": PASCAL_SPLIT.labels[name], "captions": [f"{name} {n}" for n in range(5)]}
        for name in names
    }
    (folder / "pascal_sentences.json").write_text(json.dumps({**entries, **more}))


def write_regions(folder: Path, phrases: Mapping[int, Sequence[str]]) -> Path:
    """Write the regions of each image, without images."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [
        {
            "id": image,
            "regions": [
                {"region_id": image * 100 + n, "image_id": image, "phrase": phrase}
                for n, phrase in enumerate(of)
            ],
        }
        for image, of in phrases.items()
    ]
    (folder / "region_descriptions.json").write_text(json.dumps(images))
    return folder


def karpathy_image(name: str, split: str = "train", *raw: Any) -> dict[str, Any]:
    """An entry of Karpathy's JSON, with two captions unless they are given."""
    return {
        "filename": name,
        "imgid": 0,
        "sentences": [
            {"tokens": ["many", "planes"], "raw": text, "imgid": 0, "sentid": n}
            for n, text in enumerate(raw or ("many planes are parked . ", "some planes ."))
        ],
        "split": split,
        "sentids": [0, 1],
    }


@pytest.fixture
def flickr_pascal_root(tmp_path: Path) -> Path:
    """Small Flickr30k and the captions of the whole PASCAL Sentences, each in its folder."""
    write_flickr(tmp_path / "flickr30k")
    write_pascal(tmp_path / "pascal-sentences")
    return tmp_path
