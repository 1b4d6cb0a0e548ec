"""Draws sheets of images: rank lists, and figure 10. The images are in `rank_lists.json`, which is untrusted."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from functools import partial
from textwrap import shorten
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.images.decode import BrokenImage, read_small_jpeg
from mmpoison.paper.draw import sheet
from mmpoison.paper.measured import Results
from mmpoison.paper.page import Page
from mmpoison.reporting.summary import RANK_LIST_MODELS, classes, section
from mmpoison.reporting.table import Cell, Column, Link

GOALS = 4
"""So many goals are in figure 10, those with the largest MinRank."""

RUNS, TOP = 6, 8
"""So many runs are shown as rank lists, and so many images of each."""

PREFIX = "data:image/jpeg;base64,"
LARGEST = 200_000
SIDE = 512


def pixels(thumbnails: Mapping[str, Any], image: Any) -> npt.NDArray[np.uint8] | None:
    """Decode a thumbnail, shape (H, W, 3); None if it is missing, broken or too large."""
    address = thumbnails.get(str(image))
    if not isinstance(address, str) or not address.startswith(PREFIX) or len(address) > LARGEST:
        return None
    try:
        data = base64.b64decode(address.removeprefix(PREFIX), validate=True)
        return read_small_jpeg(data, SIDE)
    except (BrokenImage, binascii.Error):
        return None


def confusing_images(results: Results, page: Page) -> None:
    """Build figure 10: one row a target class, for the goals that are the hardest to poison."""
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
        found = _mappings(section(lists, "confusing").get(row["goal"]))
        if not found:
            continue
        done.add(target)
        thumbnails = section(lists, "thumbnails")
        _, name = classes(str(row["goal"])) or ("", str(row["goal"]))
        pictures = [
            (pixels(thumbnails, e.get("image")), str(e.get("label") or "no label"), False)
            for e in found
        ]
        shown.append((f"{row.get('data.name')}: found by captions of {name}", pictures))
        source = page.source_of((row,))
        for e in found:
            captions = e.get("captions")
            listed = captions if isinstance(captions, list) else []
            said = "; ".join(shorten(str(c), 90, placeholder=" …") for c in listed)
            image = Link(str(e.get("image")), source)
            rows.append((name, image, str(e.get("label") or "–"), said or None))
    note = (
        "Images labelled otherwise that come first for captions of the target class under the clean model: where many "
        "look like the class, the poison is a smaller share of what the model learns about it."
    )
    columns = tuple(map(Column, ("target class", "image", "its label", "its captions")))
    page.table(page.title, columns, rows, note)
    if shown:
        page.picture(page.id, page.title + ".", lambda: sheet(shown))


def rank_lists(results: Results, page: Page) -> None:
    """Show the first caption that was drawn, of one run a data set and attack; target images have a thick frame."""
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
            if not isinstance(models.get(model.key), list):
                continue
            ranked = _mappings(models[model.key])[:TOP]
            targets = [e.get("target") is True for e in ranked]
            pictures = [
                (pixels(thumbnails, e.get("image")), str(e.get("label") or "–"), target)
                for e, target in zip(ranked, targets, strict=True)
            ]
            strips.append((f"{model.name}: {caption}", pictures))
            said = Link(caption, page.source_of((row,)))
            hits = f"{sum(targets)} of {len(ranked)}"
            rows.append((str(kind[0]), str(kind[1]), said, model.name, hits))
        if strips:
            done.add(kind)
            page.picture(
                page.next_picture(),
                f"{kind[0]}, {kind[1]}, {row['goal']}, seed {row['seed']}: {caption} Target images have a thick frame.",
                partial(sheet, strips),
            )
    names = ("measured on", "attack", "caption", "model", f"target images among the first {TOP}")
    page.table(page.title, tuple(map(Column, names)), rows)


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [e for e in value if isinstance(e, Mapping)] if isinstance(value, list) else []
