"""Writers of small tables in each format, a mapping of columns each."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tests.conftest import write_tar

Columns = Mapping[str, Sequence[Any]]


def write_csv(folder: Path, columns: Columns) -> Path:
    with (folder / "a.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))
    return folder / "a.csv"


def write_parquet(folder: Path, columns: Columns) -> Path:
    pq.write_table(pa.table(dict(columns)), folder / "a.parquet", row_group_size=2)
    return folder / "a.parquet"


def write_arrow(folder: Path, columns: Columns | pa.Table, **state: Any) -> Path:
    """Write what `save_to_disk` of the `datasets` library does, with more of the state."""
    table = columns if isinstance(columns, pa.Table) else pa.table(dict(columns))
    with (
        pa.OSFile(str(folder / "a.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as to,
    ):
        to.write_table(table, max_chunksize=2)
    state = {"_data_files": [{"filename": "a.arrow"}], **state}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder / "a.arrow"


def write_shard(folder: Path, columns: Columns) -> Path:
    members: dict[str, bytes] = {}
    for n, row in enumerate(zip(*columns.values(), strict=True)):
        facts = dict(zip(columns, row, strict=True))
        members |= {f"{n}.jpg": b"x", f"{n}.json": json.dumps(facts).encode()}
    return write_tar(folder / "00000.tar", members)


def write_lines(folder: Path, columns: Columns) -> Path:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    lines = [json.dumps({**row, "captions": [row.pop("caption")]}) for row in rows]
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder / "captions.jsonl"
