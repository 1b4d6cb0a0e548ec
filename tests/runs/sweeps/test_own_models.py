"""Sweeps over many goals delete the models of single goals, and give the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.runs.sweeps.conftest import MakeSweep, numbers

from mmpoison.base.content_cache import ContentCache
from mmpoison.runs import run_stages
from mmpoison.runs.run import run_recipe
from mmpoison.runs.run_measures import RunMeasures
from mmpoison.runs.sweeps import sweep as module
from mmpoison.runs.sweeps.sweep import (
    evicting_runs,
    plan_sweep,
    run_sweep,
    saves_models,
)

GOALS = ["sheep2aeroplane", "aeroplane2sheep"]
REPAIR = {"sterilize": {"training": {"epochs": 1, "batch_size": 16, "precision": "fp32"}}}


@pytest.fixture(autouse=True)
def small_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers_here: None) -> None:
    """Small limits hold here alone, so the tasks are done here."""
    monkeypatch.setenv("MMPOISON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "HANDFUL", 1)
    monkeypatch.setattr(run_stages, "LARGEST_CACHED", 1000)
    monkeypatch.setattr(module, "LARGEST_CACHED", 1000)


def cached() -> list[str]:
    entries = ContentCache().entries("stages/finetune")
    return sorted(entry.about["name"] for entry in entries if entry.about)


def test_models_of_single_goals_leave_and_what_runs_share_stays(
    make_sweep: MakeSweep, tmp_path: Path
) -> None:
    sweep = make_sweep({"goals": GOALS}, **REPAIR)
    planned = plan_sweep(sweep, tmp_path / "out")
    assert planned.stages["poisoned"].bytes is None  # nothing like it has been made
    state = run_sweep(sweep, tmp_path / "out")
    assert not state.failed
    assert cached() == ["clean_model"]
    # the log of the training stays in the run folder
    assert list((tmp_path / "out" / "runs").glob("*/logs/poisoned/steps.jsonl"))
    assert not list((tmp_path / "out" / "runs").glob("*/models"))
    # with few goals all stay, and the numbers are the same
    module.HANDFUL = 2
    kept = run_sweep(sweep, tmp_path / "kept")
    assert not kept.failed
    assert cached() == ["clean_model", "poisoned", "poisoned", "sterilized", "sterilized"]
    assert numbers(tmp_path / "out") == numbers(tmp_path / "kept") != {}
    # a complete run needs no model to be read again
    run = sweep.runs[0]
    run_recipe(run.recipe, tmp_path / "out" / "runs" / run.id, save_models=False)


def test_a_run_that_stopped_before_its_end_resumes_with_its_model(
    make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep({"goals": GOALS}, **REPAIR)
    with monkeypatch.context() as patch:

        def stop(*given: Any) -> None:
            raise OSError("stopped here")

        patch.setattr(RunMeasures, "measured", stop)
        assert len(run_sweep(sweep, tmp_path / "out", retries=0).failed) == 2
    # nothing that the same command needs was deleted
    assert cached() == ["clean_model", "poisoned", "poisoned", "sterilized", "sterilized"]
    assert not run_sweep(sweep, tmp_path / "out").failed
    made = [
        json.loads(file.read_text())["poisoned"]["from"]
        for file in (tmp_path / "out" / "runs").glob("*/stages.json")
    ]
    assert made == ["cache", "cache"]
    assert cached() == ["clean_model"]
    monkeypatch.setenv("MMPOISON_CACHE", str(tmp_path / "another"))
    assert not run_sweep(sweep, tmp_path / "at-once").failed
    assert numbers(tmp_path / "out") == numbers(tmp_path / "at-once") != {}


def test_the_disk_of_a_plan_counts_what_stays(make_sweep: MakeSweep, tmp_path: Path) -> None:
    run_sweep(make_sweep({"goals": GOALS[:1]}), tmp_path / "one")  # sizes are known now
    sweep = make_sweep({"goals": GOALS}, seed=3)
    assert plan_sweep(sweep, tmp_path / "out").stages["poisoned"].bytes == 0
    saved = plan_sweep(sweep, tmp_path / "out", save_models=True).stages["poisoned"].bytes
    assert saved is not None
    assert saved > 2000


def test_only_many_goals_of_runs_with_a_model_of_their_own(make_sweep: MakeSweep) -> None:
    both = make_sweep({"goals": GOALS})
    assert evicting_runs(both, save_models=False) == {run.id for run in both.runs}
    assert evicting_runs(both, save_models=True) == frozenset()
    module.HANDFUL = 2
    assert evicting_runs(both, save_models=False) == frozenset()
    module.HANDFUL = 1
    # two repairs of the same poisoned model: it is trained once, and both need it
    two = {"plain": None, "repaired": REPAIR}
    assert evicting_runs(make_sweep({"goals": GOALS, "variants": two}), save_models=False) == (
        frozenset()
    )
    samples = make_sweep({"goals": GOALS, "grid": {"attack.samples": [1, 2]}})
    assert len(evicting_runs(samples, save_models=False)) == 4
    seeds = make_sweep({"seeds": [0, 1, 2]})
    assert evicting_runs(seeds, save_models=False) == frozenset()
    assert saves_models(make_sweep({"seeds": [0], "models": True}), None)
    assert not saves_models(make_sweep({"seeds": [0], "models": True}), False)
