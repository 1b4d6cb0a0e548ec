"""A repair as it goes: measured on held-out clean pairs at chosen steps, and ended when the canary is quiet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmpoison.attacks.goal import Goal
from mmpoison.base.files import atomic_file
from mmpoison.base.seeding import generator
from mmpoison.base.untrusted import MAX_JSON_BYTES, parse_json, read_lines
from mmpoison.defenses.scans.canary import (
    Kinds,
    Table,
    association,
    conspicuous,
    letting_go,
    rises,
)
from mmpoison.errors import InputError
from mmpoison.evaluation.goal_target import GoalTarget
from mmpoison.evaluation.record import Utility
from mmpoison.evaluation.rows import goal_row, utility_row
from mmpoison.evaluation.test_set import TestEmbeddings, TestSet, drift_between
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs
from mmpoison.pairs.table import PairDataset
from mmpoison.training.divergence import DivergedError
from mmpoison.training.loop import Step

MOST_HELD_OUT = 1000
FEWEST_HELD_OUT = 20
"""Images. With fewer, one that is found or not decides everything."""

LEAST_STEPS = 50
"""The paper sees the effect within 50 steps (appendix, figure 9); before that, stillness may be the warm-up."""

QUIET_LOOKS = 2
SHOWN = 10
AIMED = 0.05
"""A canary goal counts as gone when its captions find the target no more often than others do, and this."""


@dataclass(frozen=True)
class RepairRule:
    """What decides; nothing in it needs to know the goal.

    Attributes:
        max_utility_loss: A model that lost more of its held-out Hit@K, in either direction of retrieval, is not handed
            over.
        stop: End the fine-tune when the canary is quiet.
        canary_goals: Goals that are known to be in the suspect; the canary is then quiet when they are gone.
        every: Look after so many steps too.

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
            raise InputError(f"every {self.every}: at least 1 step is needed between two looks")


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
    """K of the Hit@K that guards the utility: 10 as in the paper, less where a gallery is so small that all are hits.

    >>> utility_k(20), utility_k(50), utility_k(99), utility_k(100)
    (1, 5, 5, 10)
    """
    return 10 if images >= 100 else 5 if images >= 50 else 1


@dataclass(frozen=True)
class Look:
    """What was seen at one step.

    Attributes:
        record: Its part of the curve file.
        ranks: `association` of the held-out pairs, or None where they form no kinds.
        loss: Utility lost since the start, the larger of both directions of retrieval; negative where it gained.
        goals_left: Known canary goals that are still there.
    """

    record: dict[str, Any]
    ranks: Table | None
    loss: float
    goals_left: int

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.record["step"])


class RepairMeter:
    """Measures a model on the held-out pairs, and for show on a test part.

    Args:
        suspect: The model before the repair.
        inputs: Prepared inputs of all that is measured.
        held_out: The held-out pairs, which decide.
        rule: What decides.
        seed: Seed of the run.
        test: A test part; only shown.
        aims: Goals to measure on it.

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
        aims: Sequence[GoalTarget] = (),
    ) -> None:
        self.inputs, self.held_out, self.rule, self.test, self.aims = (
            *(inputs, held_out, rule, test),
            tuple(aims),
        )
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
        self.start = self._look(suspect, self._before, {"step": 0})

    def look(self, step: Step, encoder: DualEncoder) -> Look:
        """Measure a model in training; it is left as it was."""
        where = {
            "step": step.step,
            "epoch": step.epoch,
            "learning_rate": step.learning_rate,
            "training_loss": step.loss,
        }
        held = TestEmbeddings.of(encoder, self.inputs, self.held_out)
        if not (np.isfinite(held.images).all() and np.isfinite(held.texts).all()):
            raise DivergedError(f"the embeddings are no numbers at step {step.step}")
        return self._look(encoder, held, where)

    def _look(self, encoder: DualEncoder, held: TestEmbeddings, where: dict[str, Any]) -> Look:
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
        if self.rule.canary_goals:
            record["canary_goals"] = {
                str(goal): self._canary(held, goal) for goal in self.rule.canary_goals
            }
            left = sum(not row["gone"] for row in record["canary_goals"].values())
        if self.test is not None:
            seen = TestEmbeddings.of(encoder, self.inputs, self.test)
            record["test"] = {
                "goal": {str(aim): goal_row(seen, self.test, aim).to_json() for aim in self.aims},
                "utility": utility_row(seen, self.test).to_json(),
            }
        ranks = None
        if self.kinds is not None:
            ranks = association(held, self.held_out, self.kinds)
        return Look(record, ranks, loss, left)

    def _hits(self, utility: Utility) -> tuple[float, float]:
        name = f"hit@{self.k}"
        image, text = utility.image_retrieval.number(name), utility.text_retrieval.number(name)
        assert image is not None
        assert text is not None
        return image, text

    def _canary(self, held: TestEmbeddings, goal: Goal) -> dict[str, Any]:
        """How often captions of the original class find the target class, and how often other captions do."""
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
        return {f"hit@{self.k}": own, "others": others, "gone": own <= others + AIMED}


@dataclass
class RepairWatch:
    """Looks at a fine-tune at 1, 2, 5, 10, 20, 50, ... steps of its first epoch and after every epoch.

    It is a callback of `finetune`: True ends the training.

    Args:
        meter: Measures.
        steps_per_epoch: Of the fine-tune.
        file: Where looks are kept, so that a fine-tune that was stopped goes on with those before.
    """

    meter: RepairMeter
    steps_per_epoch: int
    file: Path | None = None
    looks: list[Look] = field(default_factory=list)
    stopped: str = ""

    def __post_init__(self) -> None:
        self._kept = _read(self.file) if self.file is not None else []
        self.looks = [self.meter.start]

    def __call__(self, step: Step, encoder: DualEncoder) -> bool:
        """Look, if it is time to."""
        if self._kept:
            self.looks += [look for look in self._kept if look.step < step.step]
            self._kept = []
        if not self.due(step):
            return False
        self.looks.append(self.meter.look(step, encoder))
        self._mark(self.looks)
        if self.file is not None:
            _write(self.file, self.looks[1:])
        self.stopped = self._reason() if step.step < step.steps else ""
        return bool(self.stopped)

    def finish(self) -> list[Look]:
        """All looks, also where no step was left to do."""
        self.looks += self._kept
        self._kept = []
        return self.looks

    def due(self, step: Step) -> bool:
        """Whether to look after a step."""
        every = self.meter.rule.every
        return (
            step.step == step.steps
            or step.step % self.steps_per_epoch == 0
            or (every is not None and step.step % every == 0)
            or (step.step < self.steps_per_epoch and in_series(step.step))
        )

    def _mark(self, looks: list[Look]) -> None:
        """Write into the last look what rose since half as many steps, and since the start."""
        now, kinds = looks[-1], self.meter.kinds
        if kinds is None or now.ranks is None:
            return
        half = [look for look in looks if look.step <= now.step / 2][-1]
        assert half.ranks is not None
        assert looks[0].ranks is not None
        still = letting_go(looks[0].ranks, half.ranks, now.ranks, kinds)
        now.record["letting_go"] = [vars(one) for one in still[:SHOWN]]
        so_far = rises(looks[0].ranks, now.ranks, kinds)
        now.record["let_go"] = [vars(one) for one in conspicuous(so_far)[:SHOWN]]
        now.record["largest_z"] = so_far[0].z if so_far else 0.0

    def _reason(self) -> str:
        rule, now = self.meter.rule, self.looks[-1]
        if not rule.stop or now.loss > rule.max_utility_loss:
            return ""
        if rule.canary_goals:
            return "" if now.goals_left else "the canary goals are gone"
        late = [look for look in self.looks if look.step >= LEAST_STEPS][-QUIET_LOOKS:]
        if len(late) < QUIET_LOOKS or any(look.record.get("letting_go", [1]) for look in late):
            return ""
        return "the canary is quiet: twice the steps let go of nothing more"


def in_series(step: int) -> bool:
    """Whether a step is 1, 2 or 5 times a power of ten.

    >>> tuple(step for step in range(1, 300) if in_series(step))
    (1, 2, 5, 10, 20, 50, 100, 200)
    """
    while step % 10 == 0 and step:
        step //= 10
    return step in (1, 2, 5)


def _write(file: Path, looks: Sequence[Look]) -> None:
    lines = [
        json.dumps(
            {
                "record": look.record,
                "ranks": None if look.ranks is None else look.ranks.tolist(),
                "loss": look.loss,
                "goals_left": look.goals_left,
            }
        )
        for look in looks
    ]
    with atomic_file(file) as temporary:
        temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _read(file: Path) -> list[Look]:
    looks = []
    if file.is_file():
        for number, line in enumerate(read_lines(file, MAX_JSON_BYTES), start=1):
            looks.append(_look(parse_json(line, where := f"{file} line {number}"), where))
    return looks


def _look(value: Any, where: str) -> Look:
    """A line of the file as it was written.

    Raises:
        InputError: If it is not one.
    """
    try:
        ranks = None if value["ranks"] is None else np.array(value["ranks"], dtype=np.float64)
        record, loss, goals_left = value["record"], value["loss"], value["goals_left"]
        whole = (
            type(record["step"]) is int
            and type(loss) in (int, float)
            and type(goals_left) is int
            and (ranks is None or ranks.ndim == 2)
        )
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise InputError(
            f"{where}: not what was seen in a repair: delete the file and repair again"
        )
    return Look(record, ranks, float(loss), goals_left)
