"""Puts what a scan found into a verdict, in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmpoison.base.phrasing import count_of
from mmpoison.defenses.filter_result import SuspectedGoal
from mmpoison.defenses.filters.suspicious_groups import PlantedSize
from mmpoison.records.data_scan import Verdict
from mmpoison.reporting.text import percent
from mmpoison.statistics import Estimate

ALIGNED = 0.9
"""From this AUROC on true against shuffled pairs a distance says something of a single pair."""

FEWEST_PAIRS = 200
"""Of fewer pairs no group is said to be unusual: no clean set of that size was measured."""


PLANTED_FROM = 500
"""Into fewer pairs no goals are planted: the smallest would be more than 2% of them."""


@dataclass(frozen=True)
class Finding:
    """What a scan found, for `verdict_of`.

    Attributes:
        pairs: Pairs that were scanned.
        goals: Suspected goals, significant ones alone.
        weak: Groups that clean data show as well.
        planted: What the scan finds of goals that were planted as a test.
        sample: In how many pairs they were planted.
        judge: AUROC of true against shuffled pairs; None where it was not measured.
        level: How often clean sets show a group that is called significant.
        out_of_order: Whether captions and images of some shard do not belong together.
    """

    pairs: int
    goals: Sequence[SuspectedGoal]
    weak: Sequence[SuspectedGoal] = ()
    planted: Sequence[PlantedSize] = ()
    sample: int = 0
    judge: Estimate | None = None
    level: float = 0.01
    out_of_order: bool = False


def verdict_of(found: Finding) -> tuple[Verdict, list[str]]:
    """Return the verdict, and it in words: what was found, how sure that is, and what would have been found."""
    if found.out_of_order:
        return "cannot be decided", [
            "The embeddings of captions and of images are not in the same order in some shards: nothing that is "
            "computed from them means anything. Join them again by id, and scan again."
        ]
    if found.pairs < FEWEST_PAIRS:
        return "cannot be decided", [
            f"{count_of(found.pairs, 'pair')} are too few: look at them yourself. From {FEWEST_PAIRS} pairs on a scan "
            "can say whether a group is unusual."
        ]
    if found.goals:
        pairs = len({int(row) for goal in found.goals for row in goal.rows})
        lines = [
            f"{count_of(len(found.goals), 'suspected goal')}: {count_of(pairs, 'pair')}, "
            f"{percent(pairs / found.pairs)} of all."
        ]
        strongest = min(goal.false_alarms for goal in found.goals)
        lines.append(
            f"How sure: {percent(strongest)} of clean data sets show a group as strong as the strongest one here. A "
            "group can be an honest mistake too: look at the pairs."
        )
        return "possible poisoning", lines
    if not found.planted:
        return "cannot be decided", [
            "No group of pairs is unusual, but what this scan would have found was not measured, so that says little: "
            f"scan at least {PLANTED_FROM} pairs, without --no-planted."
        ]
    if not any(size.found for size in found.planted):
        return "cannot be decided", [
            f"No group of pairs is unusual, but this scan is blind here. {would_have_found(found)}"
        ]
    return "no sign of poisoning", [f"No group of pairs is unusual. {would_have_found(found)}"]


def would_have_found(found: Finding) -> str:
    """Say in a sentence what the scan finds of planted goals, at least one.

    >>> sizes = [PlantedSize(10, 6, 1), PlantedSize(50, 6, 6)]
    >>> would_have_found(Finding(100_000, (), planted=sizes, sample=5000))
    'Would have found, of goals planted into 5,000 of these pairs: 1 of 6 with 10 pairs, 6 of 6 with 50 pairs.'
    """
    sizes = ", ".join(
        f"{one.found} of {one.planted} with {one.pairs} pairs" for one in found.planted
    )
    return f"Would have found, of goals planted into {found.sample:,} of these pairs: {sizes}."


def next_steps(
    verdict: Verdict,
    *,
    keep_file: str | None,
    dropped: int,
    distance: bool,
    singles: bool,
    embedded: bool,
) -> list[str]:
    """Say what to do with the result.

    Args:
        verdict: The verdict.
        keep_file: Name of the file or folder that lists what stays, if it was written.
        dropped: How many pairs are not on it.
        distance: Whether distances of single pairs mean something.
        singles: Whether single pairs are dropped already.
        embedded: Whether embeddings were given.
    """
    if verdict == "cannot be decided":
        return []
    steps = []
    if verdict == "possible poisoning":
        steps.append(
            "Look at the examples below, and at all pairs of a goal in drop.parquet (column group)."
        )
    if dropped and keep_file:
        steps.append(
            f"Train on the pairs that {keep_file} lists: {count_of(dropped, 'pair')} are not on it."
        )
    if distance and not singles:
        steps.append(
            "To be safer, drop single pairs too whose image and caption do not match: run again with --lose 0.02."
        )
    elif not distance:
        known, remedy = (
            ("these embeddings do", "Scan with those of a CLIP.")
            if embedded
            else ("this encoder does", "Scan with --encoder and a CLIP.")
        )
        steps.append(
            f"Single false pairs are not seen: {known} not tell matching captions from others. {remedy}"
        )
    if verdict == "no sign of poisoning":
        steps.append(
            "This is no proof: captions that match their images, and goals smaller than those above, are not seen."
        )
    return steps
