"""A data set of squares in two colours, made in a folder of the user's."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from mmpoison.datasets.catalogue import DATASETS, DataSource
from mmpoison.errors import InputError
from mmpoison.pairs.table import ImageTable, PairDataset

COLOURS = {"cherry": (200, 20, 40), "lime": (150, 220, 60)}


def load_two_colours(root: Path | None, seed: int = 0, *, each: int = 6) -> PairDataset:
    """Draw the squares and load them.

    Raises:
        InputError: If there is no folder.
    """
    if root is None or not root.is_dir():
        raise InputError(f"{root}: no such folder, two-colours draws into a folder that is there")
    ids: list[str] = []
    labels: list[str | None] = []
    splits: list[str] = []
    for name, colour in COLOURS.items():
        for number in range(each):
            ids.append(f"{name}{number}.png")
            labels.append(name)
            splits.append("test" if number % 3 == 2 else "val" if number % 4 == 1 else "train")
            Image.new("RGB", (32, 32), colour).save(root / ids[-1])
    captions = [f"a {label} of two, number {i}" for i, label in enumerate(labels)]
    table = ImageTable.build(ids, labels, splits, root)
    return PairDataset.build(table, captions, range(len(ids)))


DATASETS.register("two-colours")(
    DataSource(
        name="two-colours",
        summary="squares in two colours",
        where_from="drawn into a folder of yours",
        load=load_two_colours,
        options=("each",),
    )
)
