"""A repair that is watched: the same fine-tune; when it looks, when it stops, and what it chooses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmpoison.attacks import Goal
from mmpoison.datasets import PairDataset
from mmpoison.defenses.repairs.repair import branch_settings, refusal, repair
from mmpoison.defenses.repairs.repair_watch import (
    Look,
    RepairMeter,
    RepairRule,
    RepairWatch,
    hold_out,
)
from mmpoison.errors import InputError
from mmpoison.evaluation import GoalTarget, TestSet
from mmpoison.models import DualEncoder, PixelInputs, prepare_pixels
from mmpoison.training import Step, TrainingSettings, finetune

Make = Callable[..., DualEncoder]
QUICK = TrainingSettings(epochs=2, batch_size=32, learning_rate=1e-3, precision="fp32")


@pytest.fixture(scope="module")
def clean(squares: PairDataset) -> PairDataset:
    return squares.select(split="train")


@pytest.fixture(scope="module")
def inputs(make_encoder: Make, squares: PairDataset) -> PixelInputs:
    return prepare_pixels(make_encoder(), squares)


@pytest.fixture(scope="module")
def parts(squares: PairDataset) -> tuple[PairDataset, TestSet]:
    """28 images to train on, 20 to judge by."""
    return hold_out(squares, 20 / 56, 0)


# -- held-out pairs --------------------------------------------------------------------------------


def test_held_out_images_are_not_trained_on(squares: PairDataset) -> None:
    train, held = hold_out(squares, 0.4, 3)
    assert len(held.gallery) == 22
    assert len(train) + len(held.pairs) == len(squares)
    assert not set(train.image) & set(held.pairs.image)
    assert set(held.pairs.image) == set(held.gallery)
    assert set(hold_out(squares, 0.4, 3)[1].gallery) == set(held.gallery)
    assert set(hold_out(squares, 0.4, 4)[1].gallery) != set(held.gallery)


def test_too_few_to_judge_by(squares: PairDataset) -> None:
    with pytest.raises(InputError, match=r"0\.2 of 56 clean images are 11 to judge by, 20 are"):
        hold_out(squares, 0.2, 0)
    for share in (0.0, 1.0, -1.0):
        with pytest.raises(InputError, match="is not between 0 and 1"):
            hold_out(squares, share, 0)


# -- looks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("trainable", ["both", "image", "text"])
def test_looking_changes_nothing(
    make_encoder: Make, parts: tuple[PairDataset, TestSet], inputs: PixelInputs, trainable: Any
) -> None:
    """Also not the modes of what is frozen and what is not: batch normalisation learns on."""
    settings = QUICK.model_copy(update={"trainable": trainable})
    train, held = parts
    meter = RepairMeter(make_encoder(), inputs, held, RepairRule(stop=False), seed=0)
    watch = RepairWatch(meter, 5)
    one = finetune(make_encoder(), train, inputs, settings, seed=0, on_step=watch)
    two = finetune(make_encoder(), train, inputs, settings, seed=0)
    expected = two.encoder.module.state_dict()
    for name, value in one.encoder.module.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert len(watch.looks) > 3


def test_looks_are_in_the_first_epoch_and_after_each(
    make_encoder: Make, parts: tuple[PairDataset, TestSet], inputs: PixelInputs
) -> None:
    meter = RepairMeter(make_encoder(), inputs, parts[1], RepairRule(), seed=0)

    def steps(every: int | None = None) -> list[int]:
        meter.rule = RepairRule(every=every)
        watch = RepairWatch(meter, 130)
        return [n for n in range(1, 401) if watch.due(step(n, 400))]

    assert steps() == [1, 2, 5, 10, 20, 50, 100, 130, 260, 390, 400]
    assert steps(150) == [1, 2, 5, 10, 20, 50, 100, 130, 150, 260, 300, 390, 400]


def test_what_a_look_measures(
    make_encoder: Make, squares: PairDataset, parts: tuple[PairDataset, TestSet]
) -> None:
    test, aim = TestSet.of(squares), GoalTarget(Goal("sheep", "sofa"))
    inputs = prepare_pixels(make_encoder(), squares)
    rule = RepairRule(canary_goals=(Goal("sheep", "aeroplane"),))
    meter = RepairMeter(make_encoder(), inputs, parts[1], rule, seed=0, test=test, aims=[aim])
    start = meter.start.record
    assert start["step"] == 0
    assert start["utility_loss"] == 0
    assert start["drift"] == {"text": 0, "image": 0}
    assert set(start["test"]["goal"]) == {"sheep2sofa"}
    canary = start["canary_goals"]["sheep2aeroplane"]
    assert set(canary) == {"hit@1", "others", "gone"}
    assert meter.start.goals_left == (not canary["gone"])
    other = meter.look(step(7, 9), make_encoder(3))
    assert other.step == 7
    assert other.record["drift"]["text"] > 0
    lost = [
        start["utility"][way]["hit@1"] - other.record["utility"][way]["hit@1"]
        for way in ("image_retrieval", "text_retrieval")
    ]
    assert other.loss == pytest.approx(max(lost))


def test_a_canary_goal_needs_held_out_images(
    make_encoder: Make, parts: tuple[PairDataset, TestSet], inputs: PixelInputs
) -> None:
    rule = RepairRule(canary_goals=(Goal("sheep", "cow"),))
    with pytest.raises(InputError, match="unknown class 'cow'"):
        RepairMeter(make_encoder(), inputs, parts[1], rule, seed=0)


# -- stopping --------------------------------------------------------------------------------------


def step(number: int, steps: int = 1000) -> Step:
    return Step(number, steps, 0, 1.0, 1e-3, 10.0)


class Played:
    """A meter that plays looks back."""

    def __init__(self, rule: RepairRule, looks: dict[int, tuple[float, int]]) -> None:
        self.rule, self._looks, self.kinds = rule, looks, None
        self.start = Look({"step": 0}, None, 0.0, 1)

    def look(self, at: Step, _: Any) -> Look:
        loss, left = self._looks[at.step]
        still = [{"z": 9.0}] * left
        return Look({"step": at.step, "letting_go": still}, None, loss, left)


def stopped_at(rule: RepairRule, looks: dict[int, tuple[float, int]]) -> int | None:
    watch = RepairWatch(Played(rule, looks), 1000)  # type: ignore[arg-type]
    for number in range(1, 1001):
        if watch(step(number), None):  # type: ignore[arg-type]
            return number
    return None


SERIES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


@pytest.mark.parametrize(
    ("noisy", "lossy", "expected"),
    [
        # two quiet looks in a row from step 50 on
        ((5, 10), (), 100),
        ((), (), 100),
        ((50,), (), 200),
        ((50, 200), (), 1000),
        # not while too much utility is lost
        ((), (100, 200), 500),
    ],
)
def test_it_stops_when_the_canary_is_quiet(
    noisy: tuple[int, ...], lossy: tuple[int, ...], expected: int
) -> None:
    looks = {n: (0.5 if n in lossy else 0.0, int(n in noisy)) for n in SERIES}
    # the last step ends by itself
    assert stopped_at(RepairRule(), looks) == (None if expected == 1000 else expected)
    assert stopped_at(RepairRule(stop=False), looks) is None


def test_known_goals_decide_alone() -> None:
    rule = RepairRule(canary_goals=(Goal("sheep", "sofa"),))
    assert stopped_at(rule, {n: (0.0, int(n < 20)) for n in SERIES}) == 20
    assert stopped_at(rule, dict.fromkeys(SERIES, (0.0, 1))) is None


def test_without_kinds_it_goes_on(
    make_encoder: Make, parts: tuple[PairDataset, TestSet], inputs: PixelInputs
) -> None:
    meter = RepairMeter(make_encoder(), inputs, parts[1], RepairRule(), seed=0)
    meter.kinds = None
    watch = RepairWatch(meter, 1000)
    for number in (50, 100, 200):
        assert not watch(step(number), make_encoder())


# -- branches --------------------------------------------------------------------------------------


def test_the_highest_rate_that_keeps_the_utility_is_chosen(
    make_encoder: Make, parts: tuple[PairDataset, TestSet], inputs: PixelInputs, tmp_path: Path
) -> None:
    train, held = parts
    meter = RepairMeter(make_encoder(), inputs, held, RepairRule(1.0), seed=0)
    settings = branch_settings(QUICK, [1e-4, 1e-3, 1e-5])
    options: dict[str, Any] = {"seed": 0, "meter": meter, "work": tmp_path}
    branches, result = repair(make_encoder(), train, inputs, settings, **options)
    assert [branch.learning_rate for branch in branches] == [1e-4, 1e-3, 1e-5]
    assert [branch.chosen for branch in branches] == [False, True, False]
    assert [branch.result is None for branch in branches] == [True, False, True]
    assert result is branches[1].result
    assert {path.name for path in tmp_path.iterdir()} == {
        f"learning-rate-{rate}" for rate in ("0.0001", "0.001", "1e-05")
    }
    # the same looks without training again, and none is kept when nothing may be lost
    steps = [[look.record for look in branch.looks] for branch in branches]
    meter.rule = RepairRule(0.0)
    for branch in branches:
        branch.looks[-1].record["utility_loss"] = 0
    again, none = repair(make_encoder(), train, inputs, settings, **options)
    assert [[look.step for look in b.looks] for b in again] == [
        [record["step"] for record in records] for records in steps
    ]
    lost = [branch.looks[-1].loss for branch in again]
    assert [branch.keeps_utility for branch in again] == [loss <= 0 for loss in lost]
    assert (none is None) == all(loss > 0 for loss in lost)


def test_a_refusal_says_what_was_lost(
    make_encoder: Make, parts: tuple[PairDataset, TestSet], inputs: PixelInputs, tmp_path: Path
) -> None:
    train, held = parts
    meter = RepairMeter(make_encoder(), inputs, held, RepairRule(0.0), seed=0)
    branches, _ = repair(make_encoder(), train, inputs, [QUICK], seed=0, meter=meter, work=tmp_path)
    message = str(refusal(branches, meter, tmp_path))
    assert message.startswith("no model is handed over: all lost more than 0 of their Hit@1 on 20")
    assert f"at learning rate 0.001 {branches[0].looks[-1].loss:.3f}" in message
    assert "\n" not in message


def test_a_rate_that_diverges_is_passed_over(
    make_encoder: Make, parts: tuple[PairDataset, TestSet], inputs: PixelInputs, tmp_path: Path
) -> None:
    train, held = parts
    encoder = make_encoder()
    meter = RepairMeter(encoder, inputs, held, RepairRule(1.0), seed=0)
    settings = branch_settings(QUICK, [1e30, 1e-4])
    branches, result = repair(encoder, train, inputs, settings, seed=0, meter=meter, work=tmp_path)
    assert branches[0].ended.startswith("diverged: ")
    assert not branches[0].keeps_utility
    assert branches[1].chosen
    assert result is not None


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ([1e-4, 1e-4], "the same learning rate is given twice"),
        ([1e-4, -1.0], "--learning-rate: Input should be greater than 0"),
        ([1e-8], "--learning-rate: min_learning_rate is above learning_rate"),
    ],
)
def test_rates_that_cannot_be(rates: list[float], message: str) -> None:
    with pytest.raises(InputError) as error:
        branch_settings(QUICK, rates)
    assert str(error.value) == message


@pytest.mark.parametrize("options", [{"max_utility_loss": 1.5}, {"every": 0}])
def test_rules_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        RepairRule(**options)


def test_ranks_are_kept_for_a_repair_that_goes_on(
    make_encoder: Make, parts: tuple[PairDataset, TestSet], inputs: PixelInputs, tmp_path: Path
) -> None:
    meter = RepairMeter(make_encoder(), inputs, parts[1], RepairRule(), seed=0)
    first = RepairWatch(meter, 1000, tmp_path / "looks")
    for number in (1, 2, 5):
        first(step(number), make_encoder(number))
    # it goes on after step 2: what was seen later is seen again
    second = RepairWatch(meter, 1000, tmp_path / "looks")
    second(step(3), make_encoder())
    assert [look.step for look in second.looks] == [0, 1, 2]
    second(step(5), make_encoder(5))
    assert [look.record for look in second.looks] == [look.record for look in first.looks]
    for one, other in zip(first.looks, second.looks, strict=True):
        assert (one.ranks is None) == (other.ranks is None)
        if one.ranks is not None and other.ranks is not None:
            np.testing.assert_allclose(one.ranks, other.ranks)
