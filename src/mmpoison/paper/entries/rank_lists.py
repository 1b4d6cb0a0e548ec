"""Rank lists as pictures: what a few captions bring up before and after."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from textwrap import shorten
from typing import Any

from mmpoison.paper.draw import sheet
from mmpoison.paper.measured import Results
from mmpoison.paper.page import Page
from mmpoison.paper.registry import entry
from mmpoison.paper.thumbnails import pixels
from mmpoison.reporting.summary import RANK_LIST_MODELS, section
from mmpoison.reporting.table import Cell, Column, Link

RUNS = 6
TOP = 8


@entry("rank-lists", "Rank lists of a caption under each model", "runs with rank_lists.json")
def rank_lists(results: Results, page: Page) -> None:
    """The first caption that was drawn, of one run a data set and attack; target images have a thick frame."""
    rows: list[tuple[Cell, ...]] = []
    done: set[tuple[Any, ...]] = set()
    for row in results.where(model="poisoned").rows:
        kind = (row.get("data.name"), row.get("attack.name"))
        if kind in done or len(done) == RUNS:
            continue
        lists = results.content(row, "rank_lists.json")
        queries = lists.get("queries")
        query = queries[0] if isinstance(queries, list) and queries else None
        if not isinstance(query, Mapping):
            continue
        thumbnails, models = section(lists, "thumbnails"), section(query, "models")
        caption = shorten(str(query.get("caption")), 80, placeholder=" …")
        strips = []
        for model in RANK_LIST_MODELS:
            found = models.get(model.key)
            if not isinstance(found, list):
                continue
            ranked = [e for e in found if isinstance(e, Mapping)][:TOP]
            strips.append(
                (
                    f"{model.name}: {caption}",
                    [
                        (
                            pixels(thumbnails, e.get("image")),
                            str(e.get("label") or "–"),
                            e.get("target") is True,
                        )
                        for e in ranked
                    ],
                )
            )
            hits = sum(e.get("target") is True for e in ranked)
            source = page.source_of((row,))
            rows.append(
                (
                    str(kind[0]),
                    str(kind[1]),
                    Link(caption, source),
                    model.name,
                    f"{hits} of {len(ranked)}",
                )
            )
        if strips:
            done.add(kind)
            name = page.id if not page.pictures else f"{page.id}-{len(page.pictures) + 1}"
            page.picture(
                name,
                f"{kind[0]}, {kind[1]}, {row['goal']}, seed {row['seed']}: {caption} Target images have a thick frame.",
                partial(sheet, strips),
            )
    columns = (
        Column("ours on"),
        Column("attack"),
        Column("caption"),
        Column("model"),
        Column(f"target images among the first {TOP}"),
    )
    page.table(page.title, columns, rows)
