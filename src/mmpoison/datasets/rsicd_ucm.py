"""`rsicd-ucm`: satellite photos in the shape of the paper's Flickr-PASCAL.

RSICD is large and taken as unlabelled, UCM-Captions is small and labelled. A clean half of RSICD aligns the towers
(it stands in for CLIP's own pre-training, and for the trusted clean pairs of the defences); the other half and half of
UCM are the training data; the other half of UCM is the test.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmpoison.datasets.catalogue import DATASETS, DataSource
from mmpoison.datasets.pairs import ImageTable, PairDataset
from mmpoison.datasets.pairs_folder import load_pairs
from mmpoison.errors import InputError
from mmpoison.seeding import generator

WHERE_FROM = (
    "a folder with `rsicd/` and `ucm/`, each a pairs folder (captions.jsonl and images); RSICD: Lu et al. 2018, "
    "UCM-Captions: Qu et al. 2016, for research use"
)


def load_rsicd_ucm(root: Path | None, seed: int = 0) -> PairDataset:
    """Compose the set from a user's folder.

    Args:
        root: Folder that holds the pairs folders `rsicd/` and `ucm/`.
        seed: Splits RSICD in halves and each UCM class in halves.

    Returns:
        Split `val`: a random half of RSICD, unlabelled, clean. Split `train`: the other half, unlabelled, and half of
        the images of each UCM class, labelled. Split `test`: the other half of each UCM class.

    Raises:
        InputError: If a folder is missing or broken.
    """
    if root is None or not root.is_dir():
        raise InputError(f"{root}: no such folder, rsicd-ucm needs {WHERE_FROM}")
    ids: list[str] = []
    labels: list[str | None] = []
    splits: list[str] = []
    captions: list[str] = []
    image: list[int] = []
    for name in ("rsicd", "ucm"):
        part = load_pairs(root / name)
        halves = _halves(part, seed, f"split/{name}", by_class=name == "ucm")
        image.extend((part.image + len(ids)).tolist())
        captions.extend(part.captions)
        ids.extend(f"{name}/{image_id}" for image_id in part.images.ids)
        labels.extend(part.images.label(i) if name == "ucm" else None for i in range(len(halves)))
        first, second = ("train", "val") if name == "rsicd" else ("train", "test")
        splits.extend(first if half else second for half in halves)
    return PairDataset.build(ImageTable.build(ids, labels, splits, root), captions, image)


def _halves(part: PairDataset, seed: int, stream: str, *, by_class: bool) -> list[bool]:
    """Whether each image falls in the first half, drawn within each class or over all."""
    rng = generator(seed, stream)
    count = len(part.images)
    groups = (
        [np.flatnonzero(part.images.class_codes == code) for code in range(len(part.classes))]
        if by_class
        else [np.arange(count)]
    )
    first = np.zeros(count, dtype=bool)
    for group in groups:
        first[rng.permutation(group)[: len(group) // 2]] = True
    return [bool(half) for half in first]


DATASETS.register("rsicd-ucm")(
    DataSource(
        name="rsicd-ucm",
        summary="satellite photos: half of RSICD unlabelled + UCM-Captions in 21 classes",
        where_from=WHERE_FROM,
        load=load_rsicd_ucm,
    )
)
