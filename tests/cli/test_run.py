"""`sweep`, `run` of a recipe with a sweep, and `cache`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import squares_recipe

from mmpoison.cli.run import shown
from mmpoison.reporting.results import results_table

Cli = Callable[..., Any]


@pytest.fixture
def recipe(square_folder: Path, checkpoint: Path, tmp_path: Path) -> Path:
    value = squares_recipe(square_folder, checkpoint, sweep={"seeds": [0]})
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(value, sort_keys=False))
    return file


@pytest.mark.usefixtures("workers_here")
def test_plan_run_and_again(cli: Cli, recipe: Path, tmp_path: Path, fresh_cache: Path) -> None:
    out = tmp_path / "out"
    planned = cli("run", recipe, "--out", out, "--dry-run")
    assert planned.code == 0, planned.err
    assert "1 run, 0 complete, 1 to run" in planned.out
    assert "1 run: never run here" in planned.out
    assert not out.exists()
    done = cli("run", recipe, "--out", out)
    assert done.code == 0, done.err
    assert "1 of 1 runs are complete" in done.out
    assert (out / "runs" / "seed0" / "metrics.json").is_file()
    assert len(results_table([out / "runs.parquet"])) == len(results_table([out])) > 0
    assert not (out / "runs" / "seed0" / "models").exists()
    # a grid gives other runs, one of which cannot be
    arguments = ("--set", "attack.samples=2,999", "--out", tmp_path / "grid", "--workers", "1")
    swept = cli("run", recipe, *arguments)
    assert swept.code == 1
    assert "samples=999-seed0: failed after 1 attempt: " in swept.out
    assert "1 of 2 runs are complete, 1 failed: failures.jsonl" in swept.out
    stages = json.loads((tmp_path / "grid/runs/samples=2-seed0/stages.json").read_text())
    assert [stage["from"] for stage in stages.values()] == ["cache", "cache", "measured"]

    listed = cli("cache", "list", "--json")
    kinds = json.loads(listed.out)["kinds"]
    assert kinds["stages/finetune"]["items"] == 2
    old = cli("cache", "clear", "--older-than", "1d")
    assert "0 items" in old.out
    kept = cli("cache", "clear", "--down-to", "1GB")
    assert "0 items" in kept.out
    planned = cli("cache", "clear", "--kind", "stages/finetune", "--dry-run")
    assert "2 items" in planned.out
    assert "would be deleted" in planned.out
    gone = cli("cache", "clear", "--kind", "stages/finetune")
    assert "2 items" in gone.out
    assert not list(fresh_cache.glob("stages/finetune/*/entry.json"))
    # the rest, and the least recently used first
    assert json.loads(cli("cache", "list", "--json").out)["kinds"]
    assert " 0 items" not in cli("cache", "clear", "--down-to", "0MB").out
    assert json.loads(cli("cache", "list", "--json").out)["kinds"] == {}


def test_one_seed_or_goal_is_one_run(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    monkeypatch.setattr("mmpoison.cli.run._run_one", lambda one, out, **more: said.append(one))
    given = ("--goals", "sheep2sofa+sofa2bird", "--attack", "multiple-target-labels")
    for more in ((), given, given[:2]):
        assert cli("run", "openmoji", "--seeds", "11", *more).code == 0
    assert [one.seed for one in said] == [11, 11, 11]
    goals = ["sheep2sofa", "sofa2bird"]
    assert [one.attack.goals for one in said] == [["sheep2aeroplane"], goals, goals]
    assert {one.attack.name for one in said[1:]} == {"multiple-target-labels"}


def test_a_sweep_without_a_terminal_says_a_line_for_each_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from mmpoison.base.workers import SweepState

    state = SweepState(3, found=1)
    with shown() as on_change:
        on_change(state)
        for done in ([("seed1", 2.0)], [("seed1", 2.0), ("seed2", 2.0)]):
            state.done, state.at = done, [("seed2", "training")]
            on_change(state)
            on_change(state)
    assert capsys.readouterr().out == "runs: 3\n2/3 seed1: 2 s\n3/3 seed2: 2 s\n"
