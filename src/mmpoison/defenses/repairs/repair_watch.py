"""Measures a repair on held-out clean pairs while it runs, and ends it when associations no longer change."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from mmpoison.attacks.goal import Goal
from mmpoison.base.files import atomic_file
from mmpoison.base.seeding import generator
from mmpoison.base.untrusted import MAX_JSON_BYTES, parse_json, read_lines
from mmpoison.defenses.checks.canary import (
    Kinds,
    Table,
    association,
    conspicuous,
    rises,
    still_weakening,
)
from mmpoison.errors import InputError
from mmpoison.evaluation.rows import goal_row, utility_row
from mmpoison.evaluation.test_set import GoalTarget, TestEmbeddings, TestSet, drift_between
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs
from mmpoison.pairs.table import PairDataset
from mmpoison.records.run_files import Utility
from mmpoison.training.log import DivergedError
from mmpoison.training.loop import Step

MOST_HELD_OUT = 1000
FEWEST_HELD_OUT = 20
"""Images. With fewer, one that is found or not decides everything."""

LEAST_STEPS = 50
"""The paper sees the effect within 50 steps (appendix, figure 9); before that, stillness may be the warm-up."""

NOT_SHOWN = "This does not show that the poison is gone."

QUIET_PROBES = 2
SHOWN = 10
GONE_MARGIN = 0.05
"""A canary goal counts as gone when its captions find the target at most this much more often than others do."""


@dataclass(frozen=True)
class RepairRule:
    """The rule that accepts or refuses the model of a repair; nothing in it needs to know the goal.

    Attributes:
        max_utility_loss: A model that lost more of its held-out Hit@K, in either direction of retrieval, is not saved.
        stop: End the training when associations are no longer changing.
        canary_goals: Goals that are known to be in the suspect; the training then ends when they are gone.
        every: Probe after so many steps too.

    Raises:
        InputError: If a number is out of range.
    """

    max_utility_loss: float = 0.02
    stop: bool = True
    canary_goals: tuple[Goal, ...] = ()
    every: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.max_utility_loss <= 1:
            raise InputError(f"max_utility_loss {self.max_utility_loss} is not between 0 and 1")
        if self.every is not None and self.every < 1:
            raise InputError(f"every {self.every}: at least 1 step is needed between two probes")


def hold_out(pairs: PairDataset, share: float, seed: int) -> tuple[PairDataset, TestSet]:
    """Split clean pairs by image into those to train on and those to judge by, which are never trained on.

    Args:
        pairs: The clean pairs.
        share: Of their images, in (0, 1); no more than `MOST_HELD_OUT` images are taken.
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
            f"{share:g} of {len(images)} clean images are {count} to judge by, {FEWEST_HELD_OUT} are needed"
        )
    chosen = np.sort(generator(seed, "sterilize/held-out").permutation(images)[:count])
    held = np.isin(pairs.image, chosen)
    return pairs.where(~held), TestSet(pairs.where(held), chosen.astype(np.int32))


def utility_k(images: int) -> int:
    """Give the K of the Hit@K that guards the utility: 10 as in the paper, less where all of a small gallery are hits.

    >>> utility_k(20), utility_k(50), utility_k(99), utility_k(100)
    (1, 5, 5, 10)
    """
    return 10 if images >= 100 else 5 if images >= 50 else 1


class Probe(BaseModel):
    """A measurement of the model at one step.

    Attributes:
        record: Its part of the curve file.
        ranks: `association` of the held-out pairs, or None where they form no kinds.
        loss: Utility lost since the start, the larger of both directions of retrieval; negative where it gained.
        goals_left: Known canary goals that are still there.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    record: dict[str, Any]
    ranks: list[list[float]] | None
    loss: float
    goals_left: int

    @field_validator("record")
    @classmethod
    def _has_a_step(cls, value: dict[str, Any]) -> dict[str, Any]:
        if type(value.get("step")) is not int:
            raise ValueError("no step")
        return value

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.record["step"])

    @property
    def table(self) -> Table:
        """The ranks as an array, shape `(A, B)`."""
        return np.array(self.ranks, dtype=np.float64)


class RepairMeter:
    """Measures a model on the held-out pairs, which decide, and on a test part, which is only shown.

    Args:
        suspect: The model before the repair.
        inputs: Prepared inputs of all that is measured.
        held_out: The held-out pairs.
        rule: What decides.
        seed: Seed of the run.
        test: A test part.
        goal_targets: Goals to measure on it.

    Attributes:
        note: Why there is no canary, or empty.
    """

    def __init__(
        self,
        suspect: DualEncoder,
        inputs: PairInputs,
        held_out: TestSet,
        rule: RepairRule,
        *,
        seed: int,
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
        self.kinds: Kinds | None = None
        self.note = ""
        try:
            self.kinds = Kinds.find(held_out, self._before, seed)
        except InputError as error:
            self.note = str(error)
        self.start = self._measure(suspect, self._before, {"step": 0})

    def probe(self, step: Step, encoder: DualEncoder) -> Probe:
        """Measure a model in training; it is left as it was."""
        return self.measure(
            encoder,
            {
                "step": step.step,
                "epoch": step.epoch,
                "learning_rate": step.learning_rate,
                "training_loss": step.loss,
            },
        )

    def measure(self, encoder: DualEncoder, where: dict[str, Any]) -> Probe:
        """Measure a model; `where` says after which `step`.

        Raises:
            DivergedError: If its embeddings are no numbers.
        """
        held = TestEmbeddings.of(encoder, self.inputs, self.held_out)
        if not (np.isfinite(held.images).all() and np.isfinite(held.texts).all()):
            raise DivergedError(f"the embeddings are no numbers at step {where['step']}")
        return self._measure(encoder, held, where)

    def _measure(self, encoder: DualEncoder, held: TestEmbeddings, where: dict[str, Any]) -> Probe:
        utility = utility_row(held, self.held_out)
        hits = self._hits(utility)
        loss = max(before - now for before, now in zip(self._utility, hits, strict=True))
        record: dict[str, Any] = {
            **where,
            "utility": utility.to_json(),
            "utility_loss": loss,
            "drift": drift_between(self._before, held).to_json(),
        }
        left = 0
        if goals := self.rule.canary_goals:
            record["canary_goals"] = {str(goal): self._canary(held, goal) for goal in goals}
            left = sum(not row["gone"] for row in record["canary_goals"].values())
        if self.test is not None:
            seen = TestEmbeddings.of(encoder, self.inputs, self.test)
            record["test"] = {
                "goal": {
                    str(goal_target): goal_row(seen, self.test, goal_target).to_json()
                    for goal_target in self.goal_targets
                },
                "utility": utility_row(seen, self.test).to_json(),
            }
        ranks = None
        if self.kinds is not None:
            ranks = association(held, self.held_out, self.kinds).tolist()
        return Probe(record=record, ranks=ranks, loss=loss, goals_left=left)

    def _hits(self, utility: Utility) -> tuple[float, float]:
        name = f"hit@{self.k}"
        image, text = utility.image_retrieval.number(name), utility.text_retrieval.number(name)
        assert image is not None
        assert text is not None
        return image, text

    def _canary(self, held: TestEmbeddings, goal: Goal) -> dict[str, Any]:
        """Measure how often captions of the original class find the target class, and how often other captions do."""
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


@dataclass
class RepairWatch:
    """Probes a repair after 1, 2, 5, 10, 20, 50, ... steps of its first epoch and after every epoch.

    It is a callback of `finetune`: True ends the training.

    Args:
        meter: Measures.
        steps_per_epoch: Of the training; None where it is not known: all steps are one epoch.
        file: Where probes are saved, so that a training that resumes has those before.
    """

    meter: RepairMeter
    steps_per_epoch: int | None
    file: Path | None = None
    probes: list[Probe] = field(default_factory=list)
    stopped: str = ""

    def __post_init__(self) -> None:
        self._saved = _read(self.file) if self.file is not None else []
        self.probes = [self.meter.start]

    def __call__(self, step: Step, encoder: DualEncoder) -> bool:
        """Probe the model if a probe is due."""
        if self._saved:
            self.probes += [probe for probe in self._saved if probe.step < step.step]
            self._saved = []
        if not self.due(step):
            return False
        self._add(self.meter.probe(step, encoder))
        self.stopped = self._reason() if step.step < step.steps else ""
        return bool(self.stopped)

    def finish(self, encoder: DualEncoder, steps: int) -> list[Probe]:
        """Give all probes; a repair that never called it, or had no step left, is measured here if needed."""
        self.probes += self._saved
        self._saved = []
        if len(self.probes) == 1:
            self._add(self.meter.measure(encoder, {"step": steps}))
        return self.probes

    def due(self, step: Step) -> bool:
        """Return whether to probe after a step."""
        every, epoch = self.meter.rule.every, self.steps_per_epoch or step.steps
        return (
            step.step == step.steps
            or step.step % epoch == 0
            or (every is not None and step.step % every == 0)
            or (step.step < epoch and in_series(step.step))
        )

    def _add(self, now: Probe) -> None:
        """Add a probe, with the associations that weakened since half as many steps, and since the start."""
        kinds, start = self.meter.kinds, self.meter.start
        if kinds is not None and now.ranks is not None:
            half = [probe for probe in self.probes if probe.step <= now.step / 2][-1]
            still = still_weakening(start.table, half.table, now.table, kinds)
            now.record["still_weakening"] = [vars(one) for one in still[:SHOWN]]
            so_far = rises(start.table, now.table, kinds)
            now.record["weakened"] = [vars(one) for one in conspicuous(so_far)[:SHOWN]]
            now.record["largest_z"] = so_far[0].z if so_far else 0.0
        self.probes.append(now)
        if self.file is not None:
            lines = [json.dumps(probe.model_dump()) for probe in self.probes[1:]]
            with atomic_file(self.file) as temporary:
                temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    def _reason(self) -> str:
        rule, now = self.meter.rule, self.probes[-1]
        if not rule.stop or now.loss > rule.max_utility_loss:
            return ""
        if rule.canary_goals:
            gone = "Stopped: the known goals are gone. Poison of other goals may be left."
            return "" if now.goals_left else gone
        late = [probe for probe in self.probes if probe.step >= LEAST_STEPS][-QUIET_PROBES:]
        if len(late) < QUIET_PROBES or any(
            probe.record.get("still_weakening", [1]) for probe in late
        ):
            return ""
        return f"Stopped: associations are no longer changing. {NOT_SHOWN}"


def in_series(step: int) -> bool:
    """Return whether a step is 1, 2 or 5 times a power of ten.

    >>> tuple(step for step in range(1, 300) if in_series(step))
    (1, 2, 5, 10, 20, 50, 100, 200)
    """
    while step % 10 == 0 and step:
        step //= 10
    return step in (1, 2, 5)


def _read(file: Path) -> list[Probe]:
    """Read saved probes; none where there is no file.

    Raises:
        InputError: If a line is not one.
    """
    probes = []
    if file.is_file():
        for number, line in enumerate(read_lines(file, MAX_JSON_BYTES), start=1):
            where = f"{file} line {number}"
            try:
                probes.append(Probe.model_validate(parse_json(line, where)))
            except ValidationError:
                raise InputError(
                    f"{where}: not a probe of a repair: delete the file and repair again"
                ) from None
    return probes
