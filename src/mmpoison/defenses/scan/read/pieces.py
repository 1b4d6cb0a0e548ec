"""Reads any source of pairs in pieces. Poison marks are kept apart from the judged pairs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.base.text import count_of
from mmpoison.base.untrusted import LeftOut
from mmpoison.datasets.catalogue import NamedData, PathData
from mmpoison.errors import InputError
from mmpoison.images.sources import Names, States, absent_images, file_states, refuse_changed
from mmpoison.pairs.folder import (
    MANIFEST_FILE,
    captions_file,
    count_images,
    open_pairs_folder,
)
from mmpoison.pairs.manifest import PoisonManifest
from mmpoison.pairs.table import (
    SPLITS,
    BoolArray,
    IntArray,
    PairDataset,
    SourceRows,
    TableStates,
    split_of_pairs,
)


@dataclass(frozen=True)
class Piece:
    """A part of a data set: some images with all their pairs.

    Attributes:
        pairs: The pairs, without any information about poison.
        entry: Manifest entry of each pair, -1 for none, shape `(n,)`.
    """

    pairs: PairDataset
    entry: IntArray

    @property
    def poisoned(self) -> BoolArray:
        """Mask of pairs that the manifest marks as poisoned, shape `(n,)`."""
        return np.asarray(self.entry >= 0)

    def in_split(self, split: str) -> BoolArray:
        """Return a mask of the pairs in a split by `split_of_pairs`, shape `(n,)`."""
        of_image = self.pairs.images.split_codes[self.pairs.image]
        return np.asarray(split_of_pairs(of_image, self.poisoned) == SPLITS.index(split))

    def pair_ids(self, rows: BoolArray | slice = slice(None)) -> list[str]:
        """Name pairs by image and position among the image's captions, from 0: `sheep/0001.jpg#3`."""
        first = np.searchsorted(self.pairs.image, self.pairs.image)
        place = np.arange(len(self.pairs)) - first
        ids = self.pairs.images.ids[self.pairs.image]
        return [f"{image}#{number}" for image, number in zip(ids[rows], place[rows], strict=True)]


class PairPieces:
    """A data set that is read piece by piece, as often as needed.

    Args:
        source: A set in memory, or a path of any format, a data set name, `hf:ORG/NAME`, or one of these with options.
        images_at_once: Approximate number of images per piece.
        own_columns: Also read the user's own columns of a path, to write them again.

    Attributes:
        name: Its name in messages and keys.
        format: Name of its format, or of the data set.
        manifest: The manifest of the set's known poison, or None.
        images: Number of images; None if a stream does not know.
        absent: Images without a file, as far as the set has been read.
        left_out: Images whose pairs are left out of every piece, with reasons; see `leave_out`.
        problems: Parts of the source without a pair, one line each, as far as the set has been read.
        data: How to read the path; None for a set in memory.
        whole: The whole set, if it is in memory.

    Raises:
        InputError: If there is nothing to read.
    """

    def __init__(
        self,
        source: str | Path | PairDataset | NamedData,
        *,
        images_at_once: int = 1000,
        own_columns: bool = False,
    ) -> None:
        self.images_at_once = images_at_once
        self.manifest: PoisonManifest | None = None
        self.images: int | None = None
        self.absent: list[str] = []
        self.left_out: dict[str, str] = {}
        self.problems: list[LeftOut] = []
        self.whole: Piece | None = None
        self.format = "memory"
        self.data: PathData | None = None
        self._tables: TableStates | None = None
        self._states: list[States] = []
        if isinstance(source, PairDataset):
            self.name = f"memory:{source.root.absolute()}:{source.fingerprint}"
            self._keep(source)
            return
        if not isinstance(source, NamedData):
            source = NamedData(str(source))
        path = Path(source.data)
        if not path.exists():
            self.name = self.format = source.data
            self._keep(source.load())
            return
        self.name = str(path.resolve())
        self._tables = TableStates.of(path)
        # an existing path takes precedence over a data set name
        own = ("own_columns",) if own_columns else ()
        found = PathData.of(path, source.format, source.root, source.options, switched_on=own)
        self.data = found
        self.format = found.source.name
        ours = self.format == "pairs-folder"
        if found.source.stream is None or (found.poisoned and not ours):
            self._keep(found.load(warn=False))  # `problems` lists what was left out
            return
        if ours:
            self.images = count_images(path)
            if found.poisoned:
                self.manifest = PoisonManifest.read(captions_file(path)[0] / MANIFEST_FILE)

    def __iter__(self) -> Iterator[Piece]:
        """Yield the pieces in order, from the first.

        Raises:
            InputError: If the data are broken, the manifest does not describe them, or a file changed since the first
                reading: the written pairs must be the judged ones.
        """
        start = 0
        for number, piece in enumerate(self._pieces()):
            root, ids = piece.pairs.root, piece.pairs.images.ids
            if number == len(self._states):
                self._states.append(file_states(root, ids))
                self.absent += absent_images(ids, self._states[number])
                self.problems += map(LeftOut.of, piece.pairs.problems)
            if piece.pairs.rows is None:
                # pairs of a set without source rows are named by position
                at = np.zeros((len(piece.pairs), 3), dtype=np.int64)
                at[:, 1] = np.arange(start, start + len(at))
                piece = replace(piece, pairs=replace(piece.pairs, rows=SourceRows(("",), at)))
            start += len(piece.pairs)
            # images of a piece are checked again after use
            self._check(root, ids, self._states[number])
            yield without_images(piece, self.left_out) if self.left_out else piece
            self._check(root, ids, self._states[number])
        if self._tables is not None:
            self._tables.check()

    def judged(self, split: str) -> Iterator[tuple[int, Piece, int, str]]:
        """Yield each pair of a split: index in the stream, piece, row in the piece, and name."""
        place = 0
        for piece in self:
            rows = piece.in_split(split)
            for row, name in zip(np.flatnonzero(rows), piece.pair_ids(rows), strict=True):
                yield place, piece, int(row), name
                place += 1

    def leave_out(self, images: Mapping[str, str]) -> None:
        """Leave out the pairs of some images from every piece from now on. The tables keep these images.

        Args:
            images: Ids of images, with the reason for each.
        """
        self.left_out.update(images)

    def _check(self, root: Path, ids: Names, before: States) -> None:
        if len(ids) != len(before):
            if self._tables is not None:
                self._tables.check()
            raise InputError(f"{self.name}: its images changed during reading: repeat the command")
        refuse_changed(root, ids, before)

    def _pieces(self) -> Iterator[Piece]:
        if self.whole is not None:
            yield from self._slices(self.whole)
        else:
            assert self.data is not None
            assert self.data.place is not None
            marks = _Marks(self.manifest)
            pieces = (
                self.data.pieces(self.images_at_once)
                if self.manifest is None
                # the manifest is read here
                else open_pairs_folder(self.data.place, **self.data.options).pieces(
                    self.images_at_once
                )
            )
            for pairs in pieces:
                yield Piece(pairs, marks.of(pairs))
            marks.check()

    def _keep(self, pairs: PairDataset) -> None:
        self.manifest = pairs.manifest
        self.images = len(pairs.images)
        self.problems = [LeftOut.of(line) for line in pairs.problems]
        self.whole = whole_piece(replace(pairs, problems=()))

    def _slices(self, whole: Piece) -> Iterator[Piece]:
        bounds = range(0, len(whole.pairs.images), self.images_at_once)
        for start in bounds:
            stop = min(start + self.images_at_once, len(whole.pairs.images))
            first, last = np.searchsorted(whole.pairs.image, [start, stop])
            yield Piece(whole.pairs.piece(np.arange(start, stop)), whole.entry[first:last])


def whole_piece(pairs: PairDataset) -> Piece:
    """Return a set in memory as one piece, with its poison marks in `entry`.

    Raises:
        InputError: If a pair is poisoned and the manifest does not list it.
    """
    poisoned = np.flatnonzero(pairs.poisoned)
    entry = _Marks(pairs.manifest).of(pairs, poisoned[::-1])  # in manifest order
    if (lost := poisoned[entry[poisoned] < 0]).size:
        raise InputError(
            f"the poisoned pair {pairs.captions[lost[0]][:60]!r} is not in its manifest"
        )
    return Piece(replace(pairs, source=pairs.image, manifest=None), entry)


def pairs_without(pairs: PairDataset, images: Container[str]) -> BoolArray:
    """Return a mask of the pairs whose image is not in a list, shape `(N,)`."""
    wanted = np.fromiter(
        (image_id not in images for image_id in pairs.images.ids), bool, len(pairs.images)
    )
    return np.asarray(wanted[pairs.image])


def without_images(piece: Piece, images: Container[str]) -> Piece:
    """Return a piece without the pairs of some images. Its table keeps the images."""
    rows = pairs_without(piece.pairs, images)
    return piece if rows.all() else Piece(piece.pairs.where(rows), piece.entry[rows])


class _Marks:
    """Finds a manifest's pairs in pieces, by the rule of `apply_manifest`: poisoned captions follow an image's own."""

    def __init__(self, manifest: PoisonManifest | None) -> None:
        self._waiting: dict[tuple[str, str], list[int]] = defaultdict(list)
        for number, listed in enumerate(manifest.pairs if manifest is not None else ()):
            self._waiting[listed.poisoned_image, listed.caption].append(number)
        self._images = {image for image, _ in self._waiting}

    def of(self, pairs: PairDataset, rows: npt.NDArray[np.intp] | None = None) -> IntArray:
        entry = np.full(len(pairs), -1, dtype=np.int32)
        if rows is None:
            wanted = [i for i, image in enumerate(pairs.images.ids) if image in self._images]
            rows = np.flatnonzero(np.isin(pairs.image, wanted))
        for row in rows[::-1]:
            key = (pairs.images.ids[pairs.image[row]], pairs.captions[row])
            if self._waiting.get(key):
                entry[row] = self._waiting[key].pop(0)
        return entry

    def check(self) -> None:
        missing = [key for key, numbers in self._waiting.items() if numbers]
        if missing:
            image, caption = missing[0]
            raise InputError(
                f"{MANIFEST_FILE}: the poisoned pair {caption[:60]!r} with {image!r} is not in the pairs: "
                "manifest and captions differ"
            )


# -- Unreadable images: they are counted, named, and left out of outputs.

UNREADABLE_FILE = "unreadable.jsonl"


class AllUnreadable(InputError):
    """Raised if no image of a split is readable."""


@dataclass(frozen=True)
class Unreadable:
    """Unreadable images among those needed by a filter.

    Attributes:
        images: Number of images needed.
        reasons: What is wrong with each unreadable image, by id.
        pairs: Number of pairs to judge that are left out with these images.
        poisoned: Number of these pairs that the manifest marks as poisoned; None without a manifest.
    """

    images: int
    reasons: Mapping[str, str] = field(default_factory=dict)
    pairs: int = 0
    poisoned: int | None = None

    def __bool__(self) -> bool:
        return bool(self.reasons)

    def __str__(self) -> str:
        """Return the count as a phrase for a message.

        >>> str(Unreadable(28, {"a.png": "no such image"}, 5))
        '1 of 28 images cannot be read'
        """
        return f"{len(self.reasons):,} of {count_of(self.images, 'image')} cannot be read"

    def facts(self) -> dict[str, Any]:
        """Return counts for a log; empty if every image is readable."""
        if not self:
            return {}
        poisoned = {} if self.poisoned is None else {"unreadable_poisoned": self.poisoned}
        return {
            "images": self.images,
            "unreadable_images": len(self.reasons),
            "unreadable_pairs": self.pairs,
            **poisoned,
        }

    def plus(self, other: Unreadable) -> Unreadable:
        """Add the images of another split. Pair counts remain those of the judged split (`self`)."""
        return Unreadable(
            self.images + other.images,
            {**self.reasons, **other.reasons},
            self.pairs,
            self.poisoned,
        )

    def none_left(self, what: str) -> AllUnreadable:
        """Create the error for a split without a readable image.

        Args:
            what: Description of the images.
        """
        image, reason = next(iter(self.reasons.items()))
        return AllUnreadable(
            f"no image of {what} can be read ({self}, the first: {image}: {reason}): "
            "`mmpoison data verify` names them all; repair them, or check the folder of the images"
        )


def absent(images: Iterable[str], known: Unreadable) -> Unreadable:
    """Find images without a file in splits that were not read.

    Args:
        images: Ids of all images of a set without a file.
        known: Problems already found.
    """
    reasons = {image: "no such image" for image in images if image not in known.reasons}
    return Unreadable(len(reasons), reasons)


def short_reasons(root: Path, broken: Mapping[str, str]) -> dict[str, str]:
    """Shorten image problems to texts without paths, which do not depend on the set's location.

    >>> short_reasons(Path("data"), {"a.png": "data/a.png: no such image"})
    {'a.png': 'no such image'}
    """
    return {
        image: reason.removeprefix(f"{root / image}: ") for image, reason in sorted(broken.items())
    }


def write_unreadable(folder: Path, reasons: Mapping[str, str]) -> None:
    """Write `unreadable.jsonl`, one image and reason per line, unless there is none."""
    if not reasons:
        return
    with (folder / UNREADABLE_FILE).open("w", encoding="utf-8") as stream:
        for image, reason in sorted(reasons.items()):
            stream.write(json.dumps({"image": image, "reason": reason}) + "\n")
