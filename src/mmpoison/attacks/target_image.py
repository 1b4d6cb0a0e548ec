"""Chooses the one target image of attack I."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.attacks.goal import Goal
from mmpoison.errors import InputError
from mmpoison.pairs.table import SPLITS, IntArray, PairDataset

RANDOM, CENTRE = "random", "centre"

Embed = Callable[[PairDataset, IntArray], npt.NDArray[Any]]
"""Embeds images of a table by their indices `(n,)`: embeddings `(n, d)`."""


def choose_target_image(
    pairs: PairDataset,
    goal: Goal,
    choice: str,
    rng: np.random.Generator,
    embed: Embed | None = None,
) -> int:
    """Choose an image of the target class that is in the gallery.

    Args:
        pairs: The clean set; its gallery is all images of split `test`.
        goal: The image is one of its target class.
        choice: `random`; `centre`, the image nearest to the mean of the class's gallery images in an embedding space;
            or the id of an image.
        rng: For `random`.
        embed: For `centre`.

    Returns:
        Index of the image.

    Raises:
        InputError: If the class has no image in the gallery, the image is unknown, of another class or not in the
            gallery, or the embeddings are missing or cannot be used.
    """
    gallery = pairs.images.indices(split="test", label=goal.target)
    if not len(gallery):
        raise InputError(
            f"goal {goal}: class {goal.target!r} has no test image, so nothing can be measured"
        )
    if choice == RANDOM:
        return int(rng.choice(gallery))
    if choice == CENTRE:
        return int(gallery[_nearest_to_mean(pairs, gallery, goal, embed)])
    return _by_id(pairs, gallery, goal, choice)


def _nearest_to_mean(pairs: PairDataset, gallery: IntArray, goal: Goal, embed: Embed | None) -> int:
    if embed is None:
        raise InputError(
            "target_image 'centre' needs an encoder to embed the class: "
            "name one, or choose 'random' or the id of an image"
        )
    embeddings = np.asarray(embed(pairs, gallery), dtype=np.float64)
    if embeddings.ndim != 2 or len(embeddings) != len(gallery):
        raise InputError(
            f"embeddings of {len(gallery)} images of {goal.target!r} are needed, shape "
            f"({len(gallery)}, d), got shape {embeddings.shape}"
        )
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if not np.isfinite(embeddings).all() or not length.all():
        raise InputError(f"embeddings of {goal.target!r}: some are zero, infinite or NaN")
    embeddings /= length
    # argmax: among equal images the first in the order of the table
    return int(np.argmax(embeddings @ embeddings.mean(axis=0)))


def _by_id(pairs: PairDataset, gallery: IntArray, goal: Goal, image_id: str) -> int:
    table = pairs.images
    found = np.flatnonzero(table.ids == image_id)
    where = f"goal {goal}: target image {image_id!r}"
    possible = (
        f"class {goal.target!r} has {len(gallery)} there, for example {table.ids[gallery[0]]!r}"
    )
    if not len(found):
        near = difflib.get_close_matches(image_id, map(str, table.ids[gallery]), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"{where} is not in the gallery: {hint}{possible}")
    index = int(found[0])
    if (split := SPLITS[table.split_codes[index]]) != "test":
        raise InputError(f"{where} is not in the gallery, but in split {split!r}: {possible}")
    if (label := table.label(index)) != goal.target:
        raise InputError(
            f"{where} is of class {label!r}, not {goal.target!r}"
            if label
            else f"{where} has no label, so its class is not known to be {goal.target!r}"
        )
    return index
