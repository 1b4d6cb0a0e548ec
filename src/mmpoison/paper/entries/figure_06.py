"""Figure 6: distances of clean and of poisoned pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from mmpoison.paper.draw import densities
from mmpoison.paper.measured import ATTACK_2, Measured, Results
from mmpoison.paper.page import Page
from mmpoison.paper.paper_values import their_data
from mmpoison.paper.registry import entry
from mmpoison.reporting.summary import section
from mmpoison.reporting.table import Cell, Column
from mmpoison.reporting.text import as_number
from mmpoison.statistics import summarize

THEIRS = {"clean pairs": 0.75, "poisoned pairs": 0.85}
"""Centres under CLIP ViT-B/16 on Flickr-PASCAL, section 5."""


@entry(
    "figure-6",
    "Distances of clean and of poisoned pairs under the filter's encoder",
    "attack II with a section filter",
)
def figure_6(results: Results, page: Page) -> None:
    """Densities of one run a data set, that of the smallest seed; centres of all."""
    rows: list[tuple[Cell, ...]] = []
    filtered = results.where(ATTACK_2, model="filtered")
    for data, on_data in filtered.by("data.name"):
        for encoder, judged in on_data.by("run.filter.encoder"):
            found = [
                (row, histogram) for row in judged.rows if (histogram := _histogram(results, row))
            ]
            if not found:
                continue
            shares = {kind: [_centre(h, kind) for _, h in found] for kind in ("clean", "poisoned")}
            used = tuple(row for row, _ in found)
            theirs = dict(THEIRS) if their_data(str(data)) == "flickr-pascal" else {}
            for kind, values in shares.items():
                centre = Measured(summarize(values), used)
                rows.append(
                    (
                        str(data),
                        str(encoder),
                        f"{kind} pairs",
                        len(values),
                        page.cell(centre, theirs.get(f"{kind} pairs")),
                    )
                )
            first, histogram = min(found, key=lambda pair: int(pair[0]["seed"]))
            threshold = as_number(first.get("run.filter.threshold"))
            name = page.id if not page.pictures else f"{page.id}-{len(page.pictures) + 1}"
            shown = _kinds(histogram)
            page.picture(
                name,
                f"{data}: densities of the distances under {encoder}, seed {first['seed']}.",
                partial(densities, shown, threshold, theirs),
            )
    columns = (
        Column("ours on"),
        Column("encoder"),
        Column("pairs"),
        Column("n"),
        Column("median distance"),
    )
    note = (
        "Ours, then the paper's centre under CLIP ViT-B/16: other encoders have other distances; what matters is the "
        "gap."
    )
    page.table(page.title, columns, rows, note)


def _histogram(results: Results, row: dict[str, Any]) -> Mapping[str, Sequence[float]] | None:
    facts = section(section(results.content(row, "metrics.json"), "run"), "filter")
    found = section(facts, "histogram")
    lists = [found.get(key) for key in ("edges", "clean", "poisoned")]
    if not all(isinstance(v, list) and all(as_number(x) is not None for x in v) for v in lists):
        return None
    edges, clean, poisoned = (list(map(float, v)) for v in lists)  # type: ignore[arg-type]
    whole = len(edges) - 1 == len(clean) == len(poisoned) and sum(clean) > 0 < sum(poisoned)
    return {"edges": edges, "clean": clean, "poisoned": poisoned} if whole else None


def _kinds(histogram: Mapping[str, Sequence[float]]) -> list[tuple[str, list[float], list[float]]]:
    edges = list(histogram["edges"])
    kinds = []
    for kind in ("clean", "poisoned"):
        counts = histogram[kind]
        total = sum(counts)
        density = [
            count / total / (high - low) if high > low else 0.0
            for count, low, high in zip(counts, edges, edges[1:], strict=False)
        ]
        kinds.append((f"{kind} pairs ({total:,.0f})", edges, density))
    return kinds


def _centre(histogram: Mapping[str, Sequence[float]], kind: str) -> float:
    """The median, as exactly as bins allow."""
    edges, counts = histogram["edges"], histogram[kind]
    half, below = sum(counts) / 2, 0.0
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        if below + count >= half:
            return low + (high - low) * (half - below) / count
        below += count
    return edges[-1]
