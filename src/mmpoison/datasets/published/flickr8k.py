"""`flickr8k`: 8,091 everyday photographs from Flickr with five captions each (Hodosh et al. 2013).

It is by the authors of Flickr30k, on which the paper trains, and is arranged like the paper's Flickr-PASCAL: much
unlabelled data, a few labelled images of 20 kinds, and a test part with the same kinds.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Literal, Unpack

import numpy as np

from mmpoison.base.text import count_of
from mmpoison.base.untrusted import read_text
from mmpoison.datasets.catalogue import Count, derived
from mmpoison.datasets.published.adapter import (
    ImageOptions,
    PublishedFolder,
    needs,
    recognise_file,
    register_published,
)
from mmpoison.datasets.published.flickr_pascal import read_captions
from mmpoison.errors import InputError
from mmpoison.pairs.builder import ImageEntry
from mmpoison.pairs.folder import CAPTIONS_FILE, load_pairs_folder
from mmpoison.pairs.labels import keyword_pattern
from mmpoison.pairs.splits import balanced, hash_order, image_name, subset_per_class
from mmpoison.pairs.table import PairDataset

NAME = "flickr8k"
TOKEN_FILE = "Flickr8k.token.txt"
IMAGE_FOLDERS = ("Flicker8k_Dataset", "Flickr8k_Dataset", "images")
LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}

KEYWORDS = {
    "baseball": "baseball softball",
    "basketball": "basketball",
    "bicycle": "bicycle bike bicyclist biker cyclist unicycle bicycling",
    "bird": "bird pigeon seagull duck geese goose",
    "boat": "boat canoe kayak kayaker kayaking raft rafting sailboat ship ferry",
    "car": "car truck jeep suv van vehicle",
    "climber": "climber climb climbing rappelling",
    "dog": "dog puppy",
    "football": "football",
    "guitar": "guitar guitarist",
    "hockey": "hockey",
    "horse": "horse pony horseback",
    "motorcycle": "motorcycle motorcyclist motorbike",
    "skateboard": "skateboard skateboarder skateboarding skating skater",
    "ski": "ski skier skiing",
    "snowboard": "snowboard snowboarder snowboarding",
    "soccer": "soccer",
    "surf": "surf surfer surfing surfboard surfboarder parasurfer wakeboard wakeboarder wakeboarding",
    "swing": "swing swinging",
    "tennis": "tennis",
}
"""Words for each kind in a caption.

A kind becomes an image's label if at least `NAMED` captions mention it and no other kind is mentioned by `OTHER` of
them: only clear cases, as in PASCAL.
"""
NAMED, OTHER = 3, 2
MOST = 100
"""Maximum number of labelled images per kind, twice PASCAL's 50 for training and test together."""
HELD_OUT = 2_000
"""Unlabelled images in split `val`: clean pairs for aligning towers and for defences."""


def load_flickr8k(
    root: Path | None,
    seed: int = 0,
    *,
    split: Literal["kinds", "authors"] | None = None,
    held_out: Count | None = None,
    split_seed: Count = 0,
    unlabelled: Count | None = None,
    train_share: float = 1.0,
    **options: Unpack[ImageOptions],
) -> PairDataset:
    """Load Flickr8k, as its authors publish it or as a pairs folder.

    Args:
        root: Folder with `Flickr8k.token.txt`, or a pairs folder, or the folder that has either in `flickr8k/`.
        seed: Not used, so that runs with different seeds share the test data.
        split: `kinds` (the default), the split below, or `authors`: by the authors' three lists (6,000 train, 1,000
            val, 1,000 test); an image in none of them is train. Not for a pairs folder, which has its own split.
        held_out: How many unlabelled images are `val`, 2,000 by default. Not for a pairs folder.
        split_seed: Draws the split `kinds`.
        unlabelled: How many unlabelled images are train; all of them by default.
        train_share: Share of the training images of each kind, and of those without one, that is used, in (0, 1].
        **options: Which images are used, see `ImageOptions`.

    Returns:
        The pairs. A label is given by `KEYWORDS`, to at most 100 images of a kind: half of them `test`, half `train`.
        Of the images without a label 2,000 are `val` and the others `train`.

    Raises:
        InputError: If the captions or the lists are missing or broken, or there are fewer images than asked for.
    """
    if root is not None and (root / NAME).is_dir():
        root = root / NAME
    if root is not None and (root / CAPTIONS_FILE).is_file():
        if split is not None or held_out is not None:
            raise InputError(
                f"{root}: is a pairs folder and has its own split: omit the data options split and held_out"
            )
        pairs = load_pairs_folder(root)
    else:
        pairs = _as_published(PublishedFolder(root, options, NAME), split, held_out, split_seed)
    if unlabelled is not None:
        pairs = _fewer_unlabelled(pairs, unlabelled, split_seed)
    return pairs if train_share == 1 else subset_per_class(pairs, train_share, split_seed)


def _as_published(
    source: PublishedFolder, split: str | None, held_out: int | None, split_seed: int
) -> PairDataset:
    file = source.file(TOKEN_FILE)
    if not file.is_file():
        raise InputError(f"{source.root}: has no {TOKEN_FILE}: {needs(NAME)}")
    entries = read_captions(file, source.problem)
    by_kind: dict[str | None, list[ImageEntry]] = {}
    for entry in entries:
        by_kind.setdefault(_kind(entry.captions), []).append(entry)
    rest = by_kind.pop(None, [])
    for kind, found in by_kind.items():
        order = hash_order([entry.image_id for entry in found], split_seed, f"{NAME}/{kind}")
        rest += [found[i] for i in order[MOST:]]
        for place, index in enumerate(order[:MOST]):
            found[index].label, found[index].split = kind, ("train", "test")[place % 2]
    clean = HELD_OUT if held_out is None else held_out
    for index in hash_order([entry.image_id for entry in rest], split_seed, f"{NAME}/val")[:clean]:
        rest[index].split = "val"
    if split == "authors":
        listed = _lists(file.parent)
        for entry in entries:
            entry.split = listed.get(entry.image_id, "train")
    source.into_folder(entries, IMAGE_FOLDERS)
    return source.table(entries, file)


@functools.cache
def _patterns() -> dict[str, re.Pattern[str]]:
    # not on import, because every command imports the data sets
    return {kind: keyword_pattern(words.split()) for kind, words in KEYWORDS.items()}


def _kind(captions: list[str]) -> str | None:
    """Return the kind on which an image's captions agree, or None.

    >>> _kind(["A dog.", "Two dogs run.", "A puppy and a boat.", "Animals on grass."])
    'dog'
    """
    named = {
        kind: sum(map(bool, map(found.search, captions))) for kind, found in _patterns().items()
    }
    several = [kind for kind, count in named.items() if count >= OTHER]
    return several[0] if len(several) == 1 and named[several[0]] >= NAMED else None


def _lists(folder: Path) -> dict[str, str]:
    """Read the authors' split of each image, from one file name a line."""
    splits: dict[str, str] = {}
    for split, name in LISTS.items():
        if not (folder / name).is_file():
            raise InputError(f"{folder}: has no {name}, which the data option split=authors needs")
        splits.update(dict.fromkeys(read_text(folder / name).split(), split))
    return splits


def _fewer_unlabelled(pairs: PairDataset, count: int, seed: int) -> PairDataset:
    images = pairs.images
    train = images.indices(split="train")
    unlabelled = train[images.class_codes[train] < 0]
    if count > len(unlabelled):
        raise InputError(
            f"data option unlabelled={count}: the training data have "
            f"{count_of(len(unlabelled), 'image')} without a label"
        )
    names = [image_name(images.ids[index]) for index in unlabelled]
    gone = unlabelled[hash_order(names, seed, f"{NAME}/unlabelled")[count:]]
    return pairs.piece(np.setdiff1d(np.arange(len(images)), gone))


# also accept a copy saved as a pairs folder, so that these options apply; by path alone it is a pairs folder
register_published(NAME, load_flickr8k, recognise_file(TOKEN_FILE, CAPTIONS_FILE))
register_published(
    f"{NAME}-b", derived(load_flickr8k, balanced, "caption_seed", without=["train_share"])
)
