"""Uids of 32 hexadecimal digits as two 64-bit numbers, as in DataComp's subset files, and sorted files of them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from mmpoison.base.phrasing import one_line
from mmpoison.base.untrusted import open_bytes
from mmpoison.errors import InputError

Uids = npt.NDArray[np.void]

UID_TYPE = np.dtype("<u8,<u8")
"""Of each element of a subset file: the first and the last 16 digits, as numbers."""

MERGED_ROWS = 1 << 20
"""About so many uids are merged at once: 16 MB, some times over."""

LOOKED_AT = 4096

_DIGITS = re.compile(r"[0-9A-Fa-f]*")


def parse_uids(ids: Sequence[str]) -> Uids:
    """Turn uids into numbers.

    DataComp's resharder reads a uid as one number; of one with fewer than 32 digits the first ones are zero.

    Args:
        ids: Each of 32 hexadecimal digits, or fewer.

    Returns:
        Shape `(n,)`, of `UID_TYPE`, in the order of the ids.

    Raises:
        ValueError: If one is no uid; the message is that one.

    >>> parse_uids(["0000000000000001000000000000000f"]).tolist()
    [(1, 15)]
    """
    whole = ids if all(len(each) == 32 for each in ids) else [_padded(each) for each in ids]
    joined = "".join(whole)
    if _DIGITS.fullmatch(joined) is None:
        raise ValueError(next(each for each in ids if _DIGITS.fullmatch(each) is None))
    digits = np.frombuffer(bytes.fromhex(joined), np.dtype(">u8,>u8"))
    return np.asarray(digits.astype(UID_TYPE))


def _padded(uid: str) -> str:
    if not 1 <= len(uid) <= 32:
        raise ValueError(uid)
    return uid.rjust(32, "0")


def sort_uids(uids: Uids) -> Uids:
    """Sort uids and drop repeated ones.

    Args:
        uids: Shape `(n,)`, of `UID_TYPE`.
    """
    if len(uids) < 2:
        return uids.copy()
    # almost all first halves differ; sorting by both at once takes several times as long
    ordered = uids[np.argsort(uids["f0"])]
    same = ordered["f0"][1:] == ordered["f0"][:-1]
    if same.any():
        equal = np.concatenate([same, [False]]) | np.concatenate([[False], same])
        part = ordered[equal]
        ordered[equal] = part[np.lexsort((part["f1"], part["f0"]))]
        same &= ordered["f1"][1:] == ordered["f1"][:-1]
    return np.asarray(ordered[np.concatenate([[True], ~same])])


def map_subset(path: Path) -> Uids:
    """Map a subset file into memory.

    Returns:
        Shape `(n,)`, of `UID_TYPE`, read-only.

    Raises:
        InputError: If it is no such file, is cut short, or is not sorted (looked at in `LOOKED_AT` places).
    """
    with open_bytes(path) as stream:
        try:
            if np.lib.format.read_magic(stream) != (1, 0):
                raise ValueError("another version")
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        except Exception:
            # a damaged header raises errors of ast, tokenize or numpy, or a MemoryError
            raise InputError(f"{path}: is no .npy file (its header cannot be read)") from None
        start = stream.tell()
    if dtype != UID_TYPE or len(shape) != 1 or shape[0] > path.stat().st_size:
        raise InputError(
            f"{path}: holds {one_line(str(dtype))[:60]} of shape {shape!s:.60}: a sorted list of two uint64 for each "
            "uid is needed, as DataComp's subset files are"
        )
    count = int(shape[0])
    if (missing := start + count * UID_TYPE.itemsize - path.stat().st_size) > 0:
        raise InputError(f"{path}: cut short, {missing:,} bytes are missing")
    if count == 0:
        return np.empty(0, UID_TYPE)
    found: Uids = np.memmap(path, UID_TYPE, "r", offset=start, shape=(count,))
    sample = found[np.unique(np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(np.int64))]
    if not np.array_equal(sample, sample[np.lexsort((sample["f1"], sample["f0"]))]):
        raise InputError(f"{path}: is not sorted: sort it (numpy.sort) before it is used")
    return found


class UidRuns:
    """Sorted runs of uids in one temporary file, which are merged into a subset file with flat memory.

    Args:
        stream: The temporary file, open for reading and writing, empty.
        path: Its path.
    """

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream = stream
        self._path = path
        self._ends = [0]
        self._waiting: list[Uids] = []
        self._excluded: list[Uids] = []

    def add(self, uids: Uids) -> None:
        """Add the uids of one shard, in any order."""
        self._waiting.append(uids)
        if sum(map(len, self._waiting)) >= MERGED_ROWS:
            self._spill()

    def exclude(self, uids: Uids) -> None:
        """Leave uids out of the file, wherever they were or will be added; they are in memory, 16 bytes each."""
        if len(uids):
            self._excluded.append(uids)

    def _spill(self) -> None:
        """Write what waits as one sorted run."""
        if self._waiting:
            run = sort_uids(np.concatenate(self._waiting))
            self._waiting = []
            if len(run):
                self._stream.write(run.tobytes())
                self._ends.append(self._ends[-1] + len(run))

    def write(self, target: Path) -> int:
        """Write all uids as `numpy.save` would write the sorted array without repeated ones.

        Args:
            target: The subset file.

        Returns:
            How many there are.
        """
        self._spill()
        excluded = sort_uids(np.concatenate(self._excluded or [np.empty(0, UID_TYPE)]))
        count = 0
        with target.open("wb") as out:
            # replaced at the end: only then is it known how many uids are repeated
            out.write(_header(self._ends[-1]))
            for block in self._merged():
                kept = block[~_contains(excluded, block)]
                out.write(kept.tobytes())
                count += len(kept)
            out.seek(0)
            out.write(_header(count))
        return count

    def _merged(self) -> Iterator[Uids]:
        self._stream.flush()
        if self._ends[-1] == 0:
            return
        whole = np.memmap(self._path, UID_TYPE, "r", shape=(self._ends[-1],))
        spans = list(zip(self._ends[:-1], self._ends[1:], strict=True))
        runs = [whole[start:stop] for start, stop in spans]
        # uids of one first half are never in two pieces, so a repeated one is found within its piece
        bounds = self._bounds(whole)
        places = np.zeros((len(bounds) + 1, len(runs)), dtype=np.int64)
        for number, run in enumerate(runs):
            places[:-1, number] = np.searchsorted(run["f0"], bounds, side="left")
            places[-1, number] = len(run)
        for low, high in zip(np.vstack([places[:1] * 0, places[:-1]]), places, strict=True):
            pieces = [run[a:b] for run, a, b in zip(runs, low, high, strict=True) if b > a]
            if pieces:
                yield sort_uids(np.concatenate(pieces))

    def _bounds(self, whole: Uids) -> npt.NDArray[np.uint64]:
        """Choose first halves that cut all runs into pieces of about `MERGED_ROWS` uids in all."""
        pieces = len(whole) // MERGED_ROWS
        if not pieces:
            return np.empty(0, np.uint64)
        # which places are drawn changes the sizes of the pieces and not the result
        drawn = np.random.default_rng(0).integers(0, len(whole), 64 * pieces)
        sample = np.sort(whole["f0"][np.sort(drawn)])
        return np.unique(sample[np.linspace(0, len(sample) - 1, pieces + 1)[1:].astype(np.int64)])


def _contains(known: Uids, asked: Uids) -> npt.NDArray[np.bool_]:
    """Return for each of some sorted uids, each there once, whether it is in others that are sorted too."""
    both = np.concatenate([known, asked])
    order = np.lexsort((both["f1"], both["f0"]))
    ordered = both[order]
    # the sort is stable: an uid of `known` stands before its equal
    same = (ordered["f0"][1:] == ordered["f0"][:-1]) & (ordered["f1"][1:] == ordered["f1"][:-1])
    found = np.zeros(len(both), bool)
    found[order[1:][same]] = True
    return found[len(known) :]


def _header(count: int) -> bytes:
    """Return the header of a `.npy` file; NumPy leaves room for the number, so its length is always the same."""
    stream = io.BytesIO()
    empty = {
        "descr": np.lib.format.dtype_to_descr(UID_TYPE),
        "fortran_order": False,
        "shape": (count,),
    }
    np.lib.format.write_array_header_1_0(stream, empty)
    return stream.getvalue()
