"""Writes the page of a scan of a data set: verdict, groups with examples, histogram of scores, counts of shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmpoison.base.files import atomic_file
from mmpoison.errors import InputError
from mmpoison.records.data_scan import DataScan, ExamplePair, Histogram
from mmpoison.reporting import text as _text
from mmpoison.reporting.figure import canvas, pictures_inside, svg_address, template

SHARDS_SHOWN = 40


def write_scan_page(target: Path, scan: DataScan) -> Path:
    """Write the page: one file, no script, no request, every string escaped.

    Images of the web are links and are not loaded: whoever poisoned the data may own their servers.

    Args:
        target: The file.
        scan: What the scan found.
    """
    figure, missing = None, ""
    if scan.histogram is not None:
        try:
            figure = _histogram(scan.histogram, scan.score_name)
        except InputError as error:
            missing = f"No figure: {error}"
    shown = DataScan.of(_text.clean(scan.to_json()))
    groups = [{"facts": group, "pairs": _shown(group.examples)} for group in shown.groups]
    worst = sorted(shown.shards, key=lambda shard: (-shard.dropped, shard.shard))
    page = template("scan").render(
        scan=shown,
        groups=groups,
        worst=_shown(shown.worst),
        figure=figure,
        missing=missing,
        shards=worst[:SHARDS_SHOWN],
        more_shards=max(0, len(worst) - SHARDS_SHOWN),
    )
    with atomic_file(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return target


def _shown(pairs: Sequence[ExamplePair]) -> list[dict[str, Any]]:
    return [
        {
            "id": pair.id,
            "caption": pair.caption,
            "score": pair.score,
            "link": pair.address if pair.address and _text.is_web_address(pair.address) else None,
            "picture": pictures_inside({"own": pair.picture}).get("own"),
        }
        for pair in pairs
    ]


def _histogram(histogram: Histogram, score_name: str) -> str:
    figure, (axis,) = canvas(1)
    edges = np.asarray(histogram.edges)
    middle, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    for counts, name, style in (
        (histogram.own, "pairs", {"color": "0.2", "linestyle": "-"}),
        (histogram.shuffled, "captions with random images", {"color": "0.55", "linestyle": ":"}),
    ):
        if counts and sum(counts):
            axis.plot(middle, np.asarray(counts) / (sum(counts) * width), label=name, **style)
    axis.set(xlabel=score_name, ylabel="density", ylim=(0, None))
    axis.legend(frameon=False)
    return svg_address(figure)
