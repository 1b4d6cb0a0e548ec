"""Writes which pairs stay: DataComp's subset file for uids, one list of keys a shard for anything else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import compress
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mmpoison.base.files import atomic_file, atomic_folder, owned_temporary
from mmpoison.base.phrasing import count_of, one_line
from mmpoison.embedded.checks import hash_ids
from mmpoison.embedded.source import IdKind
from mmpoison.embedded.uids import UidRuns, parse_uids
from mmpoison.errors import InputError

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
