"""Tables of pairs that lie nowhere, for attacks, which never open an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mmpoison.datasets import ImageTable, PairDataset


def _class_table(
    classes: Mapping[str, tuple[int, int]], *, unlabelled: int = 0, captions: int = 5
) -> PairDataset:
    """Images of classes given as (train, test), and unlabelled train images before them."""
    ids = [f"unlabelled/{n}.jpg" for n in range(unlabelled)]
    labels: list[str | None] = [None] * unlabelled
    splits = ["train"] * unlabelled
    for label, (train, test) in classes.items():
        for number in range(train + test):
            ids.append(f"{label}/{number}.jpg")
            labels.append(label)
            splits.append("train" if number < train else "test")
    image = [n for n in range(len(ids)) for _ in range(captions)]
    texts = [f"{ids[n]} said {place % captions}" for place, n in enumerate(image)]
    return PairDataset.build(ImageTable.build(ids, labels, splits, Path("nowhere")), texts, image)


def _pairs_of(pairs: PairDataset, **chosen: Any) -> Counter[tuple[str, str]]:
    """Image and caption of each pair of a selection."""
    part = pairs.select(**chosen)
    return Counter(zip(part.images.ids[part.image], part.captions, strict=True))


@pytest.fixture(scope="session")
def class_table() -> Callable[..., PairDataset]:
    """A function that makes a table of classes given as (train, test), with five captions an image."""
    return _class_table


@pytest.fixture(scope="session")
def pairs_of() -> Callable[..., Counter[tuple[str, str]]]:
    """A function that counts image and caption of the pairs of a selection."""
    return _pairs_of
