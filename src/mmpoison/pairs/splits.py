"""Random splits and subsets, determined by a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from mmpoison.base.text import count_of
from mmpoison.errors import InputError
from mmpoison.pairs.labels import refuse_poisoned, relabel
from mmpoison.pairs.table import PairDataset

# -- Reproducible random choices of data (splits, labels, subsets), by hashing instead of a generator.


def _digest(key: str, seed: int, stream: str) -> bytes:
    return hashlib.sha256(f"{seed}/{stream}/{key}".encode()).digest()


def hash_order(ids: Sequence[str], seed: int, stream: str) -> list[int]:
    """Order positions of ``ids`` at random, depending only on the seed, the stream and each id.

    Args:
        ids: Identifiers, for example image ids. Equal ids keep their order.
        seed: Any integer.
        stream: A word for the purpose of the choice, so that two choices over the same ids are independent.

    Returns:
        A permutation of ``range(len(ids))``.
    """
    digests = [_digest(identifier, seed, stream) for identifier in ids]
    return sorted(range(len(ids)), key=digests.__getitem__)


def hash_pick(n: int, key: str, seed: int, stream: str) -> int:
    """Draw uniformly from ``range(n)``, depending only on the seed, the stream and the key."""
    return int.from_bytes(_digest(key, seed, stream), "big") % n


# -- Smaller and balanced versions of a set of pairs (section 5 and appendix A of the paper).


def balanced(pairs: PairDataset, seed: int = 0) -> PairDataset:
    """Keep one random caption for each image, in all splits (the sets "-b" of appendix C in the paper)."""
    return cap_captions(pairs, 1, seed)


def cap_captions(pairs: PairDataset, most: int, seed: int = 0) -> PairDataset:
    """Keep at most a given number of random captions per image, in their original order.

    The choices are nested: the captions kept with `most=2` are among those kept with `most=5`.

    Raises:
        InputError: If the set is poisoned or `most` is less than one.
    """
    refuse_poisoned(pairs, "cut to fewer captions")
    if most < 1:
        raise InputError(f"captions per image: {most} is too few, give at least 1")
    bounds = np.searchsorted(pairs.image, np.arange(len(pairs.images) + 1))
    kept = np.ones(len(pairs), dtype=bool)
    for index in np.flatnonzero(np.diff(bounds) > most):
        first, last = int(bounds[index]), int(bounds[index + 1])
        name = image_name(pairs.images.ids[index])
        keys = [f"{name}/{caption}" for caption in pairs.captions[first:last]]
        kept[[first + position for position in hash_order(keys, seed, "captions")[most:]]] = False
    return pairs.where(kept)


def subset_per_class(pairs: PairDataset, share: float, seed: int = 0) -> PairDataset:
    """Keep a random share of each class's training images; other splits do not change (COCO-M and COCO-S).

    Images without a label form one more class. A class keeps at least one image. Choices with the same seed are nested:
    a quarter is part of the half.

    Args:
        pairs: A clean set.
        share: Share of each class's training images, in (0, 1]; half an image counts as one.
        seed: Seed for the choice.

    Raises:
        InputError: If the set is poisoned or the share is out of range.
    """
    refuse_poisoned(pairs, "cut to fewer images")
    if not 0 < share <= 1:
        raise InputError(f"share {share} of the images: give a number over 0 and at most 1")
    train = pairs.images.indices(split="train")
    kept = np.ones(len(pairs.images), dtype=bool)
    codes = pairs.images.class_codes[train]
    for code in np.unique(codes):
        group = train[codes == code]
        most = max(1, int(len(group) * share + 0.5))
        kept[group[hash_order(_keys(pairs, group.tolist()), seed, "subset")[most:]]] = False
    return pairs.piece(np.flatnonzero(kept))


def split_per_class(pairs: PairDataset, test: int, seed: int = 0) -> PairDataset:
    """Split a set: a given number of random images per class become the test part, everything else training data.

    Args:
        pairs: A clean set with labels. Its existing splits are ignored.
        test: Number of test images per class.
        seed: Seed for the choice.

    Raises:
        InputError: If the set is poisoned or has no labels, or a class has too few images to leave one for training.
    """
    refuse_poisoned(pairs, "split")
    if test < 1:
        raise InputError(f"test images per class: {test} is too few, give at least 1")
    if not pairs.classes:
        raise InputError("the set has no labels, so it cannot be split by class: give labels first")
    for label, count in pairs.counts()["classes"].items():
        if count <= test:
            raise InputError(
                f"class {label!r} has {count_of(count, 'image')}: {test} test images leave none for training"
            )
    splits = ["train"] * len(pairs.images)
    for label in pairs.classes:
        group = pairs.images.indices(label=label)
        for position in hash_order(_keys(pairs, group.tolist()), seed, "split")[:test]:
            splits[group[position]] = "test"
    return relabel(pairs, splits=splits)


def image_name(image_id: str) -> str:
    """Return the file name of an image, which identifies it in every layout of folders.

    >>> image_name("images/2008_000716.jpg")
    '2008_000716.jpg'
    """
    return image_id.rpartition("/")[2]


def _keys(pairs: PairDataset, images: Iterable[int]) -> list[str]:
    """Return the keys that determine the choice of each image.

    The label is part of the key, so that choices in two classes are independent even if each class has files called
    `0001.jpg`, `0002.jpg` and so on.
    """
    table = pairs.images
    return [f"{table.label(index) or ''}/{image_name(table.ids[index])}" for index in images]
