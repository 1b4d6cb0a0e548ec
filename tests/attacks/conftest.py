"""Tables of pairs that lie nowhere, for attacks, which never open an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpoison.datasets import ImageTable, PairDataset


def class_table(
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


def pairs_of(pairs: PairDataset, **chosen: Any) -> Counter[tuple[str, str]]:
    """Image and caption of each pair of a selection."""
    part = pairs.select(**chosen)
    return Counter(zip(part.images.ids[part.image], part.captions, strict=True))
