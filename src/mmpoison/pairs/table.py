"""`PairDataset`: the immutable table of image-caption pairs that flows through every stage."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property
from glob import glob
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import numpy.typing as npt

from mmpoison.base.registry import unknown_name
from mmpoison.base.text import count_of
from mmpoison.errors import InputError
from mmpoison.images.sources import States, changed_line, state_of

if TYPE_CHECKING:
    from mmpoison.images.decode import PictureRow
    from mmpoison.pairs.manifest import PoisonManifest


OwnColumns = Mapping[str, Any]
"""JSON values by column name. Columns without a value are absent."""

CAPTION_COLUMNS = "caption_columns"
"""Key of the captions' own columns, one object per caption."""

RESERVED_NAMES = frozenset(
    (
        "image",
        "captions",
        "label",
        "split",
        "categories",
        CAPTION_COLUMNS,
        "caption",
        "key",
        "status",
    )
)
"""Names that our formats use. The user's own columns with these names get a trailing underscore."""

MOST_CHARACTERS = 256 << 10
"""Maximum number of characters in one image's own columns, as JSON."""

ColumnKind = Literal["bool", "int", "float", "text"]

_TEXT_TYPES = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal)
_LARGEST_INT = 2**63


def own_names(names: Sequence[str], used: Iterable[str]) -> dict[int, str]:
    """Name the unread columns of a table, by position. All names differ, and none is reserved.

    >>> own_names(["image", "caption", "key", "", "n", "n"], ["image", "caption"])
    {2: 'key_', 3: 'column 4', 4: 'n', 5: 'n_'}
    """
    skipped, taken, found = set(used), set(RESERVED_NAMES), {}
    for place, name in enumerate(names):
        if name in skipped:
            skipped.remove(name)
            continue
        free = name.strip() or f"column {place + 1}"
        while free in taken:
            free += "_"
        taken.add(free)
        found[place] = free
    return found


def own_keys(line: Mapping[str, Any], used: Iterable[str]) -> dict[str, Any]:
    """Return the unread values of an object, under the names of `own_names`."""
    names = list(line)
    return own_values({name: line[names[place]] for place, name in own_names(names, used).items()})


def own_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert values to JSON values, without empty ones.

    >>> own_values({"id": 7, "taken": datetime.date(2020, 1, 2), "empty": "", "x": float("nan")})
    {'id': 7, 'taken': '2020-01-02'}
    """
    plain = ((name, _json_value(value)) for name, value in values.items())
    return {name: value for name, value in plain if value is not None and value != ""}


def check_own(values: OwnColumns) -> None:
    """Refuse own columns that cannot be written.

    Raises:
        InputError: If they are too long or not valid UTF-8.
    """
    try:
        text = json.dumps(values, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:
        raise InputError("own columns are not UTF-8 text") from None
    except (RecursionError, ValueError, TypeError):
        raise InputError("own columns cannot be written as JSON") from None
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"own columns exceed {MOST_CHARACTERS:,} characters: {len(text):,}")


def is_own_captions(value: object) -> bool:
    """Check whether a value read from a file is own columns of captions, or None."""
    return value is None or (
        isinstance(value, list) and all(one is None or isinstance(one, dict) for one in value)
    )


def common_columns(
    captions: Sequence[OwnColumns | None],
) -> tuple[dict[str, Any], list[OwnColumns] | None]:
    """Split the user's own columns of an image's captions into columns equal for all captions, and others.

    Returns:
        The image's columns, and each caption's columns, or None if there are none.

    >>> common_columns([{"by": "Ann", "id": 1}, {"by": "Ann", "id": 2}])
    ({'by': 'Ann'}, [{'id': 1}, {'id': 2}])
    """
    rows = [dict(row or {}) for row in captions]
    first = rows[0] if rows else {}
    common = {
        name: value
        for name, value in first.items()
        if all(name in row and _same(row[name], value) for row in rows)
    }
    rest: list[OwnColumns] = [
        {name: value for name, value in row.items() if name not in common} for row in rows
    ]
    return common, rest if any(rest) else None


def _same(a: Any, b: Any) -> bool:
    # True == 1 == 1.0 in Python, but these are three different values
    return json.dumps(a) == json.dumps(b)


def _json_value(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _json_value(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(one) for one in value]
    return str(value) if isinstance(value, _TEXT_TYPES) else None


# -- columns of a table ----------------------------------------------------------------------------


def add_kinds(kinds: dict[str, ColumnKind], rows: Iterable[OwnColumns | None]) -> None:
    """Widen column kinds so that they can hold some rows, and add new columns.

    >>> kinds = {}
    >>> add_kinds(kinds, [{"n": 1}, {"n": 2.5, "ok": True}, None, {"ok": "maybe"}])
    >>> kinds
    {'n': 'float', 'ok': 'text'}
    """
    for row in rows:
        for name, value in (row or {}).items():
            kind = _kind(value)
            known = kinds.setdefault(name, kind)
            if known != kind:
                kinds[name] = "float" if {known, kind} == {"int", "float"} else "text"


def column_value(value: Any, kind: ColumnKind) -> Any:
    """Convert a value to a column's kind. In text columns, other values become JSON."""
    if value is None or kind != "text":
        return float(value) if kind == "float" and value is not None else value
    return value if isinstance(value, str) else json.dumps(value)


def _kind(value: Any) -> ColumnKind:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -_LARGEST_INT <= value < _LARGEST_INT else "text"
    return "float" if isinstance(value, float) else "text"


# -- Detects changes to the files of a table of pairs while they are read.


TABLE_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet", ".arrow", ".tar")
"""Extensions of files that contain tables of pairs."""


@dataclass(frozen=True, eq=False)
class TableStates:
    """The states of the files from which a table of pairs was read.

    Attributes:
        folder: The folder of the files.
        files: Their paths relative to the folder.
        states: The state of each (`state_of`), shape `(n,)`.
    """

    folder: Path
    files: list[str]
    states: States

    @classmethod
    def of(cls, place: Path) -> TableStates:
        """Record the state of a file, or of all tables in a folder and its sub-folders."""
        folder, files = (place, _tables(place)) if place.is_dir() else (place.parent, [place.name])
        return cls(folder, files, _states(folder, files))

    def changed(self) -> list[Path]:
        """List changed or deleted files. New files were not read and do not count."""
        differ = np.flatnonzero(_states(self.folder, self.files) != self.states)
        return [self.folder / self.files[place] for place in differ.tolist()]

    def check(self) -> None:
        """Refuse tables that have changed since they were read.

        Raises:
            InputError: If a table has changed.
        """
        if changed := self.changed():
            raise InputError(changed_line(changed))

    @contextmanager
    def read(self) -> Iterator[None]:
        """Check the files after a block reads them, also on errors: a broken file may be half-written."""
        try:
            yield
        except InputError:
            self.check()
            raise
        self.check()


def _states(folder: Path, files: Sequence[str]) -> States:
    # no command creates links to a table
    states = [state_of(f"{folder}/{name}", linked=False) for name in files]
    return np.array(states, dtype=np.int64)


def _tables(place: Path) -> list[str]:
    if (place / "captions.jsonl").is_file():
        # our own format: the folder may also contain labels and results
        return ["captions.jsonl", "manifest.json"]
    # strings, because there may be a million images next to the tables
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
        ids: Relative paths of the images, shape `(I,)`, dtype object.
        class_codes: Indices into `classes`, shape `(I,)`, -1 for images without a label.
        split_codes: Indices into `SPLITS`, shape `(I,)`.
        classes: Class names, sorted.
        root: The base folder of the relative paths.
        categories: All classes in each image, as tuples of names, shape `(I,)`, dtype object; None if the data do not
            say. Attacks and measurements use an image's single label, although it may show more.
        own_columns: Further columns of each image, an `OwnColumns` or None each, shape `(I,)`, dtype object; None if
            not read. They are written with the images, but are not part of the fingerprint.
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
            InputError: If no image has the class. The message suggests the nearest one.
        """
        try:
            return self.classes.index(name)
        except ValueError:
            raise InputError(unknown_name("class", name, list(self.classes))) from None

    def indices(self, *, split: str | None = None, label: str | None = None) -> IntArray:
        """Return the indices of a split's and class's images, in table order, shape `(n,)`."""
        mask = np.ones(len(self), dtype=bool)
        if split is not None:
            mask &= self.split_codes == _split_code(split)
        if label is not None:
            mask &= self.class_codes == self.class_code(label)
        return np.flatnonzero(mask).astype(np.int32)

    def take(self, rows: npt.ArrayLike) -> ImageTable:
        """Return the table of some rows, in the given order, without unused classes."""
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
    """Position of each pair in its source files, which identifies the pair in all outputs.

    Attributes:
        files: Names of the files, relative to the data folder.
        at: For each pair its file, its row (the line number in text files, otherwise from 0), and its position among
            the row's captions, shape `(N, 3)`.
    """

    files: tuple[str, ...]
    at: npt.NDArray[np.int64]

    @classmethod
    def of(cls, files: Sequence[str], at: Sequence[tuple[int, int, int]]) -> SourceRows:
        """Build it from plain sequences."""
        return cls(tuple(files), np.array(at, dtype=np.int64).reshape(-1, 3))

    def take(self, rows: npt.NDArray[Any]) -> SourceRows:
        """Return the rows of some pairs, selected by mask or positions."""
        return replace(self, at=self.at[rows])


@dataclass(frozen=True)
class Pair:
    """One pair, as returned by iteration over a set.

    Attributes:
        image: Id of the pair's image.
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
    """Image-caption pairs. Every operation returns a new table over the same images.

    A pair has two images: the one it is *with*, and the one its caption was written for (its source). They differ
    exactly if the pair is poisoned, so "poisoned" is computed, not stored. Pairs are in the order of their images, so
    saving and loading returns the same set.

    `len(pairs)` is the number of pairs, and iteration yields each as a `Pair`. `pairs[3]` is one `Pair`;
    `pairs[10:20]`, a boolean mask (`pairs[pairs.poisoned]`) and increasing positions select a smaller set. Notebooks
    show a few images.

    Attributes:
        images: The image table, shared by all derived sets.
        captions: Caption of each pair, shape `(N,)`, dtype object.
        image: Image of each pair, shape `(N,)`, as an index into `images`.
        source: Image each caption was written for, shape `(N,)`.
        manifest: The manifest of the poison in this set; None for a clean set.
        problems: Entries left out on loading, one line each with the position; empty for valid data.
        tables: The states of the files that the table was read from; None if it was not loaded.
        own_columns: Further columns of each caption, an `OwnColumns` or None each, shape `(N,)`, dtype object; None if
            there are none or they were not read.
        rows: Position of each pair in its source; None for generated pairs, or if unknown.
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
        """Show some pairs in a notebook: images with captions, alternating poisoned and clean pairs if there are both.

        The pairs are spread evenly over the table. Each image is shown once, and broken images are skipped.

        Args:
            count: Number of images, at least 1.

        Returns:
            An object that notebooks show as images, and terminals as one line.

        Raises:
            InputError: If `count` is less than 1.
        """
        from mmpoison.images.decode import PictureRow

        if count < 1:
            raise InputError(f"show {count} pairs: give at least 1")
        return PictureRow(repr(self), self._pictures(count))

    def _repr_html_(self) -> str:
        from mmpoison.images.decode import SHOWN

        return self._pictures(SHOWN)

    def _pictures(self, count: int) -> str:
        from mmpoison.images.decode import picture_row

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
            InputError: If positions do not increase, because pairs stay in the order of their images.
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
        import pandas  # importing it takes half a second

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
        """The folder that image paths are relative to."""
        return self.images.root

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the images, sorted."""
        return self.images.classes

    @property
    def split_codes(self) -> npt.NDArray[np.int8]:
        """Split of each pair by `split_of_pairs`, as an index into `SPLITS`, shape `(N,)`."""
        return split_of_pairs(self.images.split_codes[self.image], self.poisoned)

    def in_split(self, split: str) -> BoolArray:
        """Return a mask of the pairs in a split, shape `(N,)`."""
        return np.asarray(self.split_codes == _split_code(split))

    @property
    def poisoned(self) -> BoolArray:
        """Mask of poisoned pairs, shape `(N,)`."""
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

        The split is that of `split_of_pairs`. The class is that of the caption's true image: selecting `sheep` returns
        captions of sheep, even if an attack has put them on aeroplanes.
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
        """Return the pairs of some images, with a table of only these images.

        Args:
            images: Indices of images, sorted and unique, shape `(n,)`. For a poisoned set they must include the true
                images of all poisoned captions.

        Raises:
            InputError: If a caption's true image is left out.
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
        """For some images, map each image and caption to the rows of their pairs, in order."""
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
            own_columns: Include the user's own columns of images and captions, if they were read.
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
        """The sha256 of the table: paths, captions, labels and splits in order, without image bytes."""
        digest = hashlib.sha256()
        for line in self.lines():
            digest.update(json.dumps(line, sort_keys=True, separators=(",", ":")).encode())
            digest.update(b"\n")
        return digest.hexdigest()


def split_of_pairs(of_image: npt.NDArray[np.int8], poisoned: BoolArray) -> npt.NDArray[np.int8]:
    """Return the split of each pair; the single rule for sets in memory and streams.

    A clean pair is in the split of its image. A poisoned pair is a training pair, whatever its image's split: attacks
    use training captions, which remain training data even on a gallery image (attack I), while that image's own
    captions remain test captions (docs/decisions/0017-split-of-a-pair.md).

    Args:
        of_image: Split of each pair's image, as an index into `SPLITS`, shape `(N,)`.
        poisoned: Mask of poisoned pairs, shape `(N,)`.

    Returns:
        Indices into `SPLITS`, shape `(N,)`.

    >>> split_of_pairs(np.array([0, 2, 2], np.int8), np.array([False, False, True])).tolist()
    [0, 2, 0]
    """
    return np.where(poisoned, np.int8(TRAIN), of_image)


def _spread(rows: npt.NDArray[np.int64], most: int) -> list[int]:
    """Choose evenly spread rows."""
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
    # np.array(list of str) would create a fixed-width array as wide as the longest caption
    array = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        array[index] = value
    return array


def _objects_or_none(
    values: Sequence[object] | npt.NDArray[np.object_] | None,
) -> npt.NDArray[np.object_] | None:
    """Create a column, or None if no row has a value."""
    return _objects(values) if values is not None and any(values) else None
