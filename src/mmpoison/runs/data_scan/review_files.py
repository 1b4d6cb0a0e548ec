"""Writes what `mmpoison review` reads, where the pairs themselves were scanned: a verdict and a goal for each pair."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmpoison.base.files import write_json
from mmpoison.defenses.filters.filtered_folder import (
    FACTS_FILE,
    GOALS_FILE,
    REPORT_FOLDER,
    VERDICTS_FILE,
    data_pointer,
    verdict_line,
)
from mmpoison.defenses.unreadable import write_unreadable
from mmpoison.embedded.results import NO_GROUP, ShardVerdict
from mmpoison.embedded.source import Shard


def write_review_files(
    folder: Path,
    verdicts: Iterable[tuple[Shard, ShardVerdict]],
    *,
    data: str,
    out: Path,
    score_name: str,
    goals: Sequence[Mapping[str, Any]],
    unreadable: Mapping[str, str],
) -> None:
    """Write `verdicts.jsonl`, `suspected-goals.json` and `filter-report/filter.json`, as a filter does.

    Args:
        folder: The folder of the scan, before it gets its name.
        verdicts: Shards whose tables have the columns `pair`, `image` and `caption`, with the verdicts on their pairs.
        data: The set as it was given.
        out: The folder's name.
        score_name: What the score of a pair is.
        goals: The suspected goals as JSON values.
        unreadable: Images that cannot be read, and why; their pairs have no verdict.
    """
    with (folder / VERDICTS_FILE).open("w", encoding="utf-8") as stream:
        for shard, verdict in verdicts:
            table = shard.table(np.arange(len(verdict.score))).to_pylist()
            group = verdict.group if verdict.group is not None else np.full(len(table), NO_GROUP)
            for row, own in enumerate(table):
                if own["image"] in unreadable:
                    continue
                score = float(verdict.score[row])
                line = verdict_line(
                    own["pair"],
                    own["image"],
                    own["caption"],
                    score if np.isfinite(score) else 0.0,
                    keep=not bool(verdict.drop[row]),
                    goal=None if group[row] == NO_GROUP else int(group[row]),
                )
                stream.write(json.dumps(line) + "\n")
    write_json(folder / GOALS_FILE, {"goals": list(goals), "not_significant": []})
    (folder / REPORT_FOLDER).mkdir()
    facts = {"data": data, "score_name": score_name, **data_pointer(data, out)}
    write_json(folder / REPORT_FOLDER / FACTS_FILE, facts)
    write_unreadable(folder, unreadable)
