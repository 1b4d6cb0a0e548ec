"""The result of a filter: scores of pairs, suspected goals, and the verdicts that a cut makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.cut import Threshold
from mmpoison.defenses.scan.groups.describe import DescribedGroup
from mmpoison.defenses.scan.read.pieces import Unreadable
from mmpoison.pairs.table import BoolArray, PairDataset
from mmpoison.statistics import Estimate, twice_below

BINS = 60
"""Bins of the densities that are stored with a run."""


NO_GROUP = -1


@dataclass(frozen=True)
class ShardVerdict:
    """What a method says of the pairs of one shard.

    Attributes:
        score: Shape `(rows,)`; NaN where a pair could not be judged.
        drop: Which pairs go, shape `(rows,)`.
        group: Number of the strongest group of each pair, shape `(rows,)`, `NO_GROUP` where it is in none; None for no
            groups.
        reason: Why a pair goes, one text for each pair that does, in their order; empty texts by default.
    """

    score: npt.NDArray[np.floating[Any]]
    drop: BoolArray
    group: npt.NDArray[np.integer[Any]] | None = None
    reason: Sequence[str] | None = None


@dataclass(frozen=True)
class FilterResult:
    """The verdicts of a filter on the judged pairs.

    Attributes:
        keep: Verdict for each pair, shape `(N,)`.
        scores: Score of each pair, the larger the more suspicious, shape `(N,)`.
        cut: The threshold, what chose it, and what it is expected to cost. Pairs with a larger score were dropped,
            besides those of suspected goals.
        method: Name of the defence.
        encoder: Name of the judge.
        poisoned: What the manifest says of each pair, shape `(N,)`; None where there is no manifest.
        groups: Suspicious groups in words, the strongest first; None by a method that finds none.
        likely: How many of them are called poisoning: their pairs were dropped.
        judge: AUROC of the judge on true against shuffled pairs of the set, by a method that compares captions with
            images; None where there are too few images to say.
        unreadable: Images that could not be read; their pairs are left out.
        kept: All of the set without what was dropped and what could not be read.
        notes: What a user should know besides.
        method_facts: What else the method says, for the log.
    """

    keep: BoolArray
    scores: npt.NDArray[np.floating[Any]]
    cut: Threshold
    method: str
    encoder: str
    poisoned: BoolArray | None = None
    groups: tuple[DescribedGroup, ...] | None = None
    likely: int = 0
    judge: Estimate | None = None
    unreadable: Unreadable = field(default_factory=lambda: Unreadable(0))
    kept: PairDataset | None = None
    notes: Sequence[str] = ()
    method_facts: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        dropped = int((~self.keep).sum())
        goals = f", {len(self.goals)} suspected goals" if self.goals is not None else ""
        return (
            f"FilterResult({self.method}: {dropped:,} of {len(self.keep):,} pairs dropped{goals})"
        )

    @property
    def goals(self) -> tuple[DescribedGroup, ...] | None:
        """The suspected goals: groups that are called poisoning."""
        return None if self.groups is None else self.groups[: self.likely]

    @property
    def threshold(self) -> float:
        """Pairs with a score above it were dropped."""
        return self.cut.value

    def facts(self) -> dict[str, Any]:
        """Return the counts for a log; those that need the manifest only where there is one."""
        bad = self.poisoned
        facts: dict[str, Any] = {
            "method": self.method,
            "encoder": self.encoder,
            "threshold": round(self.threshold, 6),
            "pairs": len(self.keep),
            "dropped_pairs": int((~self.keep).sum()),
        }
        if bad is not None and bad.any():
            facts |= known_facts(self.keep, self.scores, bad)
        if self.judge is not None:
            facts["judge_auroc"] = self.judge.to_json()
        if self.goals is not None:
            facts["suspected_goals"] = [goal.to_json() for goal in self.goals]
        return facts | dict(self.method_facts) | self.unreadable.facts()


def known_facts(
    keep: BoolArray, scores: npt.NDArray[np.floating[Any]], bad: BoolArray
) -> dict[str, Any]:
    """Return the counts that need the manifest: how much of the poison was dropped.

    Args:
        keep: Verdict for each pair, shape `(N,)`.
        scores: Score of each, shape `(N,)`.
        bad: Which are poisoned, shape `(N,)`; some are.
    """
    facts: dict[str, Any] = {"clean_dropped": int((~keep & ~bad).sum())}
    if not bad.all():
        facts["clean_dropped_share"] = float((~keep[~bad]).mean())
    facts["poisoned_caught"] = int((~keep & bad).sum())
    facts["poisoned_total"] = int(bad.sum())
    if not bad.all():
        facts["auroc"] = auroc(scores[bad], scores[~bad])
        facts["average_precision"] = average_precision(scores[bad], scores[~bad])
        facts["histogram"] = histogram(scores, bad)
    return facts


def histogram(
    scores: npt.NDArray[np.floating[Any]], poisoned: BoolArray, bins: int = BINS
) -> dict[str, list[float]]:
    """Return how many clean and poisoned pairs have each score, for a figure of densities (figure 6).

    Args:
        scores: Score of each pair, shape `(N,)`.
        poisoned: Whether each is poisoned, shape `(N,)`.
        bins: How many bins of equal width.

    Returns:
        `edges`, one more than bins, and the counts `clean` and `poisoned`.

    Example:
        >>> histogram(np.array([0.5, 0.6, 0.9]), np.array([False, False, True]), bins=2)
        {'edges': [0.5, 0.7, 0.9], 'clean': [2, 0], 'poisoned': [0, 1]}
    """
    edges = np.linspace(float(scores.min()), float(scores.max()), bins + 1)
    return {
        "edges": [round(float(edge), 5) for edge in edges],
        "clean": np.histogram(scores[~poisoned], edges)[0].tolist(),
        "poisoned": np.histogram(scores[poisoned], edges)[0].tolist(),
    }


def auroc(
    positive: npt.NDArray[np.floating[Any]], negative: npt.NDArray[np.floating[Any]]
) -> float:
    """Return the probability that a positive scores above a negative, ties counted half, in [0, 1].

    >>> auroc(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    return float(twice_below(positive, negative).mean() / 2 / len(negative))


def average_precision(
    positive: npt.NDArray[np.floating[Any]], negative: npt.NDArray[np.floating[Any]]
) -> float:
    """Return the area under the curve of precision against recall, in (0, 1]; equal scores are counted together.

    >>> average_precision(np.array([3.0, 1.0]), np.array([2.0]))
    0.8333333333333333
    """
    scores, counts = np.unique(positive, return_counts=True)
    hits = np.cumsum(counts[::-1])[::-1]
    alarms = len(negative) - np.searchsorted(np.sort(negative), scores, side="left")
    return float((counts * hits / (hits + alarms)).sum() / len(positive))
