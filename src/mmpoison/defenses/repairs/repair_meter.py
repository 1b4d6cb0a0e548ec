"""Measures a running repair on held-out clean pairs: lost utility, and whether known goals are gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmpoison.attacks.settings import Goal
from mmpoison.base.seeding import generator
from mmpoison.errors import InputError
from mmpoison.evaluation.rows import probed_test, utility_row
from mmpoison.evaluation.test_set import GoalTarget, TestEmbeddings, TestSet, drift_between
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs
from mmpoison.pairs.table import PairDataset
from mmpoison.records.run_files import ProbeRecord, Utility
from mmpoison.training.log import DivergedError

MOST_HELD_OUT = 1000
FEWEST_HELD_OUT = 20
"""Minimum number of held-out images. With fewer, a single hit or miss decides everything."""

NOT_SHOWN = "This does not show that the poison is gone."

GONE_MARGIN = 0.05
"""A canary goal counts as gone if its captions find the target at most this much more often than others."""


@dataclass(frozen=True)
class RepairRule:
    """The rule that accepts or refuses a repaired model. It does not need to know the goal.

    Attributes:
        max_utility_loss: Largest loss of held-out Hit@K, in either retrieval direction, for a model to be saved.
        canary_goals: Goals known to be in the suspect, which then decide the choice.
        every: Also probe after every N steps.

    Raises:
        InputError: If a number is out of range.
    """

    max_utility_loss: float = 0.02
    canary_goals: tuple[Goal, ...] = ()
    every: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.max_utility_loss <= 1:
            raise InputError(f"max_utility_loss {self.max_utility_loss} is not between 0 and 1")
        if self.every is not None and self.every < 1:
            raise InputError(f"every {self.every}: give at least 1 step between two probes")


def hold_out(pairs: PairDataset, share: float, seed: int) -> tuple[PairDataset, TestSet]:
    """Split clean pairs by image into training pairs and held-out pairs, which are never trained on.

    Args:
        pairs: The clean pairs.
        share: Share of images to hold out, in (0, 1); at most `MOST_HELD_OUT` images.
        seed: Seed of the run.

    Raises:
        InputError: If the share is out of range, or gives fewer than `FEWEST_HELD_OUT` images.
    """
    if not 0 < share < 1:
        raise InputError(f"held-out share {share} is not between 0 and 1")
    images = pairs.used_images()
    count = min(round(share * len(images)), MOST_HELD_OUT)
    if count < FEWEST_HELD_OUT:
        raise InputError(
            f"holding out {share:g} of {len(images)} clean images gives {count}, but {FEWEST_HELD_OUT} are needed"
        )
    chosen = np.sort(generator(seed, "sterilize/held-out").permutation(images)[:count])
    held = np.isin(pairs.image, chosen)
    return pairs.where(~held), TestSet(pairs.where(held), chosen.astype(np.int32))


def utility_k(images: int) -> int:
    """Return K for the utility guard's Hit@K: 10 as in the paper, less for galleries so small that all images are hits.

    >>> utility_k(20), utility_k(50), utility_k(99), utility_k(100)
    (1, 5, 5, 10)
    """
    return 10 if images >= 100 else 5 if images >= 50 else 1


class RepairMeter:
    """Measures a model on held-out pairs, which decide, and on a test part, which is only reported.

    Args:
        suspect: The model before the repair.
        inputs: Preprocessed inputs of all measured pairs.
        held_out: The held-out pairs.
        rule: The rule that decides.
        test: A test part.
        goal_targets: Goals to measure on the test part.

    Attributes:
        k: The K of the Hit@K that guards the utility.
    """

    def __init__(
        self,
        suspect: DualEncoder,
        inputs: PairInputs,
        held_out: TestSet,
        rule: RepairRule,
        *,
        test: TestSet | None = None,
        goal_targets: Sequence[GoalTarget] = (),
    ) -> None:
        self.inputs, self.held_out, self.rule = inputs, held_out, rule
        self.test, self.goal_targets = test, tuple(goal_targets)
        self.k = utility_k(len(held_out.gallery))
        for goal in rule.canary_goals:
            held_out.check_goal(goal)
        self._before = TestEmbeddings.of(suspect, inputs, held_out)
        self._utility = self._hits(utility_row(self._before, held_out))
        self._start = self._measure(suspect, self._before, {"step": 0, "epoch": 0})

    def start(self) -> ProbeRecord:
        """Return the suspect's measurements."""
        return self._start

    def measure(self, encoder: DualEncoder, where: Mapping[str, float]) -> ProbeRecord:
        """Measure a model without changing it; `where` contains the `step`.

        Adds to the usual probe: `utility_loss` (since the start, the larger of both retrieval directions, negative for
        a gain), `drift`, and `canary_goals` if there are any.

        Raises:
            DivergedError: If its embeddings are not finite.
        """
        held = TestEmbeddings.of(encoder, self.inputs, self.held_out)
        if not (np.isfinite(held.images).all() and np.isfinite(held.texts).all()):
            raise DivergedError(f"the embeddings are not finite at step {where['step']}")
        return self._measure(encoder, held, where)

    def _measure(
        self, encoder: DualEncoder, held: TestEmbeddings, where: Mapping[str, float]
    ) -> ProbeRecord:
        utility = utility_row(held, self.held_out)
        hits = self._hits(utility)
        loss = max(before - now for before, now in zip(self._utility, hits, strict=True))
        record: dict[str, Any] = {
            **where,
            "utility": utility.to_json(),
            "utility_loss": loss,
            "drift": drift_between(self._before, held).to_json(),
        }
        if goals := self.rule.canary_goals:
            record["canary_goals"] = {str(goal): self._canary(held, goal) for goal in goals}
        if self.test is not None:
            seen = TestEmbeddings.of(encoder, self.inputs, self.test)
            record["test"] = probed_test(seen, self.test, self.goal_targets).to_json()
        return ProbeRecord.of(record)

    def _hits(self, utility: Utility) -> tuple[float, float]:
        name = f"hit@{self.k}"
        image, text = utility.image_retrieval.number(name), utility.text_retrieval.number(name)
        assert image is not None
        assert text is not None
        return image, text

    def _canary(self, held: TestEmbeddings, goal: Goal) -> dict[str, Any]:
        """Measure how often captions of the original class, and other captions, find the target class."""
        targets = self.held_out.targets(goal.target)
        codes = self.held_out.caption_class
        hits = {}
        for code in np.unique(codes[codes >= 0]):
            name = self.held_out.pairs.classes[code]
            if name != goal.target:
                rows = np.flatnonzero(codes == code).astype(np.int32)
                hits[name] = float((held.ranks(rows, targets)[0] < self.k).mean())
        own = hits.pop(goal.original)
        others = float(np.median(list(hits.values()))) if hits else 0.0
        return {f"hit@{self.k}": own, "others": others, "gone": own <= others + GONE_MARGIN}
