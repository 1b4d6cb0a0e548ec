"""The result of a filter: scores of pairs, suspected goals, and the verdicts that a cut makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.base.phrasing import count_of
from mmpoison.defenses.cut import Threshold
from mmpoison.defenses.group_levels import RAREST
from mmpoison.defenses.unreadable import Unreadable
from mmpoison.pairs.table import BoolArray, PairDataset
from mmpoison.reporting.filter_page import distance_figure
from mmpoison.reporting.text import percent
from mmpoison.statistics import Estimate, twice_below

BINS = 60
"""Bins of the densities that are stored with a run."""


_MISTAKES = (
    "images that show both things, described by one of them",
    "two kinds that annotators confuse",
    "captions that an error joined to other images, such as shifted rows",
)


@dataclass(frozen=True)
class SuspectedGoal:
    """Captions of one kind on images of another kind, more often than clean data explain.

    Attributes:
        captions_about: Words that set its captions apart from the others.
        images_about: Words that set the other captions of its images apart.
        rows: Its pairs, as rows of the judged set.
        images: How many images they are on.
        found: How many of its images conflict with their captions.
        counted: Of how many; captions of an image with far too many count as images of their own.
        expected: How many of them would conflict without poison: as often as captions and images like these elsewhere.
        false_alarms: Share of ordinary clean sets that have a group as strong, in (0, 1]; 1 where that is not known.
        hardest: The same share of the hardest kind of clean sets, whose mistakes have favourites as poison has.
        score: How strong it is; ranks goals.
        example_captions: Its most frequent captions.
        example_images: Ids of images that they are on.
        crowded: Whether they are on one image with far more captions than others (attack I).
    """

    captions_about: tuple[str, ...]
    images_about: tuple[str, ...]
    rows: npt.NDArray[np.intp]
    images: int
    found: int
    counted: int
    expected: float
    false_alarms: float
    hardest: float
    score: float
    example_captions: tuple[str, ...]
    example_images: tuple[str, ...]
    crowded: bool = False

    @property
    def why(self) -> str:
        """What is suspicious about it, as a clause."""
        what = "captions on one image" if self.crowded else "images"
        return (
            f"{self.found:,} of {self.counted:,} {what} conflict with what similar images are captioned with; by the "
            f"captions and images that are like these elsewhere it would be {self.expected:.0f}"
        )

    @property
    def other_explanations(self) -> tuple[str, ...]:
        """What else than poison could explain it, the likeliest first."""
        if self.crowded:
            return ("a placeholder image or a popular one, posted with many texts", _MISTAKES[-1])
        return _MISTAKES

    @property
    def what(self) -> str:
        """What is suspected, without how often clean data show as much."""
        captions, images = (
            ", ".join(words) or "?" for words in (self.captions_about, self.images_about)
        )
        size = f"{count_of(len(self.rows), 'pair')} on {count_of(self.images, 'image')}"
        return f"captions about {captions} paired with images of {images}: {size}"

    @property
    def rarity(self) -> str:
        """How often clean data show a group as strong, as a clause."""
        return (
            f"as strong in {_rarely(self.false_alarms)} of ordinary clean sets, and in {_rarely(self.hardest)} of sets "
            "with systematic mislabelling"
        )

    def __str__(self) -> str:
        return f"{self.what} ({self.rarity})"

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a file."""
        return {
            "sentence": str(self),
            "captions_about": list(self.captions_about),
            "images_about": list(self.images_about),
            "pairs": len(self.rows),
            "images": self.images,
            "false_alarms": self.false_alarms,
            "false_alarms_hardest": self.hardest,
            "why": self.why,
            "other_explanations": list(self.other_explanations),
            "score": round(self.score, 2),
            "conflicting": self.found,
            "expected": round(self.expected, 2),
            "example_captions": list(self.example_captions),
            "example_images": list(self.example_images),
        }


def _rarely(share: float) -> str:
    return f"at most {percent(share)}" if share < 1.01 * RAREST else percent(share)


@dataclass(frozen=True)
class PairScores:
    """The scores and suspected goals that a method gives to pairs, before the cut.

    Attributes:
        scores: One number a pair, the larger the more suspicious, finite, shape `(N,)`.
        embeddings: Unit embeddings of the captions and of the images of the pairs, both `(N, d)`, by a method that
            compares them: the judge is tested on them.
        goals: Suspected goals with how often clean data show as much, by a method that finds groups.
        facts: What else the report says of the method.
        notes: What a user should know, a line each.
        distances: Whether the score is one minus the cosine of the embeddings: the automatic cut then sees how captions
            score with random other images.
    """

    scores: npt.NDArray[np.floating[Any]]
    embeddings: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = None
    goals: tuple[SuspectedGoal, ...] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    distances: bool = True


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
        goals: Suspected goals, whose pairs were dropped, the most significant first; None by a method that finds none.
        unproven: Suspected goals that are not significant, the strongest first, for further inspection.
        mismatched: Scores of captions with random other images, shape `(M,)`, where they are known.
        judge: AUROC of the judge on true against shuffled pairs of the set, by a method that compares captions with
            images; None where there are too few images to say.
        unreadable: Images that could not be read; their pairs are left out.
        kept: For a set in memory: all of it without what was dropped and what could not be read.
        out: The folder that was written, if any.
        new_pairs: Pairs that were embedded now; the others were known from an earlier scan.
        notes: What a user should know besides.
        method_facts: What else the method says, for the log.
    """

    keep: BoolArray
    scores: npt.NDArray[np.floating[Any]]
    cut: Threshold
    method: str
    encoder: str
    poisoned: BoolArray | None = None
    goals: tuple[SuspectedGoal, ...] | None = None
    unproven: tuple[SuspectedGoal, ...] = ()
    mismatched: npt.NDArray[np.floating[Any]] | None = None
    judge: Estimate | None = None
    unreadable: Unreadable = field(default_factory=lambda: Unreadable(0))
    kept: PairDataset | None = None
    out: Path | None = None
    new_pairs: int = 0
    notes: Sequence[str] = ()
    method_facts: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        dropped = int((~self.keep).sum())
        goals = f", {len(self.goals)} suspected goals" if self.goals is not None else ""
        return (
            f"FilterResult({self.method}: {dropped:,} of {len(self.keep):,} pairs dropped{goals})"
        )

    @property
    def threshold(self) -> float:
        """Pairs with a score above it were dropped."""
        return self.cut.value

    @property
    def most_suspicious(self) -> npt.NDArray[np.int64]:
        """All pairs, the most suspicious first, shape `(N,)`: dropped ones before the others, then by score."""
        return np.lexsort((-self.scores, self.keep))

    def plot(self) -> Any:
        """Draw the densities of the scores with the threshold; clean and poisoned pairs apart where a manifest says.

        Returns:
            A figure of matplotlib, which a notebook shows.

        Raises:
            InputError: If the extra `figures` is missing.
        """
        return distance_figure(
            self.scores,
            self.threshold,
            poisoned=self.poisoned,
            mismatched=self.mismatched,
            score_name=f"score of a pair ({self.method})",
        )

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
            facts |= _known_facts(self.keep, self.scores, bad)
        if self.judge is not None:
            facts["judge_auroc"] = self.judge.to_json()
        if self.goals is not None:
            facts["suspected_goals"] = [goal.to_json() for goal in self.goals]
        return facts | dict(self.method_facts) | self.unreadable.facts()


def _known_facts(
    keep: BoolArray, scores: npt.NDArray[np.floating[Any]], bad: BoolArray
) -> dict[str, Any]:
    """Return the counts that need the manifest: how much of the poison was dropped."""
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


def recall_at(
    positive: npt.NDArray[np.floating[Any]], negative: npt.NDArray[np.floating[Any]], lost: float
) -> float:
    """Return the share of positives above the scores of all but a share of the negatives, in [0, 1].

    Args:
        positive: Scores of the poisoned pairs, shape `(n,)`.
        negative: Scores of the clean pairs, shape `(m,)`.
        lost: Share of the clean pairs that may be lost, in [0, 1].

    >>> recall_at(np.array([3.0, 9.0]), np.arange(11.0), lost=0.2)
    0.5
    """
    return float((positive > np.quantile(negative, 1 - lost)).mean())
