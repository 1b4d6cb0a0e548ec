"""A repair that is watched: the same training; when it is probed, when it stops, and which model is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mmpoison.attacks import Goal
from mmpoison.datasets import PairDataset
from mmpoison.defenses import DEFENSES
from mmpoison.defenses.repairs.repair import Branch, refusal, repair_branches, run_repair
from mmpoison.defenses.repairs.repair_watch import (
    Probe,
    RepairMeter,
    RepairRule,
    RepairWatch,
    hold_out,
)
from mmpoison.errors import InputError
from mmpoison.evaluation import GoalTarget, TestSet
from mmpoison.models import DualEncoder, PixelInputs, prepare_pixels
from mmpoison.training import Step, TrainingResult, TrainingSettings, finetune

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


# -- probes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("trainable", ["both", "image", "text"])
def test_probing_changes_nothing(
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
    assert len(watch.probes) > 3


def test_probes_are_in_the_first_epoch_and_after_each(
    make_encoder: Make, parts: tuple[PairDataset, TestSet], inputs: PixelInputs
) -> None:
    meter = RepairMeter(make_encoder(), inputs, parts[1], RepairRule(), seed=0)

    def steps(every: int | None = None) -> list[int]:
        meter.rule = RepairRule(every=every)
        watch = RepairWatch(meter, 130)
        return [n for n in range(1, 401) if watch.due(step(n, 400))]

    assert steps() == [1, 2, 5, 10, 20, 50, 100, 130, 260, 390, 400]
    assert steps(150) == [1, 2, 5, 10, 20, 50, 100, 130, 150, 260, 300, 390, 400]


def test_what_a_probe_measures(
    make_encoder: Make, squares: PairDataset, parts: tuple[PairDataset, TestSet]
) -> None:
    test, goal_target = TestSet.of(squares), GoalTarget(Goal("sheep", "sofa"))
    inputs = prepare_pixels(make_encoder(), squares)
    rule = RepairRule(canary_goals=(Goal("sheep", "aeroplane"),))
    meter = RepairMeter(
        make_encoder(), inputs, parts[1], rule, seed=0, test=test, goal_targets=[goal_target]
    )
    start = meter.start.record
    assert start["step"] == 0
    assert start["utility_loss"] == 0
    assert start["drift"] == {"text": 0, "image": 0}
    assert set(start["test"]["goal"]) == {"sheep2sofa"}
    canary = start["canary_goals"]["sheep2aeroplane"]
    assert set(canary) == {"hit@1", "others", "gone"}
    assert meter.start.goals_left == (not canary["gone"])
    other = meter.probe(step(7, 9), make_encoder(3))
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
    """A meter that plays probes back."""

    def __init__(self, rule: RepairRule, probes: dict[int, tuple[float, int]]) -> None:
        self.rule, self._probes, self.kinds = rule, probes, None
        self.start = Probe(record={"step": 0}, ranks=None, loss=0.0, goals_left=1)

    def probe(self, at: Step, _: Any) -> Probe:
        loss, left = self._probes[at.step]
        record = {"step": at.step, "still_weakening": [{"z": 9.0}] * left}
        return Probe(record=record, ranks=None, loss=loss, goals_left=left)


QUIET = "Stopped: associations are no longer changing. This does not show that the poison is gone."


def stopped_at(
    rule: RepairRule, probes: dict[int, tuple[float, int]], why: str = QUIET
) -> int | None:
    watch = RepairWatch(Played(rule, probes), 1000)  # type: ignore[arg-type]
    for number in range(1, 1001):
        if watch(step(number), None):  # type: ignore[arg-type]
            assert watch.stopped == why
            return number
    return None


SERIES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


@pytest.mark.parametrize(
    ("noisy", "lossy", "expected"),
    [
        # two quiet probes in a row from step 50 on
        ((5, 10), (), 100),
        ((), (), 100),
        ((50,), (), 200),
        ((50, 200), (), 1000),
        # not while too much utility is lost
        ((), (100, 200), 500),
    ],
)
def test_it_stops_when_associations_no_longer_change(
    noisy: tuple[int, ...], lossy: tuple[int, ...], expected: int
) -> None:
    probes = {n: (0.5 if n in lossy else 0.0, int(n in noisy)) for n in SERIES}
    # the last step ends by itself
    assert stopped_at(RepairRule(), probes) == (None if expected == 1000 else expected)
    assert stopped_at(RepairRule(stop=False), probes) is None


def test_known_goals_decide_alone() -> None:
    rule = RepairRule(canary_goals=(Goal("sheep", "sofa"),))
    gone = "Stopped: the known goals are gone. Poison of other goals may be left."
    assert stopped_at(rule, {n: (0.0, int(n < 20)) for n in SERIES}, gone) == 20
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


def run_branches(
    make_encoder: Make,
    parts: tuple[PairDataset, TestSet],
    inputs: PixelInputs,
    work: Path,
    *,
    rates: Sequence[float] = (),
    most_lost: float = 1.0,
    method: str = "clean-finetune",
    settings: TrainingSettings | None = QUICK,
    first: bool = False,
) -> tuple[list[Branch], TrainingResult | None, RepairMeter]:
    train, held = parts
    encoder = make_encoder()
    meter = RepairMeter(encoder, inputs, held, RepairRule(most_lost), seed=0)
    branches = repair_branches(method, {}, settings, rates)
    result = run_repair(
        encoder, train, inputs, branches, seed=0, meter=meter, work=work, first=first
    )
    return branches, result, meter


def test_the_highest_rate_that_keeps_the_utility_is_chosen(
    make_encoder: Make, parts: tuple[PairDataset, TestSet], inputs: PixelInputs, tmp_path: Path
) -> None:
    given: Any = (make_encoder, parts, inputs, tmp_path)
    rates = [1e-4, 1e-3, 1e-5]
    branches, result, _ = run_branches(*given, rates=rates)
    assert [branch.learning_rate for branch in branches] == rates
    assert [branch.chosen for branch in branches] == [False, True, False]
    assert [branch.result is None for branch in branches] == [True, False, True]
    assert result is branches[1].result
    assert {path.name for path in tmp_path.iterdir()} == {
        f"learning-rate-{rate}" for rate in ("0.0001", "0.001", "1e-05")
    }
    # the same probes without training again, and no model is chosen when nothing may be lost
    again, none, _ = run_branches(*given, rates=rates, most_lost=0.0)
    assert [b.probes for b in again] == [b.probes for b in branches]
    lost = [branch.probes[-1].loss for branch in again]
    assert [branch.keeps_utility for branch in again] == [loss <= 0 for loss in lost]
    assert (none is None) == all(loss > 0 for loss in lost)


@pytest.mark.parametrize(
    ("settings", "rates", "expected"),
    [
        (TrainingSettings(epochs=2), [], [1e-3, 1e-4, 1e-5]),
        (TrainingSettings(epochs=2), [1e-6], [1e-6]),
        (TrainingSettings(learning_rate=1e-5), [], [1e-5]),
    ],
)
def test_several_rates_are_tried_where_none_is_given(
    settings: TrainingSettings, rates: list[float], expected: list[float]
) -> None:
    branches = repair_branches("clean-finetune", {}, settings, rates, several=True)
    assert [branch.learning_rate for branch in branches] == expected
    assert {branch.settings.epochs for branch in branches if branch.settings} == {settings.epochs}


def test_rates_in_turn_end_with_the_first_that_keeps_the_utility(
    make_encoder: Make, parts: tuple[PairDataset, TestSet], inputs: PixelInputs, tmp_path: Path
) -> None:
    given: Any = (make_encoder, parts, inputs, tmp_path)
    branches, result, _ = run_branches(*given, rates=[1e30, 1e-3, 1e-4], first=True)
    assert [branch.keeps_utility for branch in branches] == [False, True, None]
    assert [branch.chosen for branch in branches] == [False, True, False]
    assert result is branches[1].result
    assert branches[2].ended == "not tried, because a higher learning rate keeps the utility"


def test_a_refusal_says_what_was_lost(
    make_encoder: Make, parts: tuple[PairDataset, TestSet], inputs: PixelInputs, tmp_path: Path
) -> None:
    branches, _, meter = run_branches(make_encoder, parts, inputs, tmp_path, most_lost=0.0)
    message = str(refusal(branches, meter, tmp_path))
    assert message.startswith("no model is saved: all lost more than 0 of their Hit@1 on 20")
    assert f"at learning rate 0.001 {branches[0].probes[-1].loss:.3f}" in message
    assert "\n" not in message


def test_a_rate_that_diverges_is_passed_over(
    make_encoder: Make, parts: tuple[PairDataset, TestSet], inputs: PixelInputs, tmp_path: Path
) -> None:
    branches, result, _ = run_branches(make_encoder, parts, inputs, tmp_path, rates=[1e30, 1e-4])
    assert branches[0].ended.startswith("diverged: ")
    assert not branches[0].keeps_utility
    assert branches[1].chosen
    assert result is not None


def test_a_repair_that_calls_nobody_is_measured_when_it_is_done(
    make_encoder: Make,
    parts: tuple[PairDataset, TestSet],
    inputs: PixelInputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Silent:
        name = "silent"
        kind = "post-training"

        def apply(self, encoder: Any, clean_pairs: Any, inputs: Any, *, seed: int) -> Any:
            return finetune(encoder, clean_pairs, inputs, QUICK, seed=seed)

    monkeypatch.setitem(DEFENSES._items, "silent", Silent)
    options: Any = {"method": "silent", "settings": None}
    branches, result, _ = run_branches(make_encoder, parts, inputs, tmp_path, **options)
    (branch,) = branches
    assert result is not None
    assert [probe.step for probe in branch.probes] == [0, result.steps]
    assert branch.chosen
    assert branch.label == "silent"
    assert branch.to_json()["learning_rate"] is None
    assert not list(tmp_path.iterdir())
    refused = run_branches(make_encoder, parts, inputs, tmp_path, most_lost=0.0, **options)[0][0]
    assert refused.keeps_utility == (branch.probes[-1].loss <= 0)
    with pytest.raises(InputError, match="--learning-rate: defence 'silent' takes no training"):
        repair_branches("silent", {}, None, [1e-3])


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
        repair_branches("clean-finetune", {}, QUICK, rates)
    assert str(error.value) == message


@pytest.mark.parametrize("options", [{"max_utility_loss": 1.5}, {"every": 0}])
def test_rules_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        RepairRule(**options)


def test_probes_are_saved_for_a_repair_that_resumes(
    make_encoder: Make, parts: tuple[PairDataset, TestSet], inputs: PixelInputs, tmp_path: Path
) -> None:
    meter = RepairMeter(make_encoder(), inputs, parts[1], RepairRule(), seed=0)
    first = RepairWatch(meter, 1000, tmp_path / "probes")
    for number in (1, 2, 5):
        first(step(number), make_encoder(number))
    # it resumes after step 2: what was probed later is probed again
    second = RepairWatch(meter, 1000, tmp_path / "probes")
    second(step(3), make_encoder())
    assert [probe.step for probe in second.probes] == [0, 1, 2]
    second(step(5), make_encoder(5))
    assert second.probes == first.probes


@pytest.mark.parametrize(
    "line", ["[1]", '{"record": {}, "ranks": null, "loss": 0, "goals_left": 0}', '{"loss": "x"}']
)
def test_a_broken_probe_is_one_line(
    make_encoder: Make,
    parts: tuple[PairDataset, TestSet],
    inputs: PixelInputs,
    tmp_path: Path,
    line: str,
) -> None:
    meter = RepairMeter(make_encoder(), inputs, parts[1], RepairRule(), seed=0)
    (tmp_path / "probes").write_text(line + "\n")
    with pytest.raises(InputError, match="line 1: not a probe of a repair: delete the file"):
        RepairWatch(meter, 1000, tmp_path / "probes")
