"""Long measurements of many rows: a row is kept as soon as it is there, so that a second call resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.progress import track

from mmpoison.base.files import write_json
from mmpoison.base.untrusted import read_json
from mmpoison.reporting.table import Column, Table, markdown

Row = dict[str, Any]
KINDS = {"attacks": "attack", "kinds": "kind", "nulls": "null", "repairs": "images of"}
"""Where the JSON of a measurement has its summaries, and what they are of."""


def resumed(
    file: Path,
    jobs: Iterable[tuple[Row, Callable[[], Row]]],
    key: str,
    summary: Callable[[list[Row]], Mapping[str, Row]],
) -> None:
    """Measure the rows that a file does not have, keep all with their summary, and print it.

    Args:
        file: JSON, is made or added to once all rows are there; until then they are next to it, in `.part`.
        jobs: What says which row it is, and what measures the rest of it.
        key: One of `KINDS`.
        summary: Summarises rows, by what the summaries are of.
    """
    part = file.with_suffix(".part")
    kept = [each for each in (part, file) if each.is_file()]
    rows: list[Row] = read_json(kept[0])["rows"] if kept else []
    for who, measure in track(jobs, key):
        if not any(row.items() >= who.items() for row in rows):
            rows.append(who | measure())
            write_json(part, {key: summary(rows), "rows": rows})
    if part.is_file():
        part.replace(file)
    print(markdown([summary_table(file.stem, {key: summary(rows)})]))


def summary_table(title: str, found: Mapping[str, Any]) -> Table:
    """Make a table of the summaries of a measurement, one per line."""
    key, kind = next((key, kind) for key, kind in KINDS.items() if key in found)
    lines = [{kind: name, **group} for name, group in found[key].items()]
    columns = tuple(Column(name.replace("_", " "), 4) for name in lines[0])
    return Table(title, columns, tuple(tuple(line.values()) for line in lines))
