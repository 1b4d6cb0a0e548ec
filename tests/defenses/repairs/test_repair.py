"""A repair that is watched: the same training; when it is probed, when it stops, and which model is chosen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import refusal as refused

from mmpoison.attacks import Goal
from mmpoison.datasets import PairDataset
from mmpoison.defenses import DEFENSES
from mmpoison.defenses.repairs.repair import Branch, refusal, repair_branches, run_repair
from mmpoison.defenses.repairs.repair_meter import RepairMeter, RepairRule, hold_out
from mmpoison.evaluation import GoalTarget, TestSet
from mmpoison.models import DualEncoder, PixelInputs, prepare_pixels
from mmpoison.training import Step, TrainingResult, TrainingSettings, finetune
from mmpoison.training.probes import Probes

Make = Callable[..., DualEncoder]
QUICK = TrainingSettings(epochs=2, batch_size=32, learning_rate=1e-3, precision="fp32")


@pytest.fixture(scope="module")
def inputs(make_encoder: Make, squares: PairDataset) -> PixelInputs:
    return prepare_pixels(make_encoder(), squares)


@pytest.fixture(scope="module")
def parts(squares: PairDataset) -> tuple[PairDataset, TestSet]:
    """28 images to train on, 20 to judge by."""
    return hold_out(squares, 20 / 56, 0)


@pytest.fixture(scope="module")
def meter_of(
    make_encoder: Make, parts: tuple[PairDataset, TestSet], inputs: PixelInputs
) -> Callable[..., RepairMeter]:
    """A function that makes the meter of a rule."""

    def meter(rule: RepairRule | None = None, **more: Any) -> RepairMeter:
        return RepairMeter(make_encoder(), inputs, parts[1], rule or RepairRule(), **more)

    return meter


def probes_of(meter: RepairMeter, epoch: int, file: Path | None = None, **when: Any) -> Probes:
    return Probes(meter.measure, meter.start, epoch, file, within=True, **when)


MeterOf = Callable[..., RepairMeter]

# -- held-out pairs --------------------------------------------------------------------------------


def test_held_out_images_are_not_trained_on(squares: PairDataset) -> None:
    train, held = hold_out(squares, 0.4, 3)
    assert len(held.gallery) == 22
    assert len(train) + len(held.pairs) == len(squares)
    assert not set(train.image) & set(held.pairs.image)
    assert set(held.pairs.image) == set(held.gallery)
    assert set(hold_out(squares, 0.4, 3)[1].gallery) == set(held.gallery)
    assert set(hold_out(squares, 0.4, 4)[1].gallery) != set(held.gallery)


@pytest.mark.parametrize(
    ("share", "says"),
    [
        (0.2, "holding out 0.2 of 56 clean images gives 11"),
        *((share, "is not between 0 and 1") for share in (0.0, 1.0)),
    ],
)
def test_shares_that_cannot_be_held_out(squares: PairDataset, share: float, says: str) -> None:
    assert says in refused(hold_out, squares, share, 0)


# -- probes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("trainable", ["both", "image", "text"])
def test_probing_changes_nothing(
    make_encoder: Make,
    parts: tuple[PairDataset, TestSet],
    inputs: PixelInputs,
    meter_of: MeterOf,
    trainable: Any,
) -> None:
    """Also not the modes of what is frozen and what is not: batch normalisation learns on."""
    settings = QUICK.model_copy(update={"trainable": trainable})
    watch = probes_of(meter_of(), 5)
    one, two = (
        finetune(make_encoder(), parts[0], inputs, settings, seed=0, on_step=on_step)
        for on_step in (watch, None)
    )
    assert one.encoder.digest() == two.encoder.digest()
    assert len(watch.records) > 3


@pytest.mark.parametrize(
    ("every", "more"), [(None, {}), (150, {150, 300})], ids=["series", "every 150"]
)
def test_probes_are_in_the_first_epoch_and_after_each(
    meter_of: MeterOf, every: int | None, more: Any
) -> None:
    watch = probes_of(meter_of(), 130, every=every)
    found = {n for n in range(1, 401) if watch.due(step(n, 400))}
    assert found == {1, 2, 5, 10, 20, 50, 100, 130, 260, 390, 400} | set(more)


def test_what_a_probe_measures(make_encoder: Make, squares: PairDataset, meter_of: MeterOf) -> None:
    rule = RepairRule(canary_goals=(Goal("sheep", "aeroplane"),))
    shown = {"test": TestSet.of(squares), "goal_targets": [GoalTarget(Goal("sheep", "sofa"))]}
    meter = meter_of(rule, **shown)
    start = meter.start().to_json()
    assert (start["step"], start["utility_loss"]) == (0, 0)
    assert start["drift"] == {"text": 0, "image": 0}
    assert set(start["test"]["goal"]) == {"sheep2sofa"}
    canary = start["canary_goals"]["sheep2aeroplane"]
    assert set(canary) == {"hit@1", "others", "gone"}
    assert canary["gone"] == (canary["hit@1"] <= canary["others"] + 0.05)
    other = meter.measure(make_encoder(3), {"step": 7}).to_json()
    assert other["step"] == 7
    assert other["drift"]["text"] > 0
    lost = [
        start["utility"][way]["hit@1"] - other["utility"][way]["hit@1"]
        for way in ("image_retrieval", "text_retrieval")
    ]
    assert other["utility_loss"] == pytest.approx(max(lost))


def test_a_canary_goal_needs_held_out_images(meter_of: MeterOf) -> None:
    rule = RepairRule(canary_goals=(Goal("sheep", "cow"),))
    assert "unknown class 'cow'" in refused(meter_of, rule)


def step(number: int, steps: int = 1000) -> Step:
    return Step(number, steps, 0, 1.0, 1e-3, 10.0)


# -- branches --------------------------------------------------------------------------------------


@pytest.fixture
def run_branches(
    make_encoder: Make,
    parts: tuple[PairDataset, TestSet],
    inputs: PixelInputs,
    meter_of: MeterOf,
    tmp_path: Path,
) -> Callable[..., tuple[list[Branch], TrainingResult | None, RepairMeter]]:
    """A function that tries repairs with several learning rates."""

    def run(
        *rates: float,
        most_lost: float = 1.0,
        method: str = "clean-finetune",
        settings: TrainingSettings | None = QUICK,
        first: bool = False,
    ) -> tuple[list[Branch], TrainingResult | None, RepairMeter]:
        meter = meter_of(RepairRule(most_lost))
        branches = repair_branches(method, {}, settings, rates)
        given: Any = {"seed": 0, "meter": meter, "work": tmp_path, "first": first}
        result = run_repair(make_encoder(), parts[0], inputs, branches, **given)
        return branches, result, meter

    return run


Run = Callable[..., tuple[list[Branch], TrainingResult | None, RepairMeter]]


def test_the_highest_rate_that_keeps_the_utility_is_chosen(
    run_branches: Run, tmp_path: Path
) -> None:
    rates = [1e-4, 1e-3, 1e-5]
    branches, result, _ = run_branches(*rates)
    assert [branch.learning_rate for branch in branches] == rates
    assert [branch.chosen for branch in branches] == [False, True, False]
    assert [branch.result is None for branch in branches] == [True, False, True]
    assert result is branches[1].result
    assert {path.name for path in tmp_path.iterdir()} == {
        f"learning-rate-{rate}" for rate in ("0.0001", "0.001", "1e-05")
    }
    # the same probes without training again, and no model is chosen when nothing may be lost
    again, none, meter = run_branches(*rates, most_lost=0.0)
    assert [b.probes for b in again] == [b.probes for b in branches]
    lost = [branch.utility_loss for branch in again]
    assert [branch.keeps_utility for branch in again] == [loss <= 0 for loss in lost]
    assert (none is None) == all(loss > 0 for loss in lost)
    message = str(refusal(again, meter, tmp_path))
    assert message.startswith("no model is saved: all lost more than 0 of their Hit@1 on 20")
    assert f"at learning rate 0.001 {again[1].utility_loss:.3f}" in message
    assert "\n" not in message


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


def test_rates_in_turn_end_with_the_first_that_keeps_the_utility(run_branches: Run) -> None:
    branches, result, _ = run_branches(1e30, 1e-3, 1e-4, first=True)
    # one that diverges is passed over
    assert branches[0].ended.startswith("diverged: ")
    assert [branch.keeps_utility for branch in branches] == [False, True, None]
    assert [branch.chosen for branch in branches] == [False, True, False]
    assert result is branches[1].result
    assert branches[2].ended == "not needed, because a higher learning rate keeps the utility"


def test_a_repair_that_calls_nobody_is_measured_when_it_is_done(
    run_branches: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent:
        name = "silent"
        kind = "post-training"

        def apply(self, encoder: Any, clean_pairs: Any, inputs: Any, *, seed: int) -> Any:
            return finetune(encoder, clean_pairs, inputs, QUICK, seed=seed)

    monkeypatch.setitem(DEFENSES._items, "silent", Silent)
    (branch,), result, _ = run_branches(method="silent", settings=None)
    assert result is not None
    assert [probe.step for probe in branch.probes] == [0, result.steps]
    assert branch.chosen
    assert branch.label == "silent"
    assert branch.to_json()["learning_rate"] is None
    assert not list(tmp_path.iterdir())
    said = refused(repair_branches, "silent", {}, None, [1e-3])
    assert "--learning-rate: defence 'silent' has no training" in said


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ([1e-4, 1e-4], "the same learning rate is given twice"),
        ([1e-4, -1.0], "--learning-rate: Input should be greater than 0"),
        ([1e-8], "--learning-rate: min_learning_rate is above learning_rate"),
    ],
)
def test_rates_that_cannot_be(rates: list[float], message: str) -> None:
    assert refused(repair_branches, "clean-finetune", {}, QUICK, rates) == message


@pytest.mark.parametrize("options", [{"max_utility_loss": 1.5}, {"every": 0}])
def test_rules_that_cannot_be(options: dict[str, Any]) -> None:
    assert refused(RepairRule, **options)


def test_probes_are_saved_for_a_repair_that_resumes(
    make_encoder: Make, meter_of: MeterOf, tmp_path: Path
) -> None:
    meter, file = meter_of(), tmp_path / "probes"
    first = probes_of(meter, 1000, file)
    for number in (1, 2, 5):
        first(step(number), make_encoder(number))
    # it resumes after step 2: what was probed later is probed again
    second = probes_of(meter, 1000, file)
    second(step(3), make_encoder())
    assert [probe.step for probe in second.records] == [0, 1, 2, 5]
    second(step(5), make_encoder(5))
    assert second.records == first.records
    for text in ("{}", '[{"epoch": 1}]', '[{"step": 1, "utility": "x"}]', "["):
        file.write_text(text)
        assert "probes" in (said := refused(probes_of, meter, 1000, file))
        assert said.endswith(": delete the file and train again")


def test_the_known_goal_that_is_found_least_decides(
    make_encoder: Make,
    parts: tuple[PairDataset, TestSet],
    inputs: PixelInputs,
    meter_of: MeterOf,
    tmp_path: Path,
) -> None:
    meter = meter_of(RepairRule(1.0, canary_goals=(Goal("sheep", "sofa"),)))
    branches = repair_branches("clean-finetune", {}, QUICK, [1e-5, 1e-2])
    run_repair(make_encoder(), parts[0], inputs, branches, seed=0, meter=meter, work=tmp_path)
    left = [
        branch.probes[-1].to_json()["canary_goals"]["sheep2sofa"]["hit@1"] for branch in branches
    ]
    assert left[0] != left[1]
    assert branches[left.index(min(left))].chosen
