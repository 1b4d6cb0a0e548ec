"""Chooses pairs for people to label, and reads and writes the file of their labels.

The file is a CSV with the columns `pair` and `verdict`. A pair is named by its image and its position among the image's
captions, from 0 (`sheep/0001.jpg#3`), as in `scores.parquet`. A verdict is `keep`, `drop`, `unsure`, or empty if nobody
has decided yet. Other columns are preserved.
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
from mmpoison.base.seeding import generator
from mmpoison.base.text import count_of, one_line
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
"""Lower quantile of each band of distances, and the share of pairs to label from that band."""


@dataclass(frozen=True)
class Neighbour:
    """A pair that resembles a shown pair.

    Attributes:
        caption: Its caption.
        image: Id of its image.
        root: Folder that the id is relative to.
        distance: Cosine distance of the two captions, or of the two images, in [0, 2].
    """

    caption: str
    image: str
    root: Path
    distance: float


@dataclass(frozen=True)
class ShownPair:
    """A pair as shown to a reviewer.

    Attributes:
        pair: Its name.
        image: Id of its image.
        caption: Its caption.
        root: Folder that image ids are relative to.
        distance: Its score, whose meaning depends on the method.
        poisoned: Whether the manifest marks it as poisoned; None without a manifest.
        others: The other captions of its image, in order.
        kept: A filter's decision; None if there is none.
        goal: Index of its suspected goal in the filter's list, from 0; None if it belongs to none.
        by_caption: Pairs with the nearest captions, nearest first.
        by_image: Pairs with the nearest images, one per image, nearest first.
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
    """Choose random pairs whose labels are most informative about a threshold, in random order.

    Half of them come from the most suspicious 2%, a quarter from the next 8%, and the rest from the other 90%: a
    uniform sample would contain hardly any poisoned pair. `label_threshold` accounts for this.

    Args:
        distances: Shape `(N,)`.
        count: Number of pairs to choose; fewer if there are fewer pairs.
        seed: Seed for the choice.

    Returns:
        Positions of the pairs, shape `(n,)`.
    """
    rng = generator(seed, "filter/label")
    order = np.argsort(distances, kind="stable")
    bounds = [round(start * len(order)) for start, _ in BANDS] + [len(order)]
    bands = [rng.permutation(order[low:high]) for low, high in pairwise(bounds)]
    quotas = [max(1, round(share * count)) for _, share in BANDS]
    # if a band has too few pairs, the other bands supply the rest
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
    """Collect what a page shows about judged pairs, in the given order.

    Args:
        pieces: The set.
        split: The judged split.
        places: Positions of the pairs in the stream.
        distances: Distances of all judged pairs, shape `(N,)`.
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
    """Find the pairs decided by a label file: their positions, and which to drop; shapes `(n,)`.

    Args:
        names: Names of all judged pairs, in order, in parts.
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
        InputError: If the file is missing or broken, a verdict is invalid, or a pair has two verdicts.
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
            f"{file} line 1: needs the columns {' and '.join(COLUMNS)}, "
            f"has {one_line(', '.join(rows.columns))[:200] or 'none'}"
        )
    return rows


class StaleVerdict(Exception):
    """Raised if the verdict to change is no longer what the caller expects.

    Attributes:
        verdict: The current verdict.
    """

    def __init__(self, verdict: ReviewVerdict) -> None:
        super().__init__(verdict)
        self.verdict = verdict


class LabelFile:
    """A label file that accepts verdicts one by one; each is on disk before `set` returns.

    The file is complete at any moment: a new version is written under another name and replaces the old one. Added
    columns are preserved. Only one process may have it open. Changes made by hand in the meantime are read before the
    next verdict is written.

    Args:
        file: The CSV, created if missing.
        pairs: Names of pairs that the file must contain.

    Raises:
        InputError: If the file is broken, cannot be written, or is open in another process.
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
        """Return all verdicts by pair name."""
        return {pair: self[pair] for pair in self._rows}

    def refresh(self) -> None:
        """Reread the file, which another program may have changed."""
        if _state(self.file) != self._seen:
            self._read()

    def set(self, pair: str, verdict: ReviewVerdict, *, was: ReviewVerdict | None = None) -> None:
        """Write a verdict to the file, and return when it is on disk.

        Args:
            pair: Which pair.
            verdict: The new verdict.
            was: The current verdict that the caller expects; by default any.

        Raises:
            StaleVerdict: If the current verdict is not as expected; nothing is changed.
            InputError: If the file was broken meanwhile, or cannot be written; nothing is changed.
        """
        self.refresh()
        before = self[pair] if pair in self._rows else ""
        if was is not None and before != was:
            raise StaleVerdict(before)
        if before != verdict:
            self.set_all([pair], verdict)

    def set_all(self, pairs: Sequence[str], verdict: ReviewVerdict) -> None:
        """Write one verdict for several pairs, and return when it is on disk.

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
        # keep lines that disappeared from the file: every shown pair must have a line
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
