"""Sorts the rows of a user's own files into those that stay and those that go, by the verdicts on their pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmpoison.pairs.own_columns import ColumnKind, add_kinds, column_value
from mmpoison.pairs.table import BoolArray, SourceRows

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class RowVerdict:
    """What becomes of the pairs of one row.

    Attributes:
        stay: Places of the captions that stay.
        go: Places of those that go.
    """

    stay: list[int] = field(default_factory=list)
    go: list[int] = field(default_factory=list)


class RowVerdicts:
    """The verdicts on all pairs of a source, found by file and row; a row without any was left out when it was read.

    Args:
        rows: Where the pairs stand, in parts.
        stays: Which of them stay, in the same parts.
    """

    def __init__(self, rows: Sequence[SourceRows], stays: Sequence[BoolArray]) -> None:
        self.files = rows[0].files
        at = np.concatenate([part.at for part in rows])
        order = np.lexsort(at.T[::-1])
        self._at, self._stays = at[order], np.concatenate(stays)[order]
        numbers = np.arange(len(self.files) + 1)
        self._start = np.searchsorted(self._at[:, 0], numbers)

    def between(self, file: int, first: int, stop: int) -> dict[int, RowVerdict]:
        """Return the verdicts on the rows from `first` up to `stop` of a file, by row, in order."""
        low, high = self._start[file], self._start[file + 1]
        begin, end = low + np.searchsorted(self._at[low:high, 1], [first, stop])
        found: dict[int, RowVerdict] = {}
        places = self._at[begin:end, 1:].tolist()
        for (row, place), stays in zip(places, self._stays[begin:end].tolist(), strict=True):
            verdict = found.setdefault(row, RowVerdict())
            (verdict.stay if stays else verdict.go).append(place)
        return found

    def rows(self, file: int) -> int:
        """Count the rows of a file that have a pair."""
        return len(np.unique(self._at[self._start[file] : self._start[file + 1], 1]))

    @property
    def several(self) -> bool:
        """Whether a row has several captions."""
        return bool((self._at[:, 2] > 0).any())


@dataclass(frozen=True)
class GoneRows:
    """Pairs of one file that go, with the user's own columns.

    Attributes:
        file: Number of the file.
        at: Row and place of each pair, shape `(n, 2)`.
        table: The own columns, under their own names and in their order, `n` rows.
    """

    file: int
    at: npt.NDArray[np.int64]
    table: pa.Table

    @classmethod
    def of(cls, file: int, places: Iterable[tuple[int, int]], table: pa.Table) -> GoneRows:
        """Make it of plain sequences."""
        return cls(file, np.array(list(places), dtype=np.int64).reshape(-1, 2), table)


@dataclass(frozen=True)
class KeptKeys:
    """Which samples of a shard stay: all of their captions do.

    Attributes:
        shard: Name of the shard.
        keys: Keys of its judged samples.
        stays: Which of them stay, shape `(n,)`.
    """

    shard: str
    keys: Sequence[str]
    stays: BoolArray


def table_of_objects(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return a table of JSON objects: a column for each key; what a column cannot hold becomes JSON."""
    import pyarrow as pa

    kinds: dict[str, ColumnKind] = {}
    add_kinds(kinds, ({k: v for k, v in row.items() if v is not None} for row in rows))
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table(
        {
            name: pa.array([column_value(row.get(name), kinds.get(name, "text")) for row in rows])
            for name in names
        }
    )


def gone_places(verdicts: Mapping[int, RowVerdict]) -> Iterator[tuple[int, int]]:
    """Yield row and place of each pair that goes."""
    for row, verdict in verdicts.items():
        for place in verdict.go:
            yield row, place
