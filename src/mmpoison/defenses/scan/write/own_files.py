"""Writes the lists of a scan of pairs from the user's own files: what stays in kind, what goes with all its columns."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmpoison.datasets.own_rows import GoneRows, KeptKeys, RowVerdicts, table_of_objects
from mmpoison.defenses.scan.read.pieces import PairPieces
from mmpoison.defenses.scan.write.keep_lists import KEEP_FOLDER, KeepList, keep_list
from mmpoison.defenses.scan.write.tables import drop_schema, write_drops
from mmpoison.errors import InputError
from mmpoison.pairs.own_columns import own_values
from mmpoison.pairs.table import BoolArray

if TYPE_CHECKING:
    import pyarrow as pa


def write_own_files(
    pieces: PairPieces, keep: BoolArray, gone: Sequence[pa.Table], folder: Path
) -> tuple[str | None, list[str]]:
    """Write `drop.parquet` and `drop.csv`, and which pairs stay: `kept.*` of a table, lists of keys of tars.

    Args:
        pieces: The set.
        keep: Verdict for each training pair in the order of the stream, shape `(N,)`.
        gone: The training pairs that go, as `write_results` gives them.
        folder: Folder of the results.

    Returns:
        Name of the file or folder that has what stays, None where nothing has; and what a user must know of it.

    Raises:
        InputError: If the source has changed.
    """
    import pyarrow as pa

    sort = None if pieces.data is None else pieces.data.source.sort_rows
    found = pa.concat_tables(gone) if gone else None
    if sort is None or pieces.data is None:
        own = pa.schema([("image", pa.string()), ("caption", pa.string())])
        with write_drops(folder, own) as write:
            if found is not None:
                write(found.drop_columns(["caption_place"]))
        return None, []
    verdicts = _verdicts(pieces, keep)
    parts: list[GoneRows] = []
    keys: KeepList | None = None
    with ExitStack() as stack:
        options = {
            name: value for name, value in pieces.data.options.items() if name != "own_columns"
        }
        for one in sort(pieces.data.place, folder, verdicts, **options):
            if isinstance(one, GoneRows):
                parts.append(one)
                continue
            assert isinstance(one, KeptKeys)
            if keys is None:
                keys = stack.enter_context(keep_list(folder, "key"))
            keys.add(one.shard, one.keys, one.stays)
    _write_gone(parts, verdicts, found, folder)
    notes = [] if keys is None else keys.notes
    written = next(folder.glob("kept*"), None)  # a file with its own ending, or a folder of several
    if written is not None and pieces.manifest is not None:
        shutil.rmtree(written) if written.is_dir() else written.unlink()
        return None, [f"no {written.name}: it would lack the manifest, which --kept DIR writes too"]
    if written is None and (folder / KEEP_FOLDER).exists():
        written = folder / KEEP_FOLDER
    return None if written is None else written.name, notes


def _verdicts(pieces: PairPieces, keep: BoolArray) -> RowVerdicts:
    """Return the verdicts on all pairs: those that were not judged stay."""
    rows, stays = [], []
    start = 0
    for piece in pieces:
        judged = piece.in_split("train")
        stop = start + int(judged.sum())
        mask = ~judged
        mask[judged] = keep[start:stop]
        start = stop
        assert piece.pairs.rows is not None, "pieces have the places of their pairs"
        rows.append(piece.pairs.rows)
        stays.append(mask)
    return RowVerdicts(rows, stays)


def _write_gone(
    parts: Sequence[GoneRows], verdicts: RowVerdicts, found: pa.Table | None, folder: Path
) -> None:
    """Join the rows of the source with what the scan says of them."""
    import pyarrow as pa

    number: dict[tuple[str, int, int], int] = {}
    if found is not None:
        places = (found[name].to_pylist() for name in ("shard", "row", "caption_place"))
        number = {place: at for at, place in enumerate(zip(*places, strict=True))}
    files = verdicts.files
    order = [number.get((files[one.file], *place)) for one in parts for place in one.at.tolist()]
    if None in order or len(order) != len(number):
        raise InputError(
            "the files of the source changed during the scan: stop changing them and scan again"
        )
    own, several = _joined([one.table for one in parts]), verdicts.several
    schema = drop_schema(own.schema, captions=several)
    with write_drops(folder, own.schema, captions=several) as write:
        if found is not None:
            ours = [*(["caption"] if several else []), *drop_schema(pa.schema([])).names]
            said = found.select(ours).take(pa.array(np.array(order, dtype=np.int64)))
            write(pa.Table.from_arrays([*own.columns, *said.columns], schema=schema))


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Put tables together; what a column of several types cannot hold becomes text."""
    import pyarrow as pa

    if not tables:
        return pa.table({})
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException:
        rows = (own_values(row) for table in tables for row in table.to_pylist())
        return table_of_objects(list(rows))
