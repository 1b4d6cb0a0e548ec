"""Writes the results of an embedding scan, shard by shard, in constant memory.

| file | content |
|---|---|
| `drop.parquet`, `drop.csv` | the dropped pairs: the user's own columns, then score, group, reason, shard and row |
| `scores.parquet` | every pair: id, shard, row, score, group, whether it is dropped |
| `keep.npy` or `keep/{shard}.txt` | the kept pairs, see `keep_lists` |
| `groups.json` | the groups found |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmpoison.base.files import atomic_file, write_json
from mmpoison.base.text import count_of, one_line
from mmpoison.defenses.scan.cut.result import NO_GROUP, ShardVerdict
from mmpoison.defenses.scan.read.files import DataFile, ShardError, each
from mmpoison.defenses.scan.read.shards import EmbeddedSource, Shard
from mmpoison.defenses.scan.read.tables import NAMES, PLACE, ParquetRows, storable
from mmpoison.defenses.scan.write.keep_lists import KeepList, keep_list
from mmpoison.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

DROP_FILE = "drop.parquet"
CSV_FILE = "drop.csv"
GROUPS_FILE = "groups.json"
SCORES_FILE = "scores.parquet"


class ResultWriter:
    """Receives the verdicts of shards; created by `write_results`.

    Attributes:
        shards: For each shard: name, and numbers of pairs, dropped pairs, and pairs without usable embeddings.
        failed: Name and reason of each unreadable shard.

    Args:
        own: The user's own columns to copy to `drop.parquet`.
        keep: Writes the kept pairs, if this writer is responsible for them.
        write: Receives tables of dropped pairs.
        score: Writes a table to `scores.parquet`.
        named: Whether the pairs have the columns `NAMES` and `PLACE`.
    """

    def __init__(
        self,
        own: pa.Schema,
        keep: KeepList | None,
        write: Callable[[pa.Table], None],
        score: Callable[[pa.Table], None],
        named: bool,
    ) -> None:
        self._own, self._keep, self._write = own, keep, write
        self._score, self._named = score, named
        self.shards: list[dict[str, Any]] = []
        self.failed: list[dict[str, str]] = []
        self._groups: list[Mapping[str, Any]] = []
        self._lost = 0

    def add(self, shard: Shard, verdict: ShardVerdict) -> None:
        """Write the verdicts of one shard.

        Raises:
            ShardError: If ids or own columns cannot be read; then nothing of the shard is written.
            InputError: If the number of verdicts differs from the number of pairs.
        """
        ids = shard.ids()
        drop = np.asarray(verdict.drop, dtype=bool)
        if not len(ids) == len(drop) == len(verdict.score):
            raise InputError(
                f"shard {one_line(shard.name)}: {len(verdict.score):,} scores and {len(drop):,} verdicts for "
                f"{count_of(len(ids), 'pair')}"
            )
        rows = np.flatnonzero(drop)
        table = self._table(shard, verdict, rows) if len(rows) else None
        scores = self._scores(shard, verdict, ids)
        if self._keep is not None:
            self._keep.add(shard.name, ids, ~drop)
        self._score(scores)
        if table is not None:
            self._write(table)
        judged = np.isfinite(verdict.score)
        self.shards.append(
            {
                "shard": one_line(shard.name),
                "pairs": len(ids),
                "dropped": len(rows),
                "unusable": int((~judged).sum()),
            }
        )

    def fail(self, shard: Shard, error: str) -> None:
        """Record an unreadable shard, whose pairs are in no list."""
        self._lost += shard.rows
        self.failed.append({"shard": one_line(shard.name), "reason": one_line(error)})

    def name_groups(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Set the facts about each group, as JSON values, in order of group number."""
        self._groups = list(groups)

    @property
    def notes(self) -> list[str]:
        """Notes on the results for the user, one line each."""
        lines = [] if self._keep is None else list(self._keep.notes)
        if self.failed:
            lines.append(
                f"{count_of(len(self.failed), 'shard')} could not be read ({count_of(self._lost, 'pair')} by the "
                "headers): the pairs are in no list of pairs to keep"
            )
        return lines

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The content of `groups.json`."""
        return [{"group": number, **each} for number, each in enumerate(self._groups)]

    def _scores(self, shard: Shard, verdict: ShardVerdict, ids: Sequence[str]) -> pa.Table:
        import pyarrow as pa

        group = np.full(len(ids), NO_GROUP) if verdict.group is None else verdict.group
        score = np.asarray(verdict.score, dtype=np.float64)
        own = shard.table(np.arange(len(ids))) if self._named else None
        columns = [
            pa.array(list(map(storable, ids)), pa.string()),
            *_places(shard, np.arange(len(ids)), own),
            pa.array(score, mask=np.isnan(score)),
            pa.array(group.astype(np.int32), pa.int32(), mask=group == NO_GROUP),
            pa.array(np.asarray(verdict.drop, dtype=bool)),
            *(() if own is None else (own[name].cast(pa.string()) for name in NAMES)),
        ]
        return pa.Table.from_arrays(columns, schema=scores_schema(named=self._named))

    def _table(self, shard: Shard, verdict: ShardVerdict, rows: npt.NDArray[np.intp]) -> pa.Table:
        import pyarrow as pa

        reasons = verdict.reason if verdict.reason is not None else [""] * len(rows)
        if len(reasons) != len(rows):
            raise InputError(
                f"shard {one_line(shard.name)}: {count_of(len(reasons), 'reason')} for "
                f"{count_of(len(rows), 'dropped pair')}"
            )
        group = np.full(len(rows), NO_GROUP) if verdict.group is None else verdict.group[rows]
        own = shard.table(rows)
        columns = [
            *(_fitted(own, field, len(rows)) for field in self._own),
            pa.array(np.asarray(verdict.score)[rows].astype(np.float32), pa.float32()),
            pa.array(group.astype(np.int32), pa.int32(), mask=group == NO_GROUP),
            pa.array([storable(reason) for reason in reasons], pa.string()),
            *_places(shard, rows, own if self._named else None),
        ]
        return pa.Table.from_arrays(columns, schema=drop_schema(self._own))


def _places(shard: Shard, rows: npt.NDArray[np.intp], own: pa.Table | None) -> list[Any]:
    """Return file and row of some pairs: in the source, or in the shard of embeddings."""
    import pyarrow as pa

    if own is not None:
        return [own[name].combine_chunks() for name in PLACE[:2]]
    return [pa.array([storable(shard.name)] * len(rows), pa.string()), pa.array(rows, pa.int64())]


@contextmanager
def write_results(
    out: Path, source: EmbeddedSource, *, gone: list[pa.Table] | None = None
) -> Iterator[ResultWriter]:
    """Yield a writer. The files appear in the folder, all together, when the block ends without error.

    Args:
        out: The folder.
        source: The source. Footers of its tables are read for the types of the user's own columns.
        gone: Receives the dropped pairs if mmpoison embedded them, with the columns `NAMES` and `PLACE`. Their lists
            are then not written here, because the owner's columns are in the source.

    Raises:
        InputError: If the folder already has other lists.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    named = gone is not None
    own = own_schema(source.shards)
    if named:
        own = pa.schema([own.field(name) for name in (*NAMES[1:], PLACE[2])])
    with (
        nullcontext() if named else keep_list(out, source.id_kind) as keep,
        nullcontext(gone.append) if gone is not None else write_drops(out, own) as write,
        atomic_file(out / SCORES_FILE) as scores,
    ):
        with pq.ParquetWriter(scores, scores_schema(named=named), compression="zstd") as scored:
            results = ResultWriter(own, keep, write, scored.write_table, named)
            yield results
        write_json(out / GROUPS_FILE, results.groups)


@contextmanager
def write_drops(
    out: Path, own: pa.Schema, *, captions: bool = False
) -> Iterator[Callable[[pa.Table], None]]:
    """Yield a function that writes tables of dropped pairs to `drop.parquet` and `drop.csv`.

    Args:
        out: The folder.
        own: Schema of the user's own columns.
        captions: As for `drop_schema`.
    """
    import pyarrow.parquet as pq
    from pyarrow import csv

    schema = drop_schema(own, captions=captions)
    with (
        atomic_file(out / DROP_FILE) as parquet,
        atomic_file(out / CSV_FILE) as text,
        pq.ParquetWriter(parquet, schema, compression="zstd") as writer,
        csv.CSVWriter(text, _in_text(schema.empty_table()).schema) as lines,
    ):

        def write(table: pa.Table) -> None:
            writer.write_table(table)
            lines.write_table(_in_text(table))

        yield write


def drop_schema(own: pa.Schema, *, captions: bool = False) -> pa.Schema:
    """Return the schema of `drop.parquet`: own columns under their own names, then the scan's columns.

    Args:
        own: Schema of the user's own columns. A scan column with the same name gets the prefix `scan_`.
        captions: Whether a row may have several captions, so that a column names the dropped one.
    """
    import pyarrow as pa

    fields, taken = list(own), set(own.names)
    for name, kind in (
        *((("caption", pa.string()),) if captions else ()),
        ("score", pa.float32()),
        ("group", pa.int32()),
        ("reason", pa.string()),
        ("shard", pa.string()),
        ("row", pa.int64()),
    ):
        free = name
        while free in taken:
            free = f"scan_{free}"
        taken.add(free)
        fields.append(pa.field(free, kind))
    return pa.schema(fields)


def _in_text(table: pa.Table) -> pa.Table:
    """Convert a table for CSV, with nested values as JSON."""
    import pyarrow as pa

    def column(place: int) -> Any:
        kind = table.schema.field(place).type
        if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            values = table.column(place).to_pylist()
            texts = [None if each is None else json.dumps(each, default=str) for each in values]
            return pa.array(texts, pa.string())
        return table.column(place)

    places = range(table.num_columns)
    return pa.Table.from_arrays([column(place) for place in places], names=table.column_names)


def own_schema(shards: Sequence[Shard]) -> pa.Schema:
    """Return one schema for the user's own columns of all shards; columns with conflicting types become text.

    Args:
        shards: The shards; unreadable ones are skipped.
    """
    import pyarrow as pa

    def schema_of(shard: Shard) -> Sequence[Any]:
        try:
            return list(shard.schema())
        except ShardError:
            return ()

    found: dict[str, Any] = {}
    # many small requests to a store or disk
    for fields in each(schema_of, shards, remote=True):
        for field in fields:
            known = found.get(field.name, field.type)
            if known != field.type:
                try:
                    both = [pa.schema([pa.field(field.name, kind)]) for kind in (known, field.type)]
                    known = pa.unify_schemas(both, promote_options="permissive")[0].type
                except pa.ArrowException:
                    known = pa.string()
            found[field.name] = known
    return pa.schema([pa.field(name, kind) for name, kind in found.items()])


def scores_schema(*, named: bool) -> pa.Schema:
    """Return the schema of `scores.parquet`, with the columns `NAMES` if `named`."""
    import pyarrow as pa

    kinds = {
        "id": pa.string(),
        "shard": pa.string(),
        "row": pa.int64(),
        "score": pa.float64(),
        "group": pa.int32(),
        "drop": pa.bool_(),
        **(dict.fromkeys(NAMES, pa.string()) if named else {}),
    }
    return pa.schema([pa.field(name, kind) for name, kind in kinds.items()])


def _fitted(own: pa.Table, field: pa.Field, rows: int) -> Any:
    """Convert a column to its type in the common schema, with nulls if a shard lacks it."""
    import pyarrow as pa

    if field.name not in own.schema.names:
        return pa.nulls(rows, field.type)
    column = own[field.name]
    if column.type == field.type:
        return column
    try:
        return column.cast(field.type)
    except pa.ArrowException:
        return pa.array([None if v is None else str(v) for v in column.to_pylist()], pa.string())


MOST_GROUPS = 1000


class ScoreTable:
    """The score table of a scan that embedded the pairs.

    Args:
        result: The result folder of the scan.

    Attributes:
        file: The file.
        score: Score of each pair, NaN if it could not be judged, shape `(N,)`.
        group: Group index of each pair, or `NO_GROUP`, shape `(N,)`.
        drop: Mask of dropped pairs, shape `(N,)`.

    Raises:
        InputError: If the table is missing or invalid.
    """

    def __init__(self, result: Path) -> None:
        self.file = result / SCORES_FILE
        if not self.file.exists():
            raise InputError(
                f"{self.file}: no such file; `mmpoison scan DATA --out {result}` writes it"
            )
        self._table = ParquetRows(DataFile(str(self.file)))
        if missing := {*NAMES, "score", "group", "drop"} - set(self._table.schema().names):
            raise InputError(
                f"{self.file}: has no column {min(missing)!r}: use a scan that embedded the pairs"
            )
        self.score = self._table.numbers("score").astype(np.float64)
        group = self._table.numbers("group")
        self.group = (
            np.where(np.isnan(group), NO_GROUP, group).clip(NO_GROUP, MOST_GROUPS).astype(np.int64)
        )
        self.drop = self._table.numbers("drop") > 0

    def texts(self, rows: npt.NDArray[np.int64]) -> list[tuple[str, str]]:
        """Return name and caption of some rows."""
        table = self._table.table(rows)
        return list(
            zip(table.column("pair").to_pylist(), table.column("caption").to_pylist(), strict=True)
        )
