"""Turns scores into verdicts by the requested cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.catalogue import PairFilter
from mmpoison.defenses.cut import Threshold
from mmpoison.defenses.filter_result import FilterResult, PairScores, SuspectedGoal
from mmpoison.defenses.filters.judge_test import is_refused
from mmpoison.defenses.filters.thresholds import (
    Values,
    automatic_threshold,
    label_threshold,
    loss_threshold,
)
from mmpoison.errors import InputError
from mmpoison.pairs.table import BoolArray, IntArray
from mmpoison.statistics import Estimate


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
