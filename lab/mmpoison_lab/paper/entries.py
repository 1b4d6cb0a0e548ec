"""The registry of the paper's tables and figures, with how each is built from rows of runs."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from textwrap import shorten
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.images import BrokenImage, read_small_jpeg
from mmpoison.records import ConfusingImage, RankedImage, RankLists
from mmpoison.reporting import RANK_LIST_MODELS, Cell, Column, Link, Results, Row, classes
from mmpoison_lab.paper import figures
from mmpoison_lab.paper.draw import sheet
from mmpoison_lab.paper.figures import Curves
from mmpoison_lab.paper.overview import overview
from mmpoison_lab.paper.page import Page
from mmpoison_lab.paper.paper_values import paper
from mmpoison_lab.paper.tables import TABLES

# -- Draws sheets of images: rank lists and figure 10. The images come from `rank_lists.json`, which is untrusted.


GOALS = 4
"""Number of goals shown in figure 10, those with the largest MinRank."""

RUNS, TOP = 6, 8
"""Numbers of runs shown as rank lists, and of images per list."""

PREFIX = "data:image/jpeg;base64,"
LARGEST = 200_000
SIDE = 512


Strip = tuple[str, list[tuple[npt.NDArray[np.uint8] | None, str, bool]]]
"""A row of images for `sheet`."""


def pixels(lists: RankLists, listed: RankedImage | ConfusingImage) -> npt.NDArray[np.uint8] | None:
    """Decode an image's thumbnail, shape (H, W, 3); None if it is missing, broken or too large."""
    address = lists.thumbnails.get(str(listed.image), "")
    if not address.startswith(PREFIX) or len(address) > LARGEST:
        return None
    try:
        data = base64.b64decode(address.removeprefix(PREFIX), validate=True)
        return read_small_jpeg(data, SIDE)
    except (BrokenImage, binascii.Error):
        return None


def _lists_of(results: Results, row: Row) -> RankLists:
    return RankLists.of(results.content(row, "rank_lists.json"), "rank_lists.json")


def confusing_images(results: Results, page: Page) -> None:
    """Build figure 10: one row per target class, for the goals that are hardest to poison."""
    poisoned = results.where(model="poisoned")
    hardest = sorted(poisoned.rows, key=lambda row: -float(row.get("min_rank") or 0.0))
    rows: list[tuple[Cell, ...]] = []
    shown: list[Strip] = []
    done: set[tuple[Any, Any]] = set()
    for row in hardest:
        target = (row.get("data.name"), row.get("target"))
        if target in done or len(done) == GOALS:
            continue
        lists = _lists_of(results, row)
        found = lists.confusing.get(str(row["goal"]), [])
        if not found:
            continue
        done.add(target)
        _, name = classes(str(row["goal"])) or ("", str(row["goal"]))
        pictures = [(pixels(lists, one), one.label or "no label", False) for one in found]
        shown.append((f"{row.get('data.name')}: found by captions of {name}", pictures))
        source = page.source_of((row,))
        for one in found:
            said = "; ".join(shorten(c, 90, placeholder=" …") for c in one.captions)
            rows.append((name, Link(str(one.image), source), one.label or "–", said or None))
    note = (
        "Images with another label that the clean model ranks first for captions of the target class. Where many of "
        "them look like the class, the poison is a smaller share of what the model learns about it."
    )
    columns = tuple(map(Column, ("target class", "image", "its label", "its captions")))
    page.table(page.title, columns, rows, note)
    if shown:
        page.picture(page.id, page.title + ".", lambda: sheet(shown))


def rank_lists(results: Results, page: Page) -> None:
    """Show the first drawn caption of one run per data set and attack. Target images have a thick frame."""
    rows: list[tuple[Cell, ...]] = []
    done: set[tuple[str, str]] = set()
    for row in results.where(model="poisoned").rows:
        kind = str(row.get("data.name")), str(row.get("attack.name"))
        if kind in done or len(done) == RUNS:
            continue
        lists = _lists_of(results, row)
        strips: list[Strip] = []
        for query in lists.queries[:1]:
            caption = shorten(str(query.caption), 80, placeholder=" …")
            for model in RANK_LIST_MODELS:
                if model.key not in query.models:
                    continue
                ranked = query.models[model.key][:TOP]
                pictures = [(pixels(lists, e), e.label or "–", e.target is True) for e in ranked]
                strips.append((f"{model.name}: {caption}", pictures))
                said = Link(caption, page.source_of((row,)))
                hits = f"{sum(e.target is True for e in ranked)} of {len(ranked)}"
                rows.append((*kind, said, model.name, hits))
        if strips:
            done.add(kind)
            page.picture(
                page.next_picture(),
                f"{kind[0]}, {kind[1]}, {row['goal']}, seed {row['seed']}: {caption} Target images have a thick frame.",
                partial(sheet, strips),
            )
    names = ("measured on", "attack", "caption", "model", f"target images among the first {TOP}")
    page.table(page.title, tuple(map(Column, names)), rows)


Render = Callable[[Results, Page], None]


@dataclass(frozen=True)
class Entry:
    """One table or figure.

    Attributes:
        name: `table-3`, `figure-5a`.
        title: Its title on the page.
        needs: The runs that it needs, for messages.
        render: Adds its tables and figures to a page.
    """

    name: str
    title: str
    needs: str
    render: Render


BY, AFTER = (
    "Hit@10 and MinRank {}.",
    "Hit@10 and MinRank of the attack by number of {} of the repair.",
)
BY_EPOCH, BY_STEP = (partial(figures.by_repair, column=column) for column in ("epoch", "x"))

RENDERERS: dict[str, Render] = {
    **TABLES,
    "figure-1": figures.drift,
    "figure-2": Curves(
        figures.by_rate, "poisoning rate (%)", BY.format("against the poisoning rate")
    ),
    "figure-3": Curves(figures.by_epoch, "epochs", BY.format("after each epoch of one training")),
    "figure-4": Curves(figures.by_encoder, "model", BY.format("for each model"), named=True),
    "figure-5a": Curves(
        figures.by_size, "training pairs", BY.format("against the size of the data")
    ),
    "figure-5b": figures.goal_map,
    "figure-6": figures.distances,
    "figure-7": Curves(BY_EPOCH, "epochs", AFTER.format("epochs")),
    "figure-8": figures.embedding_maps,
    "figure-9": Curves(BY_STEP, "steps", AFTER.format("steps"), log=True),
    "figure-10": confusing_images,
    "rank-lists": rank_lists,
}

PAPER = {
    name: Entry(name, paper()[name]["title"], paper()[name]["needs"], render)
    for name, render in RENDERERS.items()
}
"""The tables and figures by name, in the paper's order, tables first; then the overview."""

PAPER["overview"] = Entry(
    "overview",
    "The paper's numbers and ours",
    "runs of a table that the paper prints",
    partial(overview, RENDERERS),
)
