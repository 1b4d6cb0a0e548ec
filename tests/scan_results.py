"""Writes what `mmpoison review` reads of a scan, with any scores, verdicts and groups."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

GROUP = {
    "sentence": "captions about sheep",
    "pairs": 2,
    "images": 2,
    "false_alarms": 0.001,
    "grade": "poisoning likely",
    "score": 9.0,
    "why": "31 alike",
    "other_explanations": ["chance"],
}


def write_scan_result(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    *,
    data: str = "pairs",
    data_path: str | None = None,
    groups: Sequence[dict[str, Any]] = (),
    score_name: str = "score",
) -> Path:
    """Write a result.

    Args:
        folder: The folder.
        rows: `pair`, `caption`, `score`, `drop` and `group` (or None) of each pair, in the order of the set.
        data: The set as it was given.
        data_path: Its path from the folder.
        groups: Changes of `GROUP`.
        score_name: What the score is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scan = {
        "source": data,
        "data_path": data_path,
        "format": "pairs-folder",
        "pairs": len(rows),
        "verdict": "poisoning likely",
        "summary": [],
        "score_name": score_name,
        "groups": [{**GROUP, **group} for group in groups],
    }
    (folder / "scan.json").write_text(json.dumps(scan))
    table = {
        "pair": pa.array([row["pair"] for row in rows], pa.string()),
        "image": pa.array([row["pair"].rpartition("#")[0] for row in rows], pa.string()),
        "caption": pa.array([row["caption"] for row in rows], pa.string()),
        "score": pa.array([row["score"] for row in rows], pa.float64()),
        "group": pa.array([row.get("group") for row in rows], pa.int32()),
        "drop": pa.array([row["drop"] for row in rows], pa.bool_()),
    }
    pq.write_table(pa.table(table), folder / "scores.parquet")
    return folder
