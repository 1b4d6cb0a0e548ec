"""Splits the rows of a user's files into kept and dropped rows, by the verdicts on their pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmpoison.pairs.table import BoolArray, ColumnKind, SourceRows, add_kinds, column_value

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class RowVerdict:
    """The verdict on the pairs of one row.

    Attributes:
        stay: Positions of kept captions.
        go: Positions of dropped captions.
    """

    stay: list[int] = field(default_factory=list)
    go: list[int] = field(default_factory=list)


class RowVerdicts:
    """The verdicts on all pairs of a source, by file and row. Rows without a verdict were left out on reading.

    Args:
        rows: Positions of the pairs, in parts.
        stays: Which of them to keep, in the same parts.
    """

    def __init__(self, rows: Sequence[SourceRows], stays: Sequence[BoolArray]) -> None:
        self.files = rows[0].files
        at = np.concatenate([part.at for part in rows])
        order = np.lexsort(at.T[::-1])
        self._at, self._stays = at[order], np.concatenate(stays)[order]
        numbers = np.arange(len(self.files) + 1)
        self._start = np.searchsorted(self._at[:, 0], numbers)

    def between(self, file: int, first: int, stop: int) -> dict[int, RowVerdict]:
        """Return the verdicts on a file's rows from `first` to `stop` (exclusive), by row, in order."""
        low, high = self._start[file], self._start[file + 1]
        begin, end = low + np.searchsorted(self._at[low:high, 1], [first, stop])
        found: dict[int, RowVerdict] = {}
        places = self._at[begin:end, 1:].tolist()
        for (row, place), stays in zip(places, self._stays[begin:end].tolist(), strict=True):
            verdict = found.setdefault(row, RowVerdict())
            (verdict.stay if stays else verdict.go).append(place)
        return found

    def rows(self, file: int) -> int:
        """Count the rows of a file that contain a pair."""
        return len(np.unique(self._at[self._start[file] : self._start[file + 1], 1]))

    @property
    def several(self) -> bool:
        """Whether a row has several captions."""
        return bool((self._at[:, 2] > 0).any())


@dataclass(frozen=True)
class GoneRows:
    """Dropped pairs of one file, with the user's own columns.

    Attributes:
        file: Number of the file.
        at: Row and position of each pair, shape `(n, 2)`.
        table: The user's own columns, with their names and order, `n` rows.
    """

    file: int
    at: npt.NDArray[np.int64]
    table: pa.Table

    @classmethod
    def of(cls, file: int, places: Iterable[tuple[int, int]], table: pa.Table) -> GoneRows:
        """Build it from plain sequences."""
        return cls(file, np.array(list(places), dtype=np.int64).reshape(-1, 2), table)


@dataclass(frozen=True)
class KeptKeys:
    """The kept samples of a shard: those whose captions are all kept.

    Attributes:
        shard: Name of the shard.
        keys: Keys of its judged samples.
        stays: Mask of the kept samples, shape `(n,)`.
    """

    shard: str
    keys: Sequence[str]
    stays: BoolArray


def table_of_objects(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Convert JSON objects to a table, one column per key. Values that a column cannot hold become JSON text."""
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
    """Yield row and position of each dropped pair."""
    for row, verdict in verdicts.items():
        for place in verdict.go:
            yield row, place
