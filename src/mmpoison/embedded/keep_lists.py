"""Writes which pairs stay: DataComp's subset file for uids, one list of keys a shard for anything else."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import compress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from mmpoison.base.files import atomic_file, atomic_folder, owned_temporary
from mmpoison.base.phrasing import count_of, one_line
from mmpoison.base.untrusted import open_bytes, parse_json, read_lines
from mmpoison.embedded.checks import hash_ids
from mmpoison.embedded.source import IdKind
from mmpoison.errors import InputError

# -- Uids of 32 hexadecimal digits as two 64-bit numbers, as in DataComp's subset files, and sorted files of
# them.


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


KEEP_FILE = "keep.npy"
KEEP_FOLDER = "keep"

MOST_LOST = 0.01
"""No lists of keys are written where they lack a larger share of the pairs that stay."""

BoolArray = npt.NDArray[np.bool_]


class KeepList(Protocol):
    """Takes the verdicts of shards, one shard after the other.

    Attributes:
        notes: One line for each thing that a user must know of the list.
    """

    notes: list[str]

    def add(self, shard: str, ids: Sequence[str], keep: BoolArray) -> None:
        """Take the ids of a shard and which of them stay, shape `(rows,)`."""
        ...


@contextmanager
def keep_list(out: Path, id_kind: IdKind) -> Iterator[KeepList]:
    """Yield the writer of the list that fits a kind of ids; the list is there when the block ends without error.

    Args:
        out: The folder of the results.
        id_kind: "uid" gives `keep.npy`, "key" gives `keep/{shard}.txt`, "row" gives nothing.
    """
    if id_kind == "uid":
        with _uid_file(out / KEEP_FILE) as uids:
            yield uids
    elif id_kind == "key":
        with atomic_folder(out / KEEP_FOLDER) as folder:
            lists = KeyLists(folder)
            yield lists
            lists.finish()
        if lists.refused:
            shutil.rmtree(out / KEEP_FOLDER)
    else:
        yield NoList()


class NoList:
    """Writes nothing: a number of a row names no pair of a training set."""

    def __init__(self) -> None:
        self.notes = [
            "no list of pairs to keep: the pairs have no ids, only numbers of rows; drop.parquet has shard and row of "
            "each pair that goes (option id names a column of ids)"
        ]

    def add(self, shard: str, ids: Sequence[str], keep: BoolArray) -> None:
        """Do nothing."""


class KeyLists:
    """Writes one key a line, a file for each shard.

    A key that goes in one place goes everywhere, for a reader of the lists knows only the key, and runs of img2dataset
    use the same keys again.

    Attributes:
        refused: Whether there are no lists, since too many pairs that stay have the key of one that goes.

    Args:
        folder: The folder of the lists.
    """

    def __init__(self, folder: Path) -> None:
        self.notes: list[str] = []
        self.refused = False
        self._folder = folder
        self._unlisted = 0
        self._dropped: list[npt.NDArray[np.uint64]] = []

    def add(self, shard: str, ids: Sequence[str], keep: BoolArray) -> None:
        """Write the keys of a shard that stay."""
        name = f"{shard}.txt"
        if Path(name).name != name or "\0" in name:
            raise InputError(f"shard {shard!r:.80}: no file can have this name")
        kept = [key for key, stays in zip(ids, keep.tolist(), strict=True) if stays]
        self._dropped.append(hash_ids(compress(ids, (~keep).tolist())))
        # a line break in a key would be another key
        listed = [key for key in kept if key and key.isprintable()]
        if self._unlisted == 0 and len(listed) < len(kept):
            self.notes.append("")
        self._unlisted += len(kept) - len(listed)
        if self._unlisted:
            self.notes[0] = (
                f"{count_of(self._unlisted, 'key')} cannot be in a list (empty, or with characters that cannot be "
                "printed): the pairs are left out while reading"
            )
        _write_lines(self._folder / name, listed)

    def finish(self) -> None:
        """Leave keys of dropped pairs out of all lists."""
        dropped = np.concatenate(self._dropped or [np.empty(0, np.uint64)])
        listed = lost = 0
        for file in sorted(self._folder.iterdir()) if len(dropped) else []:
            keys = file.read_text(encoding="utf-8").splitlines()
            stays = ~np.isin(hash_ids(keys), dropped)
            if not stays.all():
                _write_lines(file, [key for key, one in zip(keys, stays, strict=True) if one])
            listed, lost = listed + len(keys), lost + int((~stays).sum())
        self.refused = lost > MOST_LOST * listed
        if self.refused:
            self.notes.append(
                f"no lists of pairs to keep: {lost:,} of {count_of(listed, 'pair')} that stay have the key of a "
                "dropped pair elsewhere, so lists of keys would lose them: name a column of ids that are unique in "
                "all shards with the option id; drop.parquet has shard and row of each pair that goes"
            )
        elif lost:
            self.notes.append(
                f"on no list, though not dropped: {count_of(lost, 'pair')} with the key of a dropped pair elsewhere"
            )


def _write_lines(file: Path, lines: Sequence[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    file.write_text(text, encoding="utf-8", newline="\n")


class UidFile:
    """Collects uids for a subset file.

    An uid that goes in one place goes everywhere, for a reader of the file knows only the uid.

    Args:
        runs: Takes the uids that stay.
    """

    def __init__(self, runs: UidRuns) -> None:
        self.notes: list[str] = []
        self.refused = False
        self.runs = runs

    def add(self, shard: str, ids: Sequence[str], keep: BoolArray) -> None:
        """Take the uids of a shard; with the first id that is no uid, there will be no file."""
        if self.refused:
            return
        try:
            uids = parse_uids(ids)
        except ValueError as error:
            self.refused = True
            self.notes.append(
                f"no {KEEP_FILE}: the id {one_line(str(error))[:60]!r} of shard {one_line(shard)} is not of up "
                "to 32 hexadecimal digits; drop.parquet has the ids of the pairs that go"
            )
            return
        self.runs.add(uids[keep])
        self.runs.exclude(uids[~keep])


@contextmanager
def _uid_file(target: Path) -> Iterator[UidFile]:
    target.parent.mkdir(parents=True, exist_ok=True)
    runs = target.with_suffix(".runs")
    with owned_temporary(runs, folder=False) as path, path.open("w+b") as stream:
        found = UidFile(UidRuns(stream, path))
        yield found
        if not found.refused:
            with atomic_file(target) as temporary:
                found.runs.write(temporary)


# -- A predicate for webdataset that reads only the pairs on a list, so that no second copy of the tars is
# made.


_UID = re.compile(r"[0-9A-Fa-f]{1,32}")


class KeepFilter:
    """Says of a sample of webdataset whether it is on a list; can be pickled, and opens the list when first asked.

    Args:
        path: The list.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._uids: Any = None
        self._keys: frozenset[str] | None = None

    def __call__(self, sample: Mapping[str, Any]) -> bool:
        """Return whether a sample is kept.

        Args:
            sample: As webdataset gives it: by uids its `json` is read (bytes, text or decoded), by keys its `__key__`.

        Returns:
            False for a sample that is not on the list, or whose JSON has no uid.

        Raises:
            InputError: If the list cannot be read, or a sample has no JSON at all.
        """
        if self._uids is None and self._keys is None:
            self._open()
        if self._keys is not None:
            return str(sample.get("__key__", "")) in self._keys
        return self._is_kept(self._uid(sample))

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def _open(self) -> None:
        if self.path.suffix == ".npy":
            self._uids = map_subset(self.path)
            return
        files = sorted(self.path.glob("*.txt")) if self.path.is_dir() else [self.path]
        self._keys = frozenset(
            key for file in files for line in read_lines(file) if (key := line.rstrip("\r\n"))
        )

    def _uid(self, sample: Mapping[str, Any]) -> str:
        if "json" not in sample:
            name = one_line(str(sample.get("__key__", "")))[:80]
            raise InputError(
                f"sample {name!r} has no .json with a uid, which {self.path} needs: give the tars of DataComp, or a "
                "folder of key lists"
            )
        facts = sample["json"]
        if isinstance(facts, (bytes, str)):
            try:
                facts = parse_json(facts, "json")
            except InputError:
                return ""
        return str(facts.get("uid", "")) if isinstance(facts, Mapping) else ""

    def _is_kept(self, uid: str) -> bool:
        if _UID.fullmatch(uid) is None:
            return False
        first, last = divmod(int(uid, 16), 1 << 64)
        halves = self._uids["f0"]
        start = int(np.searchsorted(halves, np.uint64(first), side="left"))
        stop = int(np.searchsorted(halves, np.uint64(first), side="right"))
        if start == stop:
            return False
        others = self._uids["f1"][start:stop]
        place = int(np.searchsorted(others, np.uint64(last), side="left"))
        return place < len(others) and int(others[place]) == last


def keep_filter(path: str | Path) -> KeepFilter:
    """Return a predicate that keeps the samples on a list: `dataset.select(mmpoison.keep_filter("scan/keep.npy"))`.

    Args:
        path: A subset file of uids (`keep.npy`, also DataComp's own), a list of keys (one a line), a folder of such
            lists (`keep`), or the folder of a scan, which has one of them.

    Returns:
        A function of a sample; it can be pickled, and each process opens the list by itself.

    Raises:
        InputError: If there is no such list, or it is none.
    """
    place = Path(path)
    if place.is_dir():
        inside = (place / KEEP_FILE, place / KEEP_FOLDER)
        place = next((each for each in inside if each.exists()), place)
        if place.is_dir() and not any(place.glob("*.txt")):
            raise InputError(f"{path}: has no {KEEP_FILE} and no lists of keys (*.txt)")
    elif not place.exists():
        raise InputError(f"{path}: no such list of pairs to keep")
    if place.suffix == ".npy":
        map_subset(place)
    elif place.is_file() and place.suffix != ".txt":
        raise InputError(
            f"{path}: is no list of pairs to keep: give a {KEEP_FILE}, a .txt or a folder"
        )
    return KeepFilter(place)
