"""How often `suspicious-groups` names a goal in clean sets, at several levels of false alarms.

    python benchmarks/false_alarms.py --sets 200 --first-seed 0 --json choose.json   # to choose settings on
    python benchmarks/false_alarms.py --sets 200 --first-seed 5 --json print.json    # to print
    python benchmarks/false_alarms.py --kind real --root DIR --sets 200 --json print.json
    python benchmarks/false_alarms.py --fit --sets 0 --json choose.json    # prints LEVELS of `_level.py`

Sets of five kinds: independent strays, favourite topics, second objects named, oddly phrased batches (`clean_sets.py`
makes these four), and random parts of real data (`real_sets.py`). Sets are spread over five seeds. A row a set, with
all its groups, goes into the JSON file; a second call with the same file runs what remains.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from clean_sets import SYNTHETIC, CleanSet, synthetic_set
from real_sets import RealSets
from rich.console import Console

from mmpoison.api.progress import console_progress
from mmpoison.base.files import write_json
from mmpoison.defenses.filter_result import FEWEST_IMAGES, SuspectedGoal
from mmpoison.defenses.filters.suspicious_groups import SuspiciousGroups
from mmpoison.statistics import clustered_share

LEVELS = (0.001, 0.01, 0.05, 0.1)
FITTED = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
TAIL = 0.05
REAL = "real"
KINDS = (*SYNTHETIC, REAL)
SEEDS = 5
WRITE_EVERY = 10


def measure(made: CleanSet, seed: int) -> dict[str, Any]:
    """Scan a clean set, and return what it shows."""
    start = time.process_time()
    goals = SuspiciousGroups().score_views(made.pairs, made.views, seed=seed).goals or ()
    return {
        **made.about,
        "pairs": len(made.pairs),
        "groups": [numbers(goal) for goal in goals],
        "seconds": round(time.process_time() - start, 2),
    }


def numbers(goal: SuspectedGoal) -> dict[str, Any]:
    """Return the plain numbers of a group."""
    found: dict[str, Any] = {
        "false_alarms": goal.false_alarms,
        "crowded": goal.crowded,
        "score": goal.score,
        "pairs": len(goal.rows),
        "images": goal.images,
        "found": goal.found,
        "expected": goal.expected,
    }
    if goal.false_alarms <= LEVELS[-1]:
        found["sentence"] = str(goal)
    return found


def smallest(row: dict[str, Any]) -> float:
    """Return the level at which a set first raises an alarm."""
    return min((group["false_alarms"] for group in row["groups"]), default=1.0)


def alarm_rates(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the share of sets with an alarm at each level, by kind, with a 95% interval."""
    found: dict[str, dict[str, Any]] = {}
    for kind in [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]:
        levels = np.array([smallest(row) for row in rows if row["kind"] == kind])
        found[kind] = {"sets": len(levels)}
        for level in LEVELS:
            share = clustered_share(levels <= level, np.arange(len(levels)))
            found[kind] |= {
                f"at {level:.1%}": share.value,
                f"at {level:.1%} from": share.low,
                f"at {level:.1%} to": share.high,
            }
    return found


def fitted(rows: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
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


def strongest(row: dict[str, Any]) -> float:
    """Return the largest score of the groups of a set that are large enough to be named."""
    large = (group["score"] for group in row["groups"] if is_large(group))
    return float(max(large, default=0.0))


def is_large(group: dict[str, Any]) -> bool:
    """Return whether a group may be named at all."""
    return bool(group["images"] >= FEWEST_IMAGES or group["crowded"])


def show(rates: Mapping[str, dict[str, Any]]) -> None:
    """Print a table, one line a kind."""
    names = [f"at {level:.1%}" for level in LEVELS]
    print("kind            sets  " + "".join(f"{name:>22}" for name in names))
    for kind, rate in rates.items():
        cells = (
            f"{rate[name]:.1%} ({rate[f'{name} from']:.1%}-{rate[f'{name} to']:.1%})"
            for name in names
        )
        print(f"{kind:<16}{rate['sets']:>4}  " + "".join(f"{cell:>22}" for cell in cells))


def main() -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--kind", choices=KINDS, action="append", help="All synthetic ones unless given."
    )
    parser.add_argument("--sets", type=int, default=200, help="Of each kind.")
    parser.add_argument("--first-seed", type=int, default=5, help="The first of five seeds.")
    parser.add_argument("--root", type=Path, help="The folder of the real data, for the kind real.")
    parser.add_argument("--json", type=Path, required=True, help="Write the rows here, or resume.")
    parser.add_argument("--fit", action="store_true", help="Print the levels that the rows give.")
    options = parser.parse_args()

    kinds: list[str] = options.kind or list(SYNTHETIC)
    rows: list[dict[str, Any]] = (
        json.loads(options.json.read_text())["rows"] if options.json.exists() else []
    )
    done = {(row["kind"], row["seed"], row["number"]) for row in rows}
    make: Callable[[str, int, int], CleanSet] = synthetic_set
    if REAL in kinds:
        real = RealSets(options.root)
        make = lambda kind, seed, number: (  # noqa: E731
            real.draw(seed, number) if kind == REAL else synthetic_set(kind, seed, number)
        )
    wanted = [
        (kind, options.first_seed + number % SEEDS, number // SEEDS)
        for number in range(options.sets)
        for kind in kinds
    ]
    remaining = [one for one in wanted if one not in done]
    with console_progress(Console(stderr=True)) as progress:
        update = progress.progress("clean sets")
        for count, (kind, seed, number) in enumerate(remaining, start=1):
            row = {"kind": kind, "seed": seed, "number": number}
            rows.append(row | measure(make(kind, seed, number), seed))
            if count % WRITE_EVERY == 0 or count == len(remaining):
                write_json(options.json, {"kinds": alarm_rates(rows), "rows": rows})
            update(count, len(remaining))
    show(alarm_rates(rows))
    if options.fit:
        print(fitted(rows))


if __name__ == "__main__":
    main()
