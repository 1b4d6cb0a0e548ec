"""Sweeps over many goals delete the models of single goals, and give the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.runs.conftest import MakeRuns, numbers

from mmpoison.base.content_cache import ContentCache
from mmpoison.runs import run_all as module
from mmpoison.runs import run_stages
from mmpoison.runs.run import run_recipe
from mmpoison.runs.run_all import evicted_stages, run_all
from mmpoison.runs.run_measures import RunMeasures

GOALS = ["sheep2aeroplane", "aeroplane2sheep"]
REPAIR = {"sterilize": {"training": {"epochs": 1, "batch_size": 16, "precision": "fp32"}}}


@pytest.fixture(autouse=True)
def small_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers_here: None) -> None:
    """Small limits hold here alone, so the tasks are done here."""
    monkeypatch.setenv("MMPOISON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "HANDFUL", 1)
    monkeypatch.setattr(run_stages, "LARGEST_CACHED", 1000)


def cached() -> list[str]:
    entries = ContentCache().entries("stages/finetune")
    return sorted(entry.about["name"] for entry in entries if entry.about)


def test_models_of_single_goals_leave_and_what_runs_share_stays(
    make_runs: MakeRuns, tmp_path: Path
) -> None:
    sweep = make_runs({"goals": GOALS}, **REPAIR)
    state = run_all(sweep, tmp_path / "out")
    assert not state.failed
    assert cached() == ["clean_model"]
    # the log of the training stays in the run folder
    assert list((tmp_path / "out" / "runs").glob("*/logs/poisoned/steps.jsonl"))
    assert not list((tmp_path / "out" / "runs").glob("*/models"))
    # with few goals all stay, and the numbers are the same
    module.HANDFUL = 2
    kept = run_all(sweep, tmp_path / "kept")
    assert not kept.failed
    assert cached() == ["clean_model", "poisoned", "poisoned", "sterilized", "sterilized"]
    assert numbers(tmp_path / "out") == numbers(tmp_path / "kept") != {}
    # a complete run needs no model to be read again
    run = sweep.runs[0]
    run_recipe(run.recipe, tmp_path / "out" / "runs" / run.id, save_models=False)


def test_a_run_that_stopped_before_its_end_resumes_with_its_model(
    make_runs: MakeRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_runs({"goals": GOALS}, **REPAIR)
    with monkeypatch.context() as patch:

        def stop(*given: Any) -> None:
            raise OSError("stopped here")

        patch.setattr(RunMeasures, "measured", stop)
        assert len(run_all(sweep, tmp_path / "out", retries=0).failed) == 2
    # nothing that the same command needs was deleted
    assert cached() == ["clean_model", "poisoned", "poisoned", "sterilized", "sterilized"]
    assert not run_all(sweep, tmp_path / "out").failed
    made = [
        json.loads(file.read_text())["poisoned"]["from"]
        for file in (tmp_path / "out" / "runs").glob("*/stages.json")
    ]
    assert made == ["cache", "cache"]
    assert cached() == ["clean_model"]
    monkeypatch.setenv("MMPOISON_CACHE", str(tmp_path / "another"))
    assert not run_all(sweep, tmp_path / "at-once").failed
    assert numbers(tmp_path / "out") == numbers(tmp_path / "at-once") != {}


def test_only_many_goals_and_the_last_run_of_a_model(make_runs: MakeRuns) -> None:
    def evicted(section: dict[str, Any], **more: Any) -> list[bool]:
        runs = make_runs({"goals": GOALS, **section})
        found = evicted_stages(runs, **{"save_models": False, **more})
        return ["poisoned" in found[run.id] for run in runs.runs] if found else []

    assert evicted({}) == [True, True]
    assert evicted({}, save_models=True) == []
    module.HANDFUL = 2
    assert evicted({}) == []
    module.HANDFUL = 1
    # two repairs of the same poisoned model: it is trained once, and the last of them deletes it
    assert evicted({"variants": {"plain": None, "repaired": REPAIR}}) == [False, False, True, True]
    assert evicted({"grid": {"attack.samples": [1, 2]}}) == [True] * 4
    assert evicted_stages(make_runs({"seeds": [0, 1, 2]}), save_models=False) == {}


@pytest.mark.usefixtures("workers_here")
def test_checkpoints_are_kept_where_the_list_says_so(make_runs: MakeRuns, tmp_path: Path) -> None:
    runs = make_runs({"seeds": [0], "models": True})
    assert runs.save_models
    run_all(runs, tmp_path / "out")
    assert (tmp_path / "out/runs/seed0/models/poisoned").is_dir()
    run_all(runs, tmp_path / "none", save_models=False)
    assert not (tmp_path / "none/runs/seed0/models").exists()
