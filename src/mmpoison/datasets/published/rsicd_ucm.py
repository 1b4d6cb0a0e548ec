"""`rsicd-ucm`: satellite photos in the shape of the paper's Flickr-PASCAL.

RSICD is large and taken as unlabelled, UCM-Captions is small and labelled. A clean half of RSICD aligns the towers
(it stands in for CLIP's own pre-training, and for the trusted clean pairs of the defences); the other half and half of
UCM are the training data; the other half of UCM is the test.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmpoison.base.phrasing import count_of
from mmpoison.base.seeding import generator
from mmpoison.datasets.catalogue import DataSource, register
from mmpoison.datasets.options import whole_number
from mmpoison.datasets.published.adapter import composed_folder, join
from mmpoison.errors import InputError
from mmpoison.pairs.folder import load_pairs_folder
from mmpoison.pairs.labels import labels_of, relabel
from mmpoison.pairs.splits import balanced, subset_per_class
from mmpoison.pairs.table import BoolArray, PairDataset

WHERE_FROM = (
    "a folder with `rsicd/` and `ucm/`, each a pairs folder (captions.jsonl and images); RSICD: Lu et al. 2018, "
    "UCM-Captions: Qu et al. 2016, for research use"
)


def load_rsicd_ucm(
    root: Path | None,
    seed: int = 0,
    *,
    unlabelled: int | None = None,
    train_share: float = 1.0,
    held_out: int = 0,
) -> PairDataset:
    """Compose the set from a user's folder.

    Args:
        root: Folder that holds the pairs folders `rsicd/` and `ucm/`.
        seed: Splits RSICD in halves and each UCM class in halves.
        unlabelled: How many images of RSICD's training half are used; all of them by default. The others are left out.
        train_share: Share of the training images of each class, and of those without a label, that are used, in (0, 1];
            test and clean images stay.
        held_out: So many of each class's training images are held out as clean pairs of the victim's own kind, in split
            `val` with their label.

    Returns:
        Split `val`: a random half of RSICD, unlabelled, clean, and what is held out. Split `train`: the other half,
        unlabelled, and half of the images of each UCM class, labelled. Split `test`: the other half of each UCM class.

    Raises:
        InputError: If a folder is missing or broken, or there are fewer images than asked for.
    """
    root = composed_folder(root, "rsicd-ucm", WHERE_FROM)
    parts = [
        _unlabelled_part(load_pairs_folder(root / "rsicd"), seed, unlabelled),
        _labelled_part(load_pairs_folder(root / "ucm"), seed, held_out),
    ]
    joined = join(root, parts)
    return joined if train_share == 1 else subset_per_class(joined, train_share, seed)


def _unlabelled_part(rsicd: PairDataset, seed: int, count: int | None) -> PairDataset:
    count_all = len(rsicd.images)
    first = _first_half(count_all, [np.arange(count_all)], seed, "split/rsicd")
    splits = np.where(first, "train", "val").tolist()
    part = relabel(rsicd, labels=[None] * count_all, splits=splits)
    return part if count is None else part.piece(np.flatnonzero(_keep_some(first, count, seed)))


def _labelled_part(ucm: PairDataset, seed: int, held_out: int) -> PairDataset:
    codes = range(len(ucm.classes))
    by_class = [np.flatnonzero(ucm.images.class_codes == code) for code in codes]
    first = _first_half(len(ucm.images), by_class, seed, "split/ucm")
    splits = np.where(first, "train", "test").tolist()
    for image in _hold_out(ucm, first, held_out, seed) if held_out else ():
        splits[image] = "val"
    return relabel(ucm, labels=labels_of(ucm), splits=splits)


def _first_half(
    count: int, groups: Sequence[npt.NDArray[np.intp]], seed: int, stream: str
) -> BoolArray:
    """Draw which of the images are in the first half of their group, shape `(count,)`; one without a group is not."""
    rng = generator(seed, stream)
    first = np.zeros(count, dtype=bool)
    for group in groups:
        first[rng.permutation(group)[: len(group) // 2]] = True
    return first


def _hold_out(part: PairDataset, first: BoolArray, count: int, seed: int) -> list[int]:
    """Draw so many training images of each class; every class keeps one at least."""
    rng = generator(seed, "held-out/ucm")
    drawn: list[int] = []
    for code, name in enumerate(part.classes):
        own = np.flatnonzero(first & (part.images.class_codes == code))
        if not 0 <= count < len(own):
            raise InputError(
                f"data option held_out={count}: {name} has {count_of(len(own), 'training image')}, and one must stay"
            )
        drawn.extend(rng.permutation(own)[:count].tolist())
    return drawn


def _keep_some(first: BoolArray, unlabelled: int, seed: int) -> BoolArray:
    """Keep all images of the second half and a random few of the first, shape `(I,)`."""
    candidates = np.flatnonzero(first)
    if not 0 <= unlabelled <= len(candidates):
        raise InputError(
            f"data option unlabelled={unlabelled}: RSICD's training half has {count_of(len(candidates), 'image')}"
        )
    chosen = generator(seed, "unlabelled/rsicd").permutation(candidates)[:unlabelled]
    kept = ~first
    kept[chosen] = True
    return kept


def load_balanced_rsicd_ucm(
    root: Path | None,
    seed: int = 0,
    *,
    unlabelled: int | None = None,
    held_out: int = 0,
    caption_seed: int = 0,
) -> PairDataset:
    """Load the set with one random caption for each photo (the paper's balanced sets, "-b").

    Args:
        root: As for `load_rsicd_ucm`.
        seed: As for `load_rsicd_ucm`.
        unlabelled: As for `load_rsicd_ucm`.
        held_out: As for `load_rsicd_ucm`.
        caption_seed: Seed of the choice of captions.
    """
    chosen = whole_number("caption_seed", caption_seed)
    return balanced(load_rsicd_ucm(root, seed, unlabelled=unlabelled, held_out=held_out), chosen)


for _name, _load, _what in (
    ("rsicd-ucm", load_rsicd_ucm, "satellite photos"),
    (
        "rsicd-ucm-b",
        load_balanced_rsicd_ucm,
        "the same, one caption an image (balanced)",
    ),
):
    register(
        DataSource(
            name=_name,
            summary=f"{_what}: half of RSICD unlabelled + UCM-Captions in 21 classes",
            where_from=WHERE_FROM,
            terms="those of rsicd and ucm-captions: for research, not to be passed on",
            load=_load,
            home="rsicd-ucm",
            parts=("rsicd", "ucm-captions"),
        )
    )
