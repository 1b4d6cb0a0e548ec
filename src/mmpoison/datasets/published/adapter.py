"""What the adapters of published data sets share: folders of images, missing images, options, splits by class."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mmpoison.base.phrasing import count_of
from mmpoison.datasets.options import one_of
from mmpoison.errors import InputError
from mmpoison.pairs.builder import PairsBuilder, check_relative
from mmpoison.pairs.choices import hash_order
from mmpoison.pairs.table import PairDataset

MISSING = ("skip", "keep")


@dataclass(slots=True)
class Entry:
    """One image of a published data set, before it is checked.

    Attributes:
        image_id: Path relative to the folder of the images.
        captions: Its captions as the file has them, maybe not text.
        where: Place of the entry, for messages.
        label: Its class.
        split: `train`, `val` or `test`.
        categories: Everything that is in the image.
    """

    image_id: str
    captions: list[Any]
    where: str
    label: str | None = None
    split: str = "train"
    categories: tuple[str, ...] = ()


def build_table(
    root: Path,
    entries: Sequence[Entry],
    what: str | Path,
    *,
    missing: str = "skip",
    problems: Iterable[str] = (),
    in_hand: bool = False,
) -> PairDataset:
    """The table of the entries whose image is in hand.

    Args:
        root: Folder that image ids start from.
        entries: The images; their labels and splits do not hang on which files are there.
        what: The file or folder read, for messages.
        missing: `skip` leaves out entries whose image is not there and says so in one line, unless no folder of images
            is there at all: then the table is read by itself. `keep` keeps all.
        problems: What was left out before.
        in_hand: Whether the user named the folder of the images: then they are looked for in any case.

    Raises:
        InputError: If nothing is left.
    """
    one_of("missing", missing, MISSING)
    builder = PairsBuilder(root)
    for problem in problems:
        builder.problem(problem)
    absent = set() if missing == "keep" else _absent(root, entries, in_hand)
    if absent:
        first = [entry.image_id for entry in entries if entry.image_id in absent]
        names = some_names(first)
        hint = (
            " (the option missing=keep keeps them, and data verify then names each)"
            if len(first) > 3
            else ""
        )
        builder.problem(
            f"{what}: {len(first):,} of {len(entries):,} images are not under {root}: {names}{hint}"
        )
    for entry in entries:
        if entry.image_id not in absent:
            builder.add(
                entry.image_id,
                _texts(entry, builder.problem),
                label=entry.label,
                split=entry.split,
                categories=entry.categories,
                where=entry.where,
            )
    return builder.build(str(what))


def some_names(names: Sequence[str], most: int = 3) -> str:
    """The first few of many names, on one line.

    >>> some_names(["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    'a.jpg, b.jpg, c.jpg, ...'
    """
    shown = [name if name.isprintable() else repr(name) for name in names[:most]]
    return ", ".join([*shown, "..."] if len(names) > most else shown)


def _texts(entry: Entry, problem: Callable[[str], None]) -> list[Any]:
    texts: list[Any] = []
    for caption in entry.captions:
        text = caption.strip() if isinstance(caption, str) else caption
        if text == "":
            problem(f"{entry.where}: a caption of {entry.image_id!r} is empty")
        else:
            texts.append(text)
    return texts


def _absent(root: Path, entries: Sequence[Entry], in_hand: bool) -> set[str]:
    """Ids of the images that are not there; none where no folder of images is in hand."""
    by_folder: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for entry in entries:
        try:
            check_relative(entry.image_id, entry.where)
        except InputError:
            continue  # the builder refuses it, by name
        path = PurePosixPath(entry.image_id)
        by_folder[str(path.parent)].append((entry.image_id, path.name))
    absent: set[str] = set()
    for folder, images in by_folder.items():
        # one listing of a folder instead of a question to the disk for each of 100,000 images
        try:
            with os.scandir(root / folder) as listing:
                names = {found.name for found in listing}
        except OSError:
            names = None
        here = [image_id for image_id, name in images if names and name in names]
        # the root is always there, so it counts as a folder of images only if it holds one
        in_hand = in_hand or bool(here) or (names is not None and folder != ".")
        absent.update({image_id for image_id, _ in images}.difference(here))
    return absent if in_hand else set()


def images_root(folder: Path, images: str | Path | None) -> Path:
    """The folder that image ids start from: the data set's own, or the one that the user names.

    Raises:
        InputError: If the named folder is not there.
    """
    if images is None:
        return folder
    if not Path(images).is_dir():
        raise InputError(f"{images}: no such folder of images")
    return Path(images)


def image_folder(root: Path, candidates: Sequence[str], name: str | None) -> str:
    """The first of the folders that is there, as a prefix of image ids: "" is the root itself.

    Args:
        root: Folder of the data set.
        candidates: Names of folders under it, likeliest first.
        name: File name of one image, to tell whether images lie beside the captions.
    """
    for folder in candidates:
        if (root / folder).is_dir():
            return f"{folder}/"
    try:
        beside = name is not None and (root / name).is_file()
    except (OSError, ValueError):
        beside = False
    return "" if beside else f"{candidates[0]}/"


def split_per_class(entries: Sequence[Entry], test_per_class: int | None, seed: int) -> None:
    """Take some images of each class for the test; the rest is for training.

    The choice is that of `reshape.split_per_class` with the same seed, over all entries, whether their image is in hand
    or not: so two people who lack different images have the same split.

    Args:
        entries: The images, whose `split` is set; those without a label are for training.
        test_per_class: How many images of each class are tested, or None for half of them (the odd one is tested).
        seed: Any whole number.

    Raises:
        InputError: If a class has not one image more.
    """
    members: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        entry.split = "train"
        if entry.label is not None:
            members[entry.label].append(entry)
    for label, images in members.items():
        tested = len(images) - len(images) // 2 if test_per_class is None else test_per_class
        if test_per_class is not None and tested >= len(images):
            raise InputError(
                f"data option test_per_class={tested}: class {label!r} has {count_of(len(images), 'image')}, which "
                "leaves none to train"
            )
        keys = [f"{label}/{entry.image_id.rpartition('/')[2]}" for entry in images]
        for position in hash_order(keys, seed, "split")[:tested]:
            images[position].split = "test"
