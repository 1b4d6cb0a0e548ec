"""Writes the page of a scan: verdict, groups with examples, score histogram, shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmpoison.base.files import atomic_file
from mmpoison.records.data_scan import DataScan, ExamplePair, Histogram, PlantedCount
from mmpoison.reporting import text as _text
from mmpoison.reporting.figure import Series, pictures_inside, series, template

SHARDS_SHOWN = 40


def write_scan_page(target: Path, scan: DataScan) -> Path:
    """Write the page and return its path: one offline file, with every string escaped.

    Web images are linked, not loaded: an attacker may control their servers.

    Args:
        target: The file.
        scan: The scan record.
    """
    shown = DataScan.of(_text.clean(scan.to_json()))
    groups = [
        {"number": number, "facts": group, "pairs": _shown(group.examples)}
        for number, group in enumerate(shown.groups, 1)
    ]
    worst = sorted(shown.shards, key=lambda shard: (-shard.dropped, shard.shard))
    page = template("scan").render(
        scan=shown,
        groups=groups,
        worst=_shown(shown.worst),
        planted=[(size, _power(size)) for size in shown.planted],
        curves=_curves(shown.histogram) if shown.histogram else {},
        cut=_cut(shown),
        shards=worst[:SHARDS_SHOWN],
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


def _power(size: PlantedCount) -> Series:
    """Return the share of test goals of one size that were found, with its exact interval."""
    from scipy.stats import binomtest  # takes half a second

    interval = binomtest(size.found, size.planted).proportion_ci()
    share = size.found / size.planted
    ends = (interval.low, interval.high)
    return series(f"{_text.count(size.images)} images", [(0, share)], ends)[0]


def _cut(scan: DataScan) -> float | None:
    """Return the position of the cut in the score plot, in percent; None if it is not in it."""
    if scan.cut is None or scan.histogram is None or scan.cut.rule == "false-alarms":
        return None
    low, high = scan.histogram.edges[0], scan.histogram.edges[-1]
    return 100 * (scan.cut.value - low) / (high - low) if low < scan.cut.value < high else None


def _curves(histogram: Histogram) -> dict[str, str]:
    """Return each density as points in a drawing of 100 by 40; dropped pairs are a share of all."""
    edges = np.asarray(histogram.edges)
    densities = {
        name: np.asarray(counts) / (sum(of) * np.diff(edges))
        for name, counts, of in (
            ("pairs", histogram.own, histogram.own),
            ("dropped", histogram.dropped, histogram.own),
            ("shuffled", histogram.shuffled, histogram.shuffled),
        )
        if sum(counts)
    }
    x = 100 * ((edges[1:] + edges[:-1]) / 2 - edges[0]) / (edges[-1] - edges[0])
    top = max((density.max() for density in densities.values()), default=1)
    # a bin with any pairs stays visible
    return dict.fromkeys(("pairs", "dropped", "shuffled"), "") | {
        name: " ".join(
            f"{at:.2f},{40 - 39 * max(y / top, 0.01 * (y > 0)):.2f}"
            for at, y in zip(x, density, strict=True)
        )
        for name, density in densities.items()
    }
