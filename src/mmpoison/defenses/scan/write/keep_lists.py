"""Writes lists of kept pairs: DataComp's subset file for uids, otherwise one list of keys per shard."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from mmpoison.base.files import atomic_file, atomic_folder, owned_temporary
from mmpoison.base.registry import check_name
from mmpoison.base.text import count_of, one_line
from mmpoison.base.untrusted import open_bytes, parse_json, read_lines
from mmpoison.defenses.scan.read.files import IdKind
from mmpoison.defenses.scan.read.formats.npy import read_header
from mmpoison.errors import InputError

# -- Uids of 32 hexadecimal digits, as two 64-bit numbers as in DataComp's subset files, and sorted files of uids.


Uids = npt.NDArray[np.void]

UID_TYPE = np.dtype("<u8,<u8")
"""Type of a subset file's elements: the first and the last 16 digits, as numbers."""

BLOCK_ROWS = 1 << 20
"""Uids written at once: a small multiple of 16 MB."""

LOOKED_AT = 4096

_DIGITS = re.compile(r"[0-9A-Fa-f]*")


def uid_bytes(ids: Sequence[str]) -> npt.NDArray[np.bytes_]:
    """Convert uids to bytes that sort like the uids as numbers.

    DataComp's resharder reads a uid as one number, so uids with fewer than 32 digits are padded with leading zeros.

    Args:
        ids: Uids of at most 32 hexadecimal digits.

    Returns:
        16 bytes per uid, shape `(n,)`, in the order of the ids.

    Raises:
        ValueError: If an id is not a uid; the message is that id.

    >>> uid_bytes(["1f"]).tobytes().hex()
    '0000000000000000000000000000001f'
    """
    whole = ids if all(len(each) == 32 for each in ids) else [_padded(each) for each in ids]
    joined = "".join(whole)
    if _DIGITS.fullmatch(joined) is None:
        raise ValueError(next(each for each in ids if _DIGITS.fullmatch(each) is None))
    return np.frombuffer(bytes.fromhex(joined), "S16")


def _padded(uid: str) -> str:
    if not 1 <= len(uid) <= 32:
        raise ValueError(uid)
    return uid.rjust(32, "0")


def map_subset(path: Path) -> Uids:
    """Memory-map a subset file.

    Returns:
        Shape `(n,)`, of `UID_TYPE`, read-only.

    Raises:
        InputError: If it is not a subset file, is truncated, or is not sorted (checked at `LOOKED_AT` positions).
    """
    with open_bytes(path) as stream:
        shape, _, dtype, start = read_header(stream, str(path))
    if dtype != UID_TYPE or len(shape) != 1 or shape[0] > path.stat().st_size:
        raise InputError(
            f"{path}: holds {one_line(str(dtype))[:60]} of shape {shape!s:.60}: expected a sorted list of "
            "two uint64 per uid, as in DataComp's subset files"
        )
    count = int(shape[0])
    if (missing := start + count * UID_TYPE.itemsize - path.stat().st_size) > 0:
        raise InputError(f"{path}: cut short, missing {count_of(missing, 'byte')}")
    if count == 0:
        return np.empty(0, UID_TYPE)
    found: Uids = np.memmap(path, UID_TYPE, "r", offset=start, shape=(count,))
    sample = found[np.unique(np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(np.int64))]
    if not np.array_equal(sample, sample[np.lexsort((sample["f1"], sample["f0"]))]):
        raise InputError(f"{path}: is not sorted: sort it (numpy.sort) before it is used")
    return found


def _header(count: int) -> bytes:
    """Return the header of a `.npy` file. NumPy pads the row count, so the header's length is constant."""
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
"""Largest share of kept pairs that a list may lack; otherwise no list is written."""

BoolArray = npt.NDArray[np.bool_]


class KeepList(Protocol):
    """Receives the verdicts shard by shard.

    Attributes:
        notes: Notes on the list for the user, one line each.
    """

    notes: list[str]

    def add(self, shard: str, ids: Sequence[str], keep: BoolArray) -> None:
        """Add the ids of a shard, and a mask of those to keep, shape `(rows,)`."""
        ...


@contextmanager
def keep_list(out: Path, id_kind: IdKind) -> Iterator[KeepList]:
    """Yield the list writer for a kind of ids. The list is complete when the block ends without error.

    Args:
        out: The result folder.
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
    """Writes nothing, because row numbers do not identify pairs of a training set."""

    def __init__(self) -> None:
        self.notes = [
            "no list of pairs to keep, because the pairs have no ids: name a column of ids with the option id, or use "
            "drop.parquet, which has shard and row of each dropped pair"
        ]

    def add(self, shard: str, ids: Sequence[str], keep: BoolArray) -> None:
        """Do nothing."""


class KeyLists:
    """Writes one key per line, one file per shard.

    A key dropped in one shard is dropped everywhere: readers of the lists know only the key, and img2dataset reuses
    keys between runs.

    Attributes:
        refused: Whether no lists are written, because too many kept pairs share a key with a dropped one.

    Args:
        folder: Folder of the lists.
    """

    def __init__(self, folder: Path) -> None:
        self.notes: list[str] = []
        self.refused = False
        self._folder = folder
        self._unlisted = 0
        self._dropped: list[npt.NDArray[np.uint64]] = []

    def add(self, shard: str, ids: Sequence[str], keep: BoolArray) -> None:
        """Write the kept keys of a shard."""
        name = f"{shard}.txt"
        if Path(name).name != name or "\0" in name:
            raise InputError(f"shard {shard!r:.80}: no file can have this name")
        kept = [key for key, stays in zip(ids, keep.tolist(), strict=True) if stays]
        self._dropped.append(_hashes(compress(ids, (~keep).tolist())))
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
        """Remove the keys of dropped pairs from all lists."""
        dropped = np.concatenate(self._dropped or [np.empty(0, np.uint64)])
        listed = lost = 0
        for file in sorted(self._folder.iterdir()) if len(dropped) else []:
            keys = file.read_text(encoding="utf-8").splitlines()
            stays = ~np.isin(_hashes(keys), dropped)
            if not stays.all():
                _write_lines(file, [key for key, one in zip(keys, stays, strict=True) if one])
            listed, lost = listed + len(keys), lost + int((~stays).sum())
        self.refused = lost > MOST_LOST * listed
        self.notes += _notes_on_lost(lost, listed, "key")


def _notes_on_lost(lost: int, listed: int, what: str) -> list[str]:
    """Report how many kept pairs a list lacks, because pairs with the same name are kept or dropped together."""
    if lost > MOST_LOST * listed:
        return [
            f"no list of pairs to keep: {lost:,} of {count_of(listed, 'kept pair')} have the {what} of a "
            f"dropped pair elsewhere, and a list would lose them: drop by shard and row, as drop.parquet has them, or "
            f"name a column of ids that are unique in all shards (--option id=COLUMN)"
        ]
    if lost:
        return [
            f"on no list, although not dropped: {count_of(lost, 'pair')} with the {what} of a dropped pair elsewhere"
        ]
    return []


def _hashes(ids: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Hash ids identically on every machine; shape `(ids,)`."""
    digest = b"".join(
        hashlib.blake2b(each.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for each in ids
    )
    return np.frombuffer(digest, "<u8").astype(np.uint64)


def _write_lines(file: Path, lines: Sequence[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    file.write_text(text, encoding="utf-8", newline="\n")


class UidFile:
    """Collects uids for a subset file in a temporary file and sorts it in place, in constant memory.

    A uid dropped in one place is dropped everywhere, because readers of the file know only the uid.

    Attributes:
        refused: Whether no file is written: an id is not a uid, or too many kept pairs share a uid with a dropped one.

    Args:
        stream: The temporary file, empty.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.notes: list[str] = []
        self.refused = False
        self._stream = stream
        self._dropped: list[npt.NDArray[np.bytes_]] = []

    def add(self, shard: str, ids: Sequence[str], keep: BoolArray) -> None:
        """Add the uids of a shard. After the first id that is not a uid, no file is written."""
        if self.refused:
            return
        try:
            uids = uid_bytes(ids)
        except ValueError as error:
            self.refused = True
            self.notes.append(
                f"no {KEEP_FILE}: the id {one_line(str(error))[:60]!r} of shard {one_line(shard)} is not of up "
                "to 32 hexadecimal digits; drop.parquet has the ids of the pairs that go"
            )
            return
        self._stream.write(uids[keep].tobytes())
        self._dropped.append(uids[~keep])

    def write(self, collected: Path, target: Path) -> None:
        """Write the sorted uids, without repeated and dropped ones, exactly as `numpy.save` would.

        Args:
            collected: The temporary file.
            target: The subset file.
        """
        self._stream.flush()
        kept = np.empty(0, "S16")
        if collected.stat().st_size:
            kept = np.memmap(collected, "S16", "r+")
            kept.sort()
        dropped = np.unique(np.concatenate([*self._dropped, np.empty(0, "S16")]))
        count, lost, last = 0, 0, None
        with target.open("wb") as out:
            # replaced at the end, when the number of repeated uids is known
            out.write(_header(len(kept)))
            for start in range(0, len(kept), BLOCK_ROWS):
                block = kept[start : start + BLOCK_ROWS]
                new = np.concatenate([[block[0] != last], block[1:] != block[:-1]])
                last = block[-1]
                place = np.searchsorted(dropped, block, side="right") - 1
                if len(dropped):
                    stays = (place < 0) | (dropped[place] != block)
                    new &= stays
                    lost += int((~stays).sum())
                out.write(np.frombuffer(block[new].tobytes(), ">u8,>u8").astype(UID_TYPE).tobytes())
                count += int(new.sum())
            out.seek(0)
            out.write(_header(count))
        self.refused = lost > MOST_LOST * len(kept)
        self.notes += _notes_on_lost(lost, len(kept), "uid")


@contextmanager
def _uid_file(target: Path) -> Iterator[UidFile]:
    target.parent.mkdir(parents=True, exist_ok=True)
    with owned_temporary(target.with_suffix(".uids"), folder=False) as path, path.open("wb") as raw:
        found = UidFile(raw)
        yield found
        if not found.refused:
            with atomic_file(target) as temporary:
                found.write(path, temporary)
        if found.refused:
            target.unlink(missing_ok=True)


# -- A predicate for webdataset that reads only listed pairs, so that the tars need not be copied.


@dataclass(frozen=True)
class KeepFilter:
    """A predicate that checks whether a webdataset sample is on a list. Each process opens the list on first use.

    Attributes:
        path: The list.
    """

    path: Path

    def __call__(self, sample: Mapping[str, Any]) -> bool:
        """Check whether a sample is kept.

        Args:
            sample: A webdataset sample. Lists of uids use its `json` (bytes, text or decoded), lists of keys its
                `__key__`.

        Returns:
            False if the sample is not on the list, or its JSON has no uid.

        Raises:
            InputError: If the list cannot be read, or a sample has no JSON at all.
        """
        listed = _read_list(self.path)
        if isinstance(listed, frozenset):
            return str(sample.get("__key__", "")) in listed
        uid = self._uid(sample)
        if not 1 <= len(uid) <= 32 or _DIGITS.fullmatch(uid) is None:
            return False
        wanted = np.array(divmod(int(uid, 16), 1 << 64), UID_TYPE)
        place = int(np.searchsorted(listed, wanted))
        return place < len(listed) and bool(listed[place] == wanted)

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


@lru_cache(maxsize=4)
def _read_list(path: Path) -> Uids | frozenset[str]:
    """Read a list of keys, or memory-map a list of uids."""
    if path.suffix == ".npy":
        return map_subset(path)
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    return frozenset(
        key for file in files for line in read_lines(file) if (key := line.rstrip("\r\n"))
    )


def keep_filter(path: str | Path) -> KeepFilter:
    """Return a predicate that keeps the samples on a list: `dataset.select(mmpoison.keep_filter("scan/keep.npy"))`.

    Args:
        path: A subset file of uids (`keep.npy`, or DataComp's own), a list of keys (one per line), a folder of such
            lists (`keep`), or the result folder of a scan, which contains one of them.

    Returns:
        A function of a sample. It can be pickled; each process opens the list itself.

    Raises:
        InputError: If the list does not exist or is not a list.
    """
    check_name("path", path)
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
            f"{path}: not a list of pairs to keep; give a {KEEP_FILE}, a .txt or a folder"
        )
    return KeepFilter(place)
