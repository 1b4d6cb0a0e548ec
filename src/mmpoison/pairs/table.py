"""`PairDataset`: the immutable table of image-caption pairs that flows through every stage."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property
from glob import glob
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from mmpoison.base.phrasing import count_of
from mmpoison.base.registry import unknown_name
from mmpoison.errors import InputError
from mmpoison.images.sources import States, changed_line, state_of
from mmpoison.pairs.own_columns import CAPTION_COLUMNS, OwnColumns

if TYPE_CHECKING:
    from mmpoison.images.thumbnails import PictureRow
    from mmpoison.pairs.manifest import PoisonManifest


# -- Detects that the files of a table of pairs have changed while they were read.


TABLE_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet", ".arrow", ".tar")
"""Endings of the files that tables of pairs are read from."""


@dataclass(frozen=True, eq=False)
class TableStates:
    """The states of the files that a table of pairs was read from.

    Attributes:
        folder: The folder that they lie in.
        files: Their paths relative to it.
        states: The state of each (`state_of`), shape `(n,)`.
    """

    folder: Path
    files: list[str]
    states: States

    @classmethod
    def of(cls, place: Path) -> TableStates:
        """Note the states of a file; or of the tables in a folder and in the folders in it."""
        folder, files = (place, _tables(place)) if place.is_dir() else (place.parent, [place.name])
        return cls(folder, files, _states(folder, files))

    def changed(self) -> list[Path]:
        """List the files that have changed or disappeared; new files were not read and do not count."""
        differ = np.flatnonzero(_states(self.folder, self.files) != self.states)
        return [self.folder / self.files[place] for place in differ.tolist()]

    def check(self) -> None:
        """Refuse tables that have changed since.

        Raises:
            InputError: If one has.
        """
        if changed := self.changed():
            raise InputError(changed_line(changed))

    @contextmanager
    def read(self) -> Iterator[None]:
        """Check after they were read in a block, and where that fails: what is broken may be half of a new file."""
        try:
            yield
        except InputError:
            self.check()
            raise
        self.check()


def _states(folder: Path, files: Sequence[str]) -> States:
    # no command makes links to a table
    states = [state_of(f"{folder}/{name}", linked=False) for name in files]
    return np.array(states, dtype=np.int64)


def _tables(place: Path) -> list[str]:
    if (place / "captions.jsonl").is_file():
        # our own format: labels and results may lie in the same folder
        return ["captions.jsonl", "manifest.json"]
    # strings, since there may be a million images next to the tables
    names = [name for depth in ("*", "*/*") for name in glob(depth, root_dir=place)]  # noqa: PTH207
    return sorted(name for name in names if name.endswith(TABLE_SUFFIXES))


SPLITS: tuple[str, ...] = ("train", "val", "test")
TRAIN = SPLITS.index("train")
UNLABELLED = -1

IntArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ImageTable:
    """The images that pairs point to: identity, class and split, never pixels.

    Attributes:
        ids: Relative path of each image, shape `(I,)`, dtype object.
        class_codes: Index into `classes`, shape `(I,)`, -1 where an image has no label.
        split_codes: Index into `SPLITS`, shape `(I,)`.
        classes: Class names, sorted.
        root: The folder that the relative paths start from.
        categories: Everything that is in each image, a tuple of names each, shape `(I,)`, dtype object; None where the
            data do not say. An image has one label, by which attacks and measurements go, and may show more.
        own_columns: What the data say of each image besides, an `OwnColumns` or None each, shape `(I,)`, dtype object;
            None where that was not read. It is written with the images, and no part of what a fingerprint is of.
    """

    ids: npt.NDArray[np.object_]
    class_codes: IntArray
    split_codes: npt.NDArray[np.int8]
    classes: tuple[str, ...]
    root: Path
    categories: npt.NDArray[np.object_] | None = None
    own_columns: npt.NDArray[np.object_] | None = None

    def __post_init__(self) -> None:
        arrays = (self.ids, self.class_codes, self.split_codes, self.categories, self.own_columns)
        for array in arrays:
            if array is not None:
                array.flags.writeable = False

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        classes = count_of(len(self.classes), "class", "classes")
        return f"ImageTable({count_of(len(self), 'image')}, {classes})"

    def label(self, index: int) -> str | None:
        """Return the class name of one image, or None."""
        code = int(self.class_codes[index])
        return None if code == UNLABELLED else self.classes[code]

    def class_code(self, name: str) -> int:
        """Return the code of a class name.

        Raises:
            InputError: If no image carries the class; names the nearest one.
        """
        try:
            return self.classes.index(name)
        except ValueError:
            raise InputError(unknown_name("class", name, list(self.classes))) from None

    def indices(self, *, split: str | None = None, label: str | None = None) -> IntArray:
        """Return the indices of the images of a split and class, in table order, shape `(n,)`."""
        mask = np.ones(len(self), dtype=bool)
        if split is not None:
            mask &= self.split_codes == _split_code(split)
        if label is not None:
            mask &= self.class_codes == self.class_code(label)
        return np.flatnonzero(mask).astype(np.int32)

    def take(self, rows: npt.ArrayLike) -> ImageTable:
        """Return the table of some rows, in the order given, without the classes that none of them has."""
        kept = np.asarray(rows, dtype=np.int64)
        used, codes = np.unique(self.class_codes[kept], return_inverse=True)
        first = int(UNLABELLED in used)  # it is the smallest code
        return replace(
            self,
            ids=self.ids[kept],
            class_codes=(codes - first).astype(np.int32),
            split_codes=self.split_codes[kept],
            classes=tuple(self.classes[code] for code in used[first:]),
            categories=None if self.categories is None else self.categories[kept],
            own_columns=None if self.own_columns is None else self.own_columns[kept],
        )

    @classmethod
    def build(
        cls,
        ids: Sequence[str] | npt.NDArray[np.object_],
        labels: Sequence[str | None],
        splits: Sequence[str],
        root: Path,
        categories: Sequence[Sequence[str]] | npt.NDArray[np.object_] | None = None,
        own_columns: Sequence[OwnColumns | None] | npt.NDArray[np.object_] | None = None,
    ) -> ImageTable:
        """Build the table from plain sequences of equal length."""
        classes = tuple(sorted({label for label in labels if label is not None}))
        code = {name: index for index, name in enumerate(classes)}
        return cls(
            ids=_objects(ids),
            class_codes=np.array(
                [UNLABELLED if label is None else code[label] for label in labels], dtype=np.int32
            ),
            split_codes=np.array([_split_code(split) for split in splits], dtype=np.int8),
            classes=classes,
            root=root,
            categories=_objects_or_none(categories),
            own_columns=_objects_or_none(own_columns),
        )


@dataclass(frozen=True, eq=False)
class SourceRows:
    """Where each pair stands in the files that it was read from: what names it in everything that is written.

    Attributes:
        files: Names of the files, relative to the folder that was read.
        at: For each pair its file, its row there (the line of a table of text, otherwise from 0), and its place among
            the captions of the row, shape `(N, 3)`.
    """

    files: tuple[str, ...]
    at: npt.NDArray[np.int64]

    @classmethod
    def of(cls, files: Sequence[str], at: Sequence[tuple[int, int, int]]) -> SourceRows:
        """Make it of plain sequences."""
        return cls(tuple(files), np.array(at, dtype=np.int64).reshape(-1, 3))

    def take(self, rows: npt.NDArray[Any]) -> SourceRows:
        """Return those of some pairs, by a mask or by positions."""
        return replace(self, at=self.at[rows])


@dataclass(frozen=True)
class Pair:
    """One pair, as iterating over a set gives it.

    Attributes:
        image: Id of the image that the pair is with.
        caption: Its caption.
        label: Class of that image, or None.
        split: `train`, `val` or `test`, by `split_of_pairs`.
        poisoned: Whether the caption was written for another image.
        clean_image: Id of the image that the caption was written for.
    """

    image: str
    caption: str
    label: str | None
    split: str
    poisoned: bool
    clean_image: str


@dataclass(frozen=True, eq=False)
class PairDataset:
    """Pairs of images and captions; every operation returns a new table over the same images.

    A pair knows two images: the one it is *with* and the one its caption was written for (its source). They differ
    exactly when the pair is poisoned, so "poisoned" is read off the table and not stored. Pairs are in the order of
    their images, which makes a saved and re-loaded set the same set.

    `len(pairs)` is the number of pairs, iterating gives each as a `Pair`. `pairs[3]` is one `Pair`; `pairs[10:20]`, a
    boolean mask (`pairs[pairs.poisoned]`) and increasing positions give a smaller set. A notebook shows a few pictures.

    Attributes:
        images: The image table, shared by all sets made from one.
        captions: Caption of each pair, shape `(N,)`, dtype object.
        image: Image each pair is with, shape `(N,)`, index into `images`.
        source: Image each caption was written for, shape `(N,)`.
        manifest: The poison that this set carries, or None for a clean set.
        problems: What was left out when the set was loaded, one line each with its place; empty for sound data.
        tables: The states of the files that the table was read from, or None where it was not loaded.
        own_columns: What the data say of each caption besides, an `OwnColumns` or None each, shape `(N,)`, dtype
            object; None where nothing is said of single captions, or it was not read.
        rows: Where each pair stands in its source; None where pairs were made here, or it is not known.
    """

    images: ImageTable
    captions: npt.NDArray[np.object_]
    image: IntArray
    source: IntArray
    manifest: PoisonManifest | None = None
    problems: tuple[str, ...] = ()
    tables: TableStates | None = None
    own_columns: npt.NDArray[np.object_] | None = None
    rows: SourceRows | None = None

    def __post_init__(self) -> None:
        for array in (self.captions, self.image, self.source, self.own_columns):
            if array is not None:
                array.flags.writeable = False

    def __len__(self) -> int:
        return len(self.captions)

    def __repr__(self) -> str:
        used = self.used_images()
        labelled = np.unique(self.images.class_codes[used])
        parts = [
            count_of(len(self), "pair"),
            count_of(len(used), "image"),
            count_of(int((labelled != UNLABELLED).sum()), "class", "classes"),
        ]
        if poisoned := int(self.poisoned.sum()):
            parts.append(f"{poisoned:,} poisoned")
        return f"PairDataset({', '.join(parts)})"

    def show(self, count: int = 8) -> PictureRow:
        """Show some pairs in a notebook: pictures with captions, poisoned and clean ones in turn where there are both.

        The pairs are spread evenly over the table, and each image is shown once; broken images are left out.

        Args:
            count: How many pictures, at least 1.

        Returns:
            What a notebook shows as pictures, and a terminal as one line.

        Raises:
            InputError: If `count` is less than 1.
        """
        from mmpoison.images.thumbnails import PictureRow

        if count < 1:
            raise InputError(f"show {count} pairs: give at least 1")
        return PictureRow(repr(self), self._pictures(count))

    def _repr_html_(self) -> str:
        from mmpoison.images.thumbnails import SHOWN

        return self._pictures(SHOWN)

    def _pictures(self, count: int) -> str:
        from mmpoison.images.thumbnails import picture_row

        spread = (
            _spread(np.flatnonzero(mask), 2 * count) for mask in (self.poisoned, ~self.poisoned)
        )
        rows = [row for both in zip_longest(*spread) for row in both if row is not None]
        # each image once
        first = {int(self.image[row]): row for row in reversed(rows)}
        pairs = (self[row] for row in rows if first[int(self.image[row])] == row)
        cards = ((p.image, p.caption, p.poisoned) for p in pairs)
        return picture_row(repr(self), self.root, cards, count)

    def __iter__(self) -> Iterator[Pair]:
        return (self[row] for row in range(len(self)))

    @overload
    def __getitem__(self, key: int | np.integer[Any]) -> Pair: ...

    @overload
    def __getitem__(self, key: slice | npt.ArrayLike) -> PairDataset: ...

    def __getitem__(self, key: Any) -> Pair | PairDataset:
        """Return one pair by its position, or the pairs of a slice, a boolean mask or increasing positions.

        Raises:
            IndexError: If there is no such position, or the key is none of these.
            InputError: If positions do not increase: pairs stay in the order of their images.
        """
        if isinstance(key, int | np.integer) and not isinstance(key, bool):
            return self._pair(range(len(self))[int(key)])
        if (mask := np.asarray(key)).dtype == np.bool_:
            return self.where(mask)
        rows = np.arange(len(self))[key]
        if rows.ndim != 1 or (np.diff(rows) <= 0).any():
            raise InputError("positions must increase: pairs stay in the order of their images")
        mask = np.zeros(len(self), dtype=bool)
        mask[rows] = True
        return self.where(mask)

    def _pair(self, row: int) -> Pair:
        image, source = int(self.image[row]), int(self.source[row])
        poisoned = image != source
        return Pair(
            image=str(self.images.ids[image]),
            caption=self.captions[row],
            label=self.images.label(image),
            split=SPLITS[TRAIN if poisoned else self.images.split_codes[image]],
            poisoned=poisoned,
            clean_image=str(self.images.ids[source]),
        )

    def to_pandas(self) -> Any:
        """Return the pairs as a `pandas.DataFrame`, one row per pair with the columns of `Pair`."""
        import pandas  # half a second

        names = [field.name for field in fields(Pair)]
        return pandas.DataFrame(map(vars, self), columns=names)

    @classmethod
    def build(
        cls,
        images: ImageTable,
        captions: Sequence[str] | npt.NDArray[np.object_],
        image: npt.ArrayLike,
        source: npt.ArrayLike | None = None,
        manifest: PoisonManifest | None = None,
        problems: Sequence[str] = (),
        own_columns: Sequence[OwnColumns | None] | npt.NDArray[np.object_] | None = None,
        rows: SourceRows | None = None,
    ) -> PairDataset:
        """Build a set in canonical order (by image, then as given)."""
        with_image = np.asarray(image, dtype=np.int32)
        from_image = with_image if source is None else np.asarray(source, dtype=np.int32)
        order = np.argsort(with_image, kind="stable")
        own = _objects_or_none(own_columns)
        return cls(
            images,
            _objects(captions)[order],
            with_image[order],
            from_image[order],
            manifest,
            tuple(problems),
            own_columns=None if own is None else own[order],
            rows=None if rows is None else rows.take(order),
        )

    @property
    def root(self) -> Path:
        """The folder that image paths start from."""
        return self.images.root

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the images, sorted."""
        return self.images.classes

    @property
    def split_codes(self) -> npt.NDArray[np.int8]:
        """The split of each pair by `split_of_pairs`, index into `SPLITS`, shape `(N,)`."""
        return split_of_pairs(self.images.split_codes[self.image], self.poisoned)

    def in_split(self, split: str) -> BoolArray:
        """Return which pairs are in a split, shape `(N,)`."""
        return np.asarray(self.split_codes == _split_code(split))

    @property
    def poisoned(self) -> BoolArray:
        """Which pairs are poisoned, shape `(N,)`."""
        return np.asarray(self.image != self.source)

    @property
    def poisoning_rate(self) -> float:
        """Poisoned pairs divided by all training pairs (section 3 of the paper), in [0, 1]."""
        train = self.select(split="train")
        return float(train.poisoned.mean()) if len(train) else 0.0

    def where(self, mask: npt.ArrayLike) -> PairDataset:
        """Return the pairs for which a boolean mask of shape `(N,)` is true."""
        keep = np.asarray(mask)
        if keep.dtype != np.bool_ or keep.shape != (len(self),):
            raise InputError(
                f"expected a mask of {len(self)} booleans, got {keep.dtype} {keep.shape}"
            )
        return replace(
            self,
            captions=self.captions[keep],
            image=self.image[keep],
            source=self.source[keep],
            own_columns=None if self.own_columns is None else self.own_columns[keep],
            rows=None if self.rows is None else self.rows.take(keep),
        )

    def select(
        self, *, split: str | None = None, label: str | None = None, poisoned: bool | None = None
    ) -> PairDataset:
        """Select pairs by split, by the class of the caption, and by whether they are poisoned.

        The split is that of `split_of_pairs`. The class is that of the image the caption was written for: selecting
        `sheep` gives captions of sheep, also when the attack has put them on aeroplanes.
        """
        mask = np.ones(len(self), dtype=bool)
        if split is not None:
            mask &= self.in_split(split)
        if label is not None:
            mask &= self.images.class_codes[self.source] == self.images.class_code(label)
        if poisoned is not None:
            mask &= self.poisoned == poisoned
        return self.where(mask)

    def piece(self, images: npt.ArrayLike) -> PairDataset:
        """Return the pairs of some images, over a table of only these images.

        Args:
            images: Indices of images, sorted, without repetition, shape `(n,)`; of a poisoned set the images that
                misused captions were written for must be among them.

        Raises:
            InputError: If a caption's own image is left out.
        """
        kept = np.asarray(images, dtype=np.int64)
        position = np.full(len(self.images), -1, dtype=np.int32)
        position[kept] = np.arange(len(kept), dtype=np.int32)
        part = self.where(position[self.image] >= 0)
        source = position[part.source]
        if source.size and source.min() < 0:
            raise InputError("a piece of a poisoned set must hold the images its captions are from")
        return replace(
            part,
            images=self.images.take(kept),
            image=position[part.image],
            source=source,
            tables=None,
        )

    def used_images(self) -> IntArray:
        """Return the indices of the images in at least one pair, sorted, shape `(n,)`."""
        return np.unique(self.image)

    def rows_by_caption(self, images: Iterable[int]) -> dict[tuple[int, str], list[int]]:
        """Map each image and caption to the rows of their pairs, in order, for some images."""
        found: dict[tuple[int, str], list[int]] = defaultdict(list)
        for row in np.flatnonzero(np.isin(self.image, list(images))):
            found[int(self.image[row]), self.captions[row]].append(int(row))
        return found

    def counts(self) -> dict[str, Any]:
        """Count images and pairs by split, poisoned pairs, and labelled images by class."""
        splits: dict[str, Any] = {}
        pair_split = self.split_codes
        for code, split in enumerate(SPLITS):
            if images := int((self.images.split_codes == code).sum()):
                splits[split] = {"images": images, "pairs": int((pair_split == code).sum())}
        labelled = self.images.class_codes[self.images.class_codes != UNLABELLED]
        per_class = np.bincount(labelled, minlength=len(self.classes))
        return {
            "images": len(self.images),
            "pairs": len(self),
            "poisoned": int(self.poisoned.sum()),
            "splits": splits,
            "classes": {name: int(n) for name, n in zip(self.classes, per_class, strict=True)},
        }

    def lines(self, *, own_columns: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the lines of `captions.jsonl`, one per image, in table order.

        Args:
            own_columns: With the own columns of images and captions, where they were read.
        """
        bounds = np.searchsorted(self.image, np.arange(len(self.images) + 1))
        for index in range(len(self.images)):
            start, stop = bounds[index], bounds[index + 1]
            line = {
                "image": self.images.ids[index],
                "captions": list(self.captions[start:stop]),
                "label": self.images.label(index),
                "split": SPLITS[self.images.split_codes[index]],
            }
            if self.images.categories is not None and self.images.categories[index]:
                line["categories"] = list(self.images.categories[index])
            if own_columns and self.images.own_columns is not None:
                line |= self.images.own_columns[index] or {}
            if own_columns and self.own_columns is not None and any(self.own_columns[start:stop]):
                line[CAPTION_COLUMNS] = [one or {} for one in self.own_columns[start:stop]]
            yield line

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the table: paths, captions, labels and splits in order; not of the image bytes."""
        digest = hashlib.sha256()
        for line in self.lines():
            digest.update(json.dumps(line, sort_keys=True, separators=(",", ":")).encode())
            digest.update(b"\n")
        return digest.hexdigest()


def split_of_pairs(of_image: npt.NDArray[np.int8], poisoned: BoolArray) -> npt.NDArray[np.int8]:
    """Say which split each pair is in: the one rule, for sets in memory and for streams.

    A clean pair is in the split of its image. A poisoned pair is a training pair, wherever its image is: attacks take
    training captions, and they stay training data also on an image of the gallery (attack I), whose own captions stay
    test captions (docs/decisions/0017-split-of-a-pair.md).

    Args:
        of_image: The split of the image that each pair is with, index into `SPLITS`, shape `(N,)`.
        poisoned: Which pairs are poisoned, shape `(N,)`.

    Returns:
        Index into `SPLITS`, shape `(N,)`.

    >>> split_of_pairs(np.array([0, 2, 2], np.int8), np.array([False, False, True])).tolist()
    [0, 2, 0]
    """
    return np.where(poisoned, np.int8(TRAIN), of_image)


def _spread(rows: npt.NDArray[np.int64], most: int) -> list[int]:
    """Choose some of many rows, evenly spread."""
    if len(rows) <= most:
        return [int(row) for row in rows]
    return [int(row) for row in rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]]


def _split_code(split: str) -> int:
    try:
        return SPLITS.index(split)
    except ValueError:
        raise InputError(unknown_name("split", split, list(SPLITS))) from None


def _objects(
    values: Sequence[object] | npt.NDArray[np.object_],
) -> npt.NDArray[np.object_]:
    # np.array(list of str) would make a fixed-width unicode array as wide as the longest caption
    array = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        array[index] = value
    return array


def _objects_or_none(
    values: Sequence[object] | npt.NDArray[np.object_] | None,
) -> npt.NDArray[np.object_] | None:
    """Make a column, or none where no row has anything in it."""
    return _objects(values) if values is not None and any(values) else None
