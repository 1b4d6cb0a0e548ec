"""Measures how often `suspicious-groups` names a goal in clean sets, at several levels of false alarms.

    python benchmarks/false_alarms.py --sets 200 --first-seed 0 choose.json   # to choose settings on
    python benchmarks/false_alarms.py --sets 200 --first-seed 5 print.json    # to print
    python benchmarks/false_alarms.py --kind real --kind photos --kind titles --root DIR --sets 40 print.json
    python benchmarks/false_alarms.py --fit --sets 0 choose.json    # prints LEVELS of `levels.py`

Sets of seven kinds: independent strays, favourite topics, second objects named, oddly phrased batches (`clean_sets.py`
makes them), random parts of Flickr8k and of all real data, and real images with titles of brands. Sets are spread
over five seeds. A row a set, with
all its groups, goes into the JSON file; a second call with the same file runs what remains.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import typer
from clean_sets import SYNTHETIC, CleanSet, RealSets, synthetic_set
from rows import Row, resumed

from mmpoison.base.untrusted import read_json
from mmpoison.defenses.scan.cut.score_filter import SuspiciousGroups
from mmpoison.defenses.scan.groups.levels import FEWEST_IMAGES
from mmpoison.defenses.scan.read.pass_runner import read_memory
from mmpoison.statistics import clustered_share

LEVELS = (0.001, 0.01, 0.05, 0.1)
FITTED = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
TAIL = 0.05
REAL = ("real", "photos", "titles")
KINDS = (*SYNTHETIC, *REAL)
HARDEST = ("favourites", "second-objects")
"""Kinds whose mistakes go to the same other topic by construction, as poison does."""
SEEDS = 5
NUMBERS = ("false_alarms", "crowded", "strength", "images", "conflicting", "counted", "expected")
"""Of a group, which are kept."""


def measure(make: Callable[[str, int, int], CleanSet], kind: str, seed: int, number: int) -> Row:
    """Scan a clean set, and return what it shows."""
    made = make(kind, seed, number)
    start = time.process_time()
    groups = SuspiciousGroups().score(read_memory(made.shard, seed)).groups or ()
    return {
        **made.about,
        "pairs": len(made.pairs),
        "groups": [{name: getattr(group, name) for name in NUMBERS} for group in groups],
        "seconds": round(time.process_time() - start, 2),
    }


def alarm_rates(rows: Sequence[Row]) -> dict[str, Row]:
    """Return the share of sets with an alarm at each level, by kind, with a 95% interval."""
    found: dict[str, Row] = {}
    for kind in [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]:
        groups = [row["groups"] for row in rows if row["kind"] == kind]
        # the level at which a set first raises an alarm
        levels = np.array([min((g["false_alarms"] for g in each), default=1.0) for each in groups])
        found[kind] = {"sets": len(levels)}
        for level in LEVELS:
            share = clustered_share(levels <= level, np.arange(len(levels)))
            ends = {"": share.value, " from": share.low, " to": share.high}
            found[kind] |= {f"at {level:.1%}{end}": number for end, number in ends.items()}
    return found


def fitted(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """Return the scores that at most some shares of the clean sets of any kind exceed: the worst kind counts.

    Above the largest twentieth of a kind its scores are taken to fall off like a power (Hill's estimator), so that
    levels smaller than one set in all are extrapolated.
    """
    scores = np.arange(0.01, 200, 0.01)
    worst = np.zeros(len(scores))
    for kind in {row["kind"] for row in rows}:
        largest = np.sort([strongest(row) for row in rows if row["kind"] == kind])
        share = 1 - np.searchsorted(largest, scores, side="left") / len(largest)
        border = float(np.quantile(largest, 1 - TAIL))
        tail = largest[largest > border]
        if border > 0 and len(tail):
            power = 1 / np.log(tail / border).mean()
            far = scores > border
            share[far] = len(tail) / len(largest) * (scores[far] / border) ** -power
        worst = np.maximum(worst, share)
    return [
        (round(float(scores[np.argmax(worst <= level)]), 2), level)
        for level in FITTED
        if (worst <= level).any()
    ]


def strongest(row: Row) -> float:
    """Return the largest score of the groups of a set that are large enough to be named."""
    large = (g["strength"] for g in row["groups"] if g["images"] >= FEWEST_IMAGES or g["crowded"])
    return float(max(large, default=0.0))


def main(
    json: Path,
    root: Path | None = None,
    kind: list[str] | None = None,
    sets: int = 200,
    first_seed: int = 5,
    fit: bool = False,
) -> None:
    """Measure, print a table, and write JSON.

    Args:
        json: Write the rows here, or resume.
        root: The folder of the real data, for the kinds real, photos and titles.
        kind: All synthetic ones unless given.
        sets: Of each kind.
        first_seed: The first of five seeds.
        fit: Print the levels that the rows give.
    """
    makers: dict[str, Callable[[str, int, int], CleanSet]] = dict.fromkeys(SYNTHETIC, synthetic_set)
    if wanted := set(kind or ()) & {"real", "titles"}:
        every = RealSets(root or Path())
        makers |= {one: every.draw if one == "real" else every.titled for one in wanted}
    if "photos" in (kind or ()):
        makers["photos"] = RealSets(root or Path(), "flickr8k").draw
    jobs = []
    for number in range(sets):
        for each in kind or SYNTHETIC:
            who = {"kind": each, "seed": first_seed + number % SEEDS, "number": number // SEEDS}
            jobs.append((who, partial(measure, makers[each], **who)))
    if jobs:
        resumed(json, jobs, "kinds", alarm_rates)
    if fit:
        rows = read_json(json)["rows"]
        for name, hard in (("ordinary", False), ("hardest", True)):
            print(name, fitted([row for row in rows if (row["kind"] in HARDEST) == hard]))


if __name__ == "__main__":
    typer.run(main)
