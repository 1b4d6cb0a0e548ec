"""Chooses pairs for people to label, and reads and writes the file of their labels.

The file is a CSV with the columns `pair` and `verdict`. A pair is named by its image and its place among the image's
captions, from 0 (`sheep/0001.jpg#3`), as in `scores.parquet`; a verdict is `keep`, `drop` or `unsure`, or empty where
nobody has decided yet. Other columns stay as they are.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from mmpoison.base.files import atomic_file
from mmpoison.base.phrasing import count_of, one_line
from mmpoison.base.seeding import generator
from mmpoison.base.untrusted import BoundedRows
from mmpoison.defenses.scan.read.pieces import PairPieces
from mmpoison.errors import InputError
from mmpoison.pairs.builder import is_text
from mmpoison.pairs.table import PairDataset

ReviewVerdict = Literal["keep", "drop", "unsure", ""]
VERDICTS: tuple[ReviewVerdict, ...] = ("keep", "drop", "unsure", "")
COLUMNS = ("pair", "verdict")
MAX_BYTES = 100 * 2**20

BANDS = ((0.0, 0.25), (0.9, 0.25), (0.98, 0.5))
"""From which quantile of the distances on, and what share of the pairs to label comes from there."""


@dataclass(frozen=True)
class Neighbour:
    """Another pair that resembles a shown one.

    Attributes:
        caption: Its caption.
        image: Id of its image.
        root: Folder that the id starts from.
        distance: Cosine distance of the two captions, or of the two images, in [0, 2].
    """

    caption: str
    image: str
    root: Path
    distance: float


@dataclass(frozen=True)
class ShownPair:
    """A pair as it is shown to a person.

    Attributes:
        pair: Its name.
        image: Id of its image.
        caption: Its caption.
        root: Folder that image ids start from.
        distance: Its score; what that is depends on the method.
        poisoned: What the manifest says, None where there is none.
        others: The other captions of its image, in order.
        kept: What a filter decided; None where none has.
        goal: The suspected goal that it belongs to, from 0, in the order of the filter's list; None for none.
        by_caption: Pairs whose captions are nearest to its caption, the nearest first.
        by_image: Pairs whose images are nearest to its image, one for each image, the nearest first.
    """

    pair: str
    image: str
    caption: str
    root: Path
    distance: float
    poisoned: bool | None = None
    others: tuple[str, ...] = ()
    kept: bool | None = None
    goal: int | None = None
    by_caption: tuple[Neighbour, ...] = ()
    by_image: tuple[Neighbour, ...] = ()


def pairs_to_label(
    distances: npt.NDArray[np.floating[Any]], count: int, *, seed: int = 0
) -> npt.NDArray[np.int64]:
    """Choose random pairs whose labels say most about a threshold, in random order.

    Half of them come from the most suspicious 2%, a quarter from the 8% before, the rest from the other 90%; a plain
    random subset would hold hardly a poisoned pair. `label_threshold` allows for it.

    Args:
        distances: Shape `(N,)`.
        count: How many; fewer where there are fewer pairs.
        seed: Seed of the choice.

    Returns:
        Places, shape `(n,)`.
    """
    rng = generator(seed, "filter/label")
    order = np.argsort(distances, kind="stable")
    bounds = [round(start * len(order)) for start, _ in BANDS] + [len(order)]
    bands = [rng.permutation(order[low:high]) for low, high in pairwise(bounds)]
    quotas = [max(1, round(share * count)) for _, share in BANDS]
    # a band that has too few leaves the rest to the others
    spare = np.concatenate([band[quota:] for band, quota in zip(bands, quotas, strict=True)])
    first = np.concatenate([band[:quota] for band, quota in zip(bands, quotas, strict=True)])
    chosen = np.concatenate([first, rng.permutation(spare)])[:count]
    return np.asarray(rng.permutation(chosen))


def shown_pairs(
    pieces: PairPieces,
    split: str,
    places: Iterable[int],
    distances: npt.NDArray[np.floating[Any]],
) -> list[ShownPair]:
    """Collect what a page shows of some judged pairs, in the order given.

    Args:
        pieces: The set.
        split: Which of its pairs were judged.
        places: Places of the pairs in the order of the stream.
        distances: Of all judged pairs, shape `(N,)`.
    """
    wanted = {int(place): number for number, place in enumerate(places)}
    found: dict[int, ShownPair] = {}
    for place, piece, row, name in pieces.judged(split):
        if place in wanted:
            pairs = piece.pairs
            found[wanted[place]] = ShownPair(
                name,
                str(pairs.images.ids[pairs.image[row]]),
                str(pairs.captions[row]),
                pairs.root,
                float(distances[place]),
                bool(piece.poisoned[row]) if pieces.manifest is not None else None,
                _others(pairs, row),
            )
    return [found[number] for number in sorted(found)]


def _others(pairs: PairDataset, row: int) -> tuple[str, ...]:
    first, last = np.searchsorted(pairs.image, [pairs.image[row], pairs.image[row] + 1])
    return tuple(str(pairs.captions[other]) for other in range(first, last) if other != row)


def labelled_places(
    names: Iterable[Sequence[str]], file: Path
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Find the pairs that a file of labels decides on: their places, and which are to be dropped, shapes `(n,)`.

    Args:
        names: Of all judged pairs, in order, in parts.
        file: The labels.

    Raises:
        InputError: If the file is missing or broken, or a labelled pair is not among the judged ones.
    """
    labels = read_labels(file)
    waiting = {name: verdict for name, verdict in labels.items() if verdict in ("keep", "drop")}
    places: list[int] = []
    bad: list[bool] = []
    for place, name in enumerate(name for part in names for name in part):
        if name in waiting:
            places.append(place)
            bad.append(waiting.pop(name) == "drop")
    if waiting:
        raise InputError(
            f"{file}: {count_of(len(waiting), 'labelled pair')} not among the scanned pairs, "
            f"the first: {next(iter(waiting))!r:.80}"
        )
    return np.asarray(places, dtype=np.int64), np.asarray(bad, dtype=np.bool_)


def read_labels(file: Path) -> dict[str, ReviewVerdict]:
    """Read a file of labels.

    Raises:
        InputError: If it is missing or broken, a verdict is none, or a pair has two.
    """
    labels: dict[str, ReviewVerdict] = {}
    rows = _rows_of(file)
    for row in rows:
        where = f"{file} line {rows.line}"
        name, verdict = row["pair"], (row["verdict"] or "").strip().lower()
        if not name or not is_text(name):
            raise InputError(f"{where}: names no pair")
        if verdict not in VERDICTS:
            raise InputError(f"{where}: verdict {verdict!r:.40} must be keep, drop or unsure")
        if labels.get(name) and verdict and labels[name] != verdict:
            raise InputError(f"{where}: pair {name!r:.80} has two verdicts")
        labels[name] = verdict or labels.get(name, "")
    return labels


def _rows_of(file: Path) -> BoundedRows:
    try:
        size = file.stat().st_size
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; `mmpoison review` writes it") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from None
    if size > MAX_BYTES:
        raise InputError(f"{file}: larger than {MAX_BYTES >> 20} MB, so it is not a list of labels")
    rows = BoundedRows(file)
    if not set(COLUMNS) <= set(rows.columns):
        raise InputError(
            f"{file} line 1: the columns {' and '.join(COLUMNS)} are needed, "
            f"it has {one_line(', '.join(rows.columns))[:200] or 'none'}"
        )
    return rows


class StaleVerdict(Exception):
    """Raised if a verdict that is to be changed is no longer what the caller expects.

    Attributes:
        verdict: What it is.
    """

    def __init__(self, verdict: ReviewVerdict) -> None:
        super().__init__(verdict)
        self.verdict = verdict


class LabelFile:
    """A file of labels that takes verdicts one by one; each is on the disk before `set` returns.

    The file is whole at any moment: it is written again under another name and takes the old one's place. Columns that
    somebody has added stay. While one process has it open no other may; what a person changes in it meanwhile is
    seen before the next verdict is written.

    Args:
        file: The CSV; it is made where it is missing.
        pairs: Names of pairs that are to be in it.

    Raises:
        InputError: If it is broken, cannot be written, or another process has it.
    """

    def __init__(self, file: Path, pairs: Iterable[str] = ()) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(file.with_name(f".{file.name}.lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"{file}: another process has it open: end that process, or name another file"
            ) from None
        self._columns: list[str] = list(COLUMNS)
        self._rows: dict[str, dict[str, str]] = {}
        self._seen: tuple[int, ...] | None = None
        self._read()
        new = [name for name in pairs if name not in self._rows]
        for name in new:
            self._rows[name] = {"pair": name}
        if new or self._seen is None:
            self._write()

    def __enter__(self) -> LabelFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file for other processes."""
        self._lock.release()

    def __getitem__(self, pair: str) -> ReviewVerdict:
        verdict = (self._rows[pair].get("verdict") or "").strip().lower()
        assert verdict in VERDICTS
        return verdict

    def labels(self) -> dict[str, ReviewVerdict]:
        """Return all verdicts by the names of the pairs."""
        return {pair: self[pair] for pair in self._rows}

    def refresh(self) -> None:
        """Read again what another program may have written meanwhile."""
        if _state(self.file) != self._seen:
            self._read()

    def set(self, pair: str, verdict: ReviewVerdict, *, was: ReviewVerdict | None = None) -> None:
        """Write a verdict into the file, and return when it is on the disk.

        Args:
            pair: Which pair.
            verdict: The new verdict.
            was: What the caller expects it to be now; by default whatever it is.

        Raises:
            StaleVerdict: If it is not what was expected; nothing is changed.
            InputError: If the file was broken meanwhile, or cannot be written; nothing is changed.
        """
        self.refresh()
        before = self[pair] if pair in self._rows else ""
        if was is not None and before != was:
            raise StaleVerdict(before)
        if before != verdict:
            self.set_all([pair], verdict)

    def set_all(self, pairs: Sequence[str], verdict: ReviewVerdict) -> None:
        """Write one verdict on several pairs, and return when it is on the disk.

        Raises:
            InputError: As `set`.
        """
        self.refresh()
        before = {pair: dict(self._rows[pair]) for pair in pairs if pair in self._rows}
        for pair in pairs:
            self._rows.setdefault(pair, {"pair": pair})["verdict"] = verdict
        try:
            self._write()
        except BaseException:
            for pair in pairs:
                self._rows.pop(pair)
            self._rows |= before
            raise

    def _read(self) -> None:
        state = _state(self.file)
        if state is None:
            self._seen = None
            return
        read_labels(self.file)
        rows = _rows_of(self.file)
        self._columns = list(rows.columns)
        found: dict[str, dict[str, str]] = {}
        for row in rows:
            cells = {key: value or "" for key, value in row.items() if isinstance(key, str)}
            if not (known := found.get(row["pair"])) or not known.get("verdict"):
                found[row["pair"]] = cells
        # what was in it and is not now stays: a pair that is shown must have its line
        self._rows = {**{pair: {"pair": pair} for pair in self._rows}, **found}
        self._seen = state

    def _write(self) -> None:
        try:
            with (
                atomic_file(self.file, durable=True) as temporary,
                temporary.open("w", encoding="utf-8", newline="") as stream,
            ):
                writer = csv.DictWriter(stream, self._columns, restval="")
                writer.writeheader()
                writer.writerows(self._rows.values())
        except OSError as error:
            raise InputError(
                f"{self.file}: cannot be written ({error.strerror or error})"
            ) from None
        self._seen = _state(self.file)


def _state(file: Path) -> tuple[int, ...] | None:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
