"""The result of a filter: pair scores, suspected goals, and the verdicts of a cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.catalogue import Threshold
from mmpoison.defenses.scan.groups.describe import DescribedGroup
from mmpoison.defenses.scan.read.pieces import Unreadable
from mmpoison.pairs.table import BoolArray, PairDataset
from mmpoison.statistics import Estimate, twice_below

BINS = 60
"""Number of bins of the densities stored with a run."""


NO_GROUP = -1


@dataclass(frozen=True)
class ShardVerdict:
    """A method's verdict on the pairs of one shard.

    Attributes:
        score: Scores, shape `(rows,)`; NaN if a pair could not be judged.
        drop: Mask of the pairs to drop, shape `(rows,)`.
        group: Index of each pair's strongest group, or `NO_GROUP`; shape `(rows,)`. None if there are no groups.
        reason: Reason for each dropped pair, in order; empty texts by default.
    """

    score: npt.NDArray[np.floating[Any]]
    drop: BoolArray
    group: npt.NDArray[np.integer[Any]] | None = None
    reason: Sequence[str] | None = None


@dataclass(frozen=True)
class FilterResult:
    """The verdicts of a filter on the judged pairs.

    Attributes:
        keep: Mask of the pairs to keep, shape `(N,)`.
        scores: Score of each pair, larger is more suspicious; shape `(N,)`.
        cut: The threshold, the rule that chose it, and its expected cost. Pairs with a larger score were dropped, and
            also those of suspected goals.
        method: Name of the defence.
        encoder: Name of the judge.
        poisoned: Whether the manifest marks each pair as poisoned, shape `(N,)`; None without a manifest.
        groups: Suspicious groups in words, the strongest first; None for methods without groups.
        likely: Number of groups called poisoning, whose pairs were dropped.
        judge: AUROC of the judge on true against shuffled pairs of the set, for methods that compare captions with
            images; None if there are too few images.
        unreadable: Unreadable images, whose pairs are left out.
        kept: The set without dropped pairs and unreadable images.
        notes: Further notes for the user.
        method_facts: Further facts from the method, for the log.
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
        """The suspected goals: groups called poisoning."""
        return None if self.groups is None else self.groups[: self.likely]

    @property
    def threshold(self) -> float:
        """The score above which pairs were dropped."""
        return self.cut.value

    def facts(self) -> dict[str, Any]:
        """Return counts for a log, including those that need a manifest if there is one."""
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
    """Return the counts that need a manifest: how much of the poison was dropped.

    Args:
        keep: Mask of the pairs to keep, shape `(N,)`.
        scores: Score of each, shape `(N,)`.
        bad: Mask of poisoned pairs, at least one; shape `(N,)`.
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
    """Return histograms of clean and poisoned scores, for a density figure (figure 6).

    Args:
        scores: Score of each pair, shape `(N,)`.
        poisoned: Whether each is poisoned, shape `(N,)`.
        bins: Number of bins of equal width.

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
    """Return the probability that a positive scores above a negative, in [0, 1]; ties count half.

    >>> auroc(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    return float(twice_below(positive, negative).mean() / 2 / len(negative))


def average_precision(
    positive: npt.NDArray[np.floating[Any]], negative: npt.NDArray[np.floating[Any]]
) -> float:
    """Return the area under the precision-recall curve, in (0, 1]; equal scores are counted together.

    >>> average_precision(np.array([3.0, 1.0]), np.array([2.0]))
    0.8333333333333333
    """
    scores, counts = np.unique(positive, return_counts=True)
    hits = np.cumsum(counts[::-1])[::-1]
    alarms = len(negative) - np.searchsorted(np.sort(negative), scores, side="left")
    return float((counts * hits / (hits + alarms)).sum() / len(positive))
