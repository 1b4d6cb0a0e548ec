"""Figure 10: images that look like the target class and are labelled as another: the case study."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import shorten
from typing import Any

from mmpoison.paper.draw import sheet
from mmpoison.paper.measured import Results
from mmpoison.paper.page import Page
from mmpoison.paper.registry import entry
from mmpoison.paper.thumbnails import pixels
from mmpoison.reporting.summary import classes, section
from mmpoison.reporting.table import Cell, Column, Link

GOALS = 4
"""So many goals are shown, those with the largest MinRank."""


@entry(
    "figure-10",
    "Images of other classes that captions of the target class find",
    "runs with rank_lists.json",
)
def figure_10(results: Results, page: Page) -> None:
    """One row a target class, for the goals that are the hardest to poison."""
    poisoned = results.where(model="poisoned")
    hardest = sorted(poisoned.rows, key=lambda row: -float(row.get("min_rank") or 0.0))
    rows: list[tuple[Cell, ...]] = []
    shown = []
    done: set[tuple[Any, Any]] = set()
    for row in hardest:
        target = (row.get("data.name"), row.get("target"))
        if target in done or len(done) == GOALS:
            continue
        lists = results.content(row, "rank_lists.json")
        found = _entries(section(lists, "confusing").get(row["goal"]))
        if not found:
            continue
        done.add(target)
        thumbnails = section(lists, "thumbnails")
        pair = classes(str(row["goal"])) or (str(row["goal"]), str(row["goal"]))
        shown.append(
            (
                f"{row.get('data.name')}: found by captions of {pair[1]}",
                [
                    (pixels(thumbnails, e.get("image")), str(e.get("label") or "no label"), False)
                    for e in found
                ],
            )
        )
        source = page.source_of((row,))
        for e in found:
            captions = e.get("captions") if isinstance(e.get("captions"), list) else []
            said = "; ".join(shorten(str(c), 90, placeholder=" …") for c in captions or [])
            rows.append(
                (
                    pair[1],
                    Link(str(e.get("image")), source),
                    str(e.get("label") or "–"),
                    said or None,
                )
            )
    columns = (Column("target class"), Column("image"), Column("its label"), Column("its captions"))
    note = (
        "Images labelled otherwise that come first for captions of the target class under the clean model: where many "
        "look like the class, the poison is a smaller share of what the model learns about it."
    )
    page.table(page.title, columns, rows, note)
    if shown:
        page.picture(page.id, page.title + ".", lambda: sheet(shown))


def _entries(value: Any) -> list[Mapping[str, Any]]:
    return [e for e in value if isinstance(e, Mapping)] if isinstance(value, list) else []
