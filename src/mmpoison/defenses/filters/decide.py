"""Turns scores into verdicts by the requested cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import numpy as np
import numpy.typing as npt

from mmpoison.base.option_checks import check_number
from mmpoison.defenses.catalogue import PairFilter
from mmpoison.defenses.cut import Cut, CutOptions, Threshold
from mmpoison.defenses.filter_result import FilterResult, PairScores, SuspectedGoal
from mmpoison.defenses.filters.thresholds import (
    Values,
    automatic_threshold,
    label_threshold,
    loss_threshold,
)
from mmpoison.errors import InputError, ResultError
from mmpoison.metrics import cosine_distance
from mmpoison.pairs.table import BoolArray, IntArray, PairDataset
from mmpoison.statistics import Estimate, true_pair_auroc

if TYPE_CHECKING:  # embeddings that exist are scanned without torch
    from mmpoison.models.dual_encoder import DualEncoder
    from mmpoison.models.inputs import PairInputs, ProgressFor

# -- Tests a judge on the pairs that it judges: are captions closer to their own image than to random other
# images?


Floats = npt.NDArray[np.floating[Any]]

REFUSED_BELOW = 0.7
"""A judge whose AUROC lies below this, with its whole interval, is refused: at 0.74 a loss of 2% caught 14% of the
poison (median of 12 goals, rsicd-ucm)."""

WEAK_BELOW = 0.9
"""A judge whose AUROC is smaller is called weak: at 0.88 to 0.90 the same loss caught 21% and 40%, at 0.92 to 0.95
33% to 59%."""

FEWEST_IMAGES = 30
"""With fewer images nothing is said of the judge."""

MOST_PAIRS = 1024
"""Of more pairs a random choice is tested: the time grows with their square."""


def judge_auroc(text: Floats, image: Floats) -> Estimate | None:
    """Compute the AUROC of a judge: the chance that a true pair is closer than a shuffled one.

    See `statistics.true_pair_auroc`, which counts all shuffled pairs.

    What part of the pairs is poisoned hardly matters: a share s of wrong pairs moves the AUROC from A to about
    A - s (A - 0.5).

    Args:
        text: Unit embeddings of captions, shape `(n, d)`.
        image: Unit embeddings of their images, shape `(n, d)`; the same image may be in several pairs.

    Returns:
        The AUROC in [0, 1] with its 95% interval, where `clusters` counts images; None with fewer than `FEWEST_IMAGES`,
        or if all captions are the same.

    Example:
        >>> one = np.eye(40)
        >>> judge_auroc(one, one).value
        1.0
    """
    return true_pair_auroc(text, image, fewest=FEWEST_IMAGES, most=MOST_PAIRS)


def is_refused(found: Estimate | None) -> bool:
    """Return whether a judge is known to be no better than `REFUSED_BELOW`; None says nothing against it."""
    return found is not None and found.high is not None and found.high < REFUSED_BELOW


def check_judge(found: Estimate | None, method: PairFilter, judge: str) -> None:
    """Refuse a judge that cannot distinguish true from shuffled pairs.

    Args:
        found: AUROC of the judge on the pairs.
        method: Compares captions with images.
        judge: Name of the judge.

    Raises:
        ResultError: If its AUROC is below `REFUSED_BELOW`.
    """
    if found is not None and is_refused(found):
        raise ResultError(
            f"judge {judge!r} cannot distinguish true from shuffled pairs: AUROC {auroc_text(found)} on {found.n:,} "
            f"pairs, 0.5 is guessing, and {method.name} needs {REFUSED_BELOW}; take a model that is aligned on such "
            "images (`mmpoison models list`), or a method that needs none (`--method suspicious-groups`); --force "
            "(force=True) filters by this judge all the same"
        )


def judge_note(found: Estimate) -> str:
    """Describe how well a judge distinguishes true from shuffled pairs, as one line for the user."""
    line = f"judge: distinguishes true from shuffled pairs in {found.value:.1%} of comparisons"
    if found.low is not None and found.high is not None:
        line += f" (95% confidence {found.low:.1%} to {found.high:.1%})"
    if is_refused(found):
        return f"{line}: 50% is guessing, its verdicts say nothing of the pairs"
    if found.value < WEAK_BELOW:
        return f"{line}: a weak judge, which misses much of the poison"
    return line


def auroc_text(found: Estimate) -> str:
    """Return an AUROC with its interval.

    >>> auroc_text(Estimate(500, 100, 0.531, 0.5, 0.56))
    '0.53 (95% confidence 0.50 to 0.56)'
    """
    if found.low is None or found.high is None:
        return f"{found.value:.2f}"
    return f"{found.value:.2f} (95% confidence {found.low:.2f} to {found.high:.2f})"


# -- Distances of captions to images of other pairs: what a caption that does not match looks like.


def mismatched_distances(
    text: Floats, image: Floats, *, count: int = 20_000, seed: int = 0
) -> Floats:
    """Compute the distances of captions to images of other pairs, drawn at random.

    Args:
        text: Unit embeddings of captions, shape `(n, d)`.
        image: Unit embeddings of their images, shape `(n, d)`.
        count: How many are drawn.
        seed: Of the draw.

    Returns:
        Shape `(count,)`; empty where there is only one image, or none.
    """
    if not len(text):
        return np.empty(0, dtype=np.float32)
    rng = np.random.default_rng(seed)
    one = rng.integers(0, len(text), count)
    other = rng.integers(0, len(text), count)
    # the same image may be in several pairs
    differ = (image[one] != image[other]).any(axis=1)
    return np.asarray(cosine_distance(text[one[differ]], image[other[differ]]), dtype=np.float32)


def needs_trusted(method: PairFilter) -> bool:
    """Return whether a cut is measured on trusted clean pairs, if there are any."""
    return method.uses_trusted and method.cut.clean_loss is not None and method.cut.labels is None


def false_alarms(method: PairFilter) -> float | None:
    """Return how often clean data may show a goal that is dropped; None for a method without goals."""
    default = method.default_cut.false_alarms if method.default_cut is not None else None
    return default if method.cut.false_alarms is None else method.cut.false_alarms


def decide(
    method: PairFilter,
    scored: PairScores,
    encoder: str,
    *,
    poisoned: BoolArray | None = None,
    mismatched: Values | None = None,
    judge: Estimate | None = None,
    trusted: Values | None = None,
    trusted_images: IntArray | None = None,
    labelled: tuple[npt.NDArray[np.int64], BoolArray] | None = None,
) -> FilterResult:
    """Turn scores into verdicts by the cut of a method.

    Pairs of significant goals go by every cut, and the cut says which go besides.

    Args:
        method: The method that gave the scores.
        scored: Of the judged pairs.
        encoder: Name of the judge.
        poisoned: What the manifest says of each pair, for counts alone.
        mismatched: Scores of captions with random other images, where they are known, shape `(M,)`.
        judge: AUROC of the judge on true against shuffled pairs, where it was tested.
        trusted: Scores of trusted clean pairs.
        trusted_images: Image of each trusted pair: captions of one image are no independent evidence.
        labelled: For a cut by labels: places of the labelled pairs, and which of them are to be dropped.

    Raises:
        InputError: If nothing would be left.
    """
    scores, cut = scored.scores, method.cut
    keep: BoolArray = np.ones(len(scores), dtype=bool)
    level = false_alarms(method)
    goals: tuple[SuspectedGoal, ...] | None = None
    unproven: tuple[SuspectedGoal, ...] = ()
    if scored.goals is not None and level is not None:
        goals, unproven = _significant(scored.goals, level)
        for goal in goals:
            keep[goal.rows] = False
    gone: BoolArray | None = None
    if cut.threshold is not None:
        chosen = Threshold(cut.threshold, "given")
    elif cut.labels is not None:
        assert labelled is not None
        places, bad = labelled
        chosen = label_threshold(scores, scores[places], bad, cut.clean_loss)
    elif cut.clean_loss is not None and goals is not None:
        chosen, gone = _with_goals(scores, keep, cut.clean_loss)
    elif cut.clean_loss is not None:
        chosen = loss_threshold(scores, cut.clean_loss, trusted=trusted, groups=trusted_images)
    elif cut.automatic and goals is None:
        # by a judge that cannot distinguish them, random pairs look like all others
        chosen = automatic_threshold(scores, None if is_refused(judge) else mismatched)
    else:
        chosen = Threshold(float(scores.max()), "false-alarms")
    keep &= ~gone if gone is not None else scores <= chosen.value
    if not keep.any():
        raise InputError(
            f"threshold {chosen.value:g} drops every pair: scores run from {scores.min():.3f} to {scores.max():.3f}"
        )
    return FilterResult(
        keep,
        scores,
        chosen,
        method.name,
        encoder,
        poisoned,
        goals,
        unproven,
        mismatched,
        judge,
        notes=scored.notes,
        method_facts=scored.facts,
    )


def _significant(
    goals: Sequence[SuspectedGoal], level: float
) -> tuple[tuple[SuspectedGoal, ...], tuple[SuspectedGoal, ...]]:
    """Split goals into those up to a share of false alarms and the others, each sorted by their score."""
    ordered = sorted(goals, key=lambda goal: -goal.score)
    proven = tuple(goal for goal in ordered if goal.false_alarms <= level)
    return proven, tuple(goal for goal in ordered if goal.false_alarms > level)


def _with_goals(scores: Values, keep: BoolArray, share: float) -> tuple[Threshold, BoolArray]:
    """Drop a share of all pairs: those of goals first, then those with the largest scores."""
    first = np.lexsort((-scores, keep))[: round(share * len(scores))]
    gone: BoolArray = np.zeros(len(scores), dtype=bool)
    gone[first] = True
    value = float(scores[first].min() if len(first) else scores.max())
    note = f"the pairs of suspected goals, and those with the largest scores up to {share:.2%} of all pairs, go"
    return Threshold(value, "loss", note=note), gone


# -- The base class of filters: the keywords of the cut, and `apply` for pairs with prepared inputs.


class ScoreFilter(PairFilter):
    """Takes the keywords of the cut, and makes verdicts of the scores that a subclass gives by `score`.

    Args:
        **cut: Where to cut, as `mmpoison.defenses.cut.Cut` explains; the method's own default without any.

    Raises:
        InputError: If the method cannot cut so, or a value is out of range.
    """

    needs_aligned_judge: ClassVar[bool] = False
    streams: ClassVar[bool] = False
    uses_trusted: ClassVar[bool] = False
    finds_groups: ClassVar[bool] = False
    score_name: ClassVar[str] = "score"
    score_range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    default_cut: ClassVar[Cut | None] = None

    def __init__(self, **cut: Unpack[CutOptions]) -> None:
        # without a default an empty cut says what is missing
        self.cut = Cut.of(cut) or self.default_cut or Cut()
        if self.cut.false_alarms is not None and not self.finds_groups:
            raise InputError(
                f"{self.name} finds no groups, which false_alarms (--false-alarms) needs: "
                "it takes threshold, clean_loss, labels or automatic"
            )
        if self.cut.threshold is not None:
            low, high = self.score_range
            within = f"between {low:g} and {high:g}" if math.isfinite(high) else "finite"
            check_number(
                "threshold", self.cut.threshold, f"a {self.score_name} {within}", low, high
            )

    def apply(
        self,
        pairs: PairDataset,
        encoder: DualEncoder,
        inputs: PairInputs,
        *,
        trusted: PairDataset | None = None,
        force: bool = False,
        seed: int = 0,
        progress: ProgressFor | None = None,
    ) -> FilterResult:
        """Judge all of some pairs by inputs that are prepared; `filter_pairs` does it for the training pairs of a set.

        Args:
            pairs: The pairs to judge.
            encoder: The judge.
            inputs: Prepared inputs for the judge, holding all pairs and the trusted ones.
            trusted: Pairs known to be clean, which `clean_loss` is measured on.
            force: Whether a judge that cannot distinguish true from shuffled pairs is used all the same.
            seed: Seed of everything random.
            progress: Gives a progress callback for a named step.

        Raises:
            InputError: If there is no pair, or nothing would be left, or the cut is by labels, which name pairs of a
                whole set.
            ResultError: If the judge cannot distinguish true from shuffled pairs, which the method needs.
        """
        if self.cut.labels is not None:
            raise InputError(
                "labels name pairs of a whole set: mmpoison.defenses.filter_pairs cuts by them"
            )
        if not len(pairs):
            raise InputError("there is no pair to filter")
        scored = self.score(pairs, encoder, inputs, seed=seed, progress=progress)
        tested = (
            judge_auroc(*scored.embeddings)
            if self.needs_aligned_judge and scored.embeddings
            else None
        )
        if not force:
            check_judge(tested, self, encoder.name)
        known = None
        if needs_trusted(self) and trusted is not None and len(trusted):
            known = self.score(trusted, encoder, inputs, seed=seed, progress=progress)
        result = decide(
            self,
            scored,
            encoder.name,
            poisoned=pairs.poisoned if pairs.manifest is not None else None,
            mismatched=mismatched_distances(*scored.embeddings)
            if scored.embeddings and scored.distances
            else None,
            judge=tested,
            trusted=None if known is None else known.scores,
            trusted_images=None if trusted is None else trusted.image,
        )
        return replace(result, kept=pairs.where(result.keep))
