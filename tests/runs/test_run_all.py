"""Sweeps: the same numbers however many workers, failures that stop nothing, and the same command again."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from tests.runs.conftest import MakeRuns, kill_the_first_worker, numbers

from mmpoison.base.content_cache import ContentCache
from mmpoison.base.workers import Dispatch, LocalWorker, SweepState
from mmpoison.errors import InputError
from mmpoison.records.run_files import Metrics
from mmpoison.reporting.results import RunRead
from mmpoison.runs.run import run_recipe
from mmpoison.runs.run_all import Forecast, forecast, run_all
from mmpoison.runs.run_cache import RunCache
from mmpoison.runs.run_list import RunList


def made(out: Path) -> dict[str, list[str]]:
    return {
        file.parent.name: [
            name for name, s in json.loads(file.read_text()).items() if s["from"] == "made"
        ]
        for file in sorted(out.glob("runs/*/stages.json"))
    }


def trainings() -> dict[Path, float]:
    """When each cached training was made."""
    entries = ContentCache().entries("stages/finetune")
    return {entry.path: entry.about["created"] for entry in entries if entry.about}


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMPOISON_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.usefixtures("workers_here")
def test_a_failure_is_listed_and_stops_nothing(
    make_runs: MakeRuns, tmp_path: Path, own_cache: Path
) -> None:
    sweep = make_runs({"grid": {"attack.samples": [999, 2]}})
    states: list[int] = []
    state = run_all(
        sweep, tmp_path / "out", retries=3, on_change=lambda s: states.append(len(s.done))
    )
    assert list(state.failed) == ["samples=999-seed0"]
    assert state.failed["samples=999-seed0"].tries == 1  # the input is to blame
    assert [name for name, _ in state.done] == ["samples=2-seed0"]
    assert states[-1] == 1
    lines = (tmp_path / "out" / "failures.jsonl").read_text().splitlines()
    assert [json.loads(line)["run"] for line in lines] == ["samples=999-seed0"]
    again = run_all(sweep, tmp_path / "out")
    assert again.found == 1
    assert len(again.failed) == 1


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(
    make_runs: MakeRuns, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    workers: list[LocalWorker] = []
    original = LocalWorker.submit

    def submit(worker: LocalWorker, task: Any) -> None:
        original(worker, task)
        workers.append(worker)

    def kill(state: SweepState) -> None:
        if not killed and state.at and state.at[0][1] != "starting":
            killed.append(workers[0].pid())
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(LocalWorker, "submit", submit)
    sweep = make_runs({"seeds": [0]})
    state = run_all(sweep, tmp_path / "out", retries=1, on_change=kill)
    assert killed
    assert not state.failed
    assert [name for name, _ in state.done] == ["seed0"]
    assert len(workers) == 2


def test_on_gpus_a_run_gets_the_one_of_its_worker(
    make_runs: MakeRuns, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    seen: list[tuple[list[str], list[str | None]]] = []

    def run(self: Any, tasks: list[Any], workers: list[Any]) -> None:
        seen.append(([task.device for task in tasks], [worker._gpu for worker in workers]))

    monkeypatch.setattr("mmpoison.base.workers.Dispatch.run", run)
    sweep = make_runs({"grid": {"attack.samples": [1, 2, 3]}})
    run_all(sweep, tmp_path / "each", workers=None, device="auto")
    run_all(sweep, tmp_path / "three", workers=3, device="auto")
    run_all(sweep, tmp_path / "last", workers=2, device="cuda:1")
    run_all(sweep, tmp_path / "cpu", workers=2, device="cpu")
    assert seen == [
        (["cuda"] * 3, ["5", "7"]),
        (["cuda"] * 3, ["5", "7", "5"]),
        (["cuda"] * 3, ["7", "7"]),
        (["cpu"] * 3, [None, None]),
    ]


def test_models_that_goals_share_are_measured_once(
    make_runs: MakeRuns, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    # the package's function of the same name hides the module
    measure = importlib.import_module("mmpoison.evaluation.measure")
    original = measure._of_one

    def counted(name: str, *more: Any) -> Any:
        measured.append(name)
        return original(name, *more)

    sweep = make_runs({"goals": ["sheep2aeroplane", "aeroplane2sheep"]})
    monkeypatch.setattr(measure, "_of_one", counted)
    run_cache = RunCache()
    for run in sweep.runs:
        run_recipe(
            run.recipe, tmp_path / "one" / "runs" / run.id, run_cache=run_cache, save_models=False
        )
    assert measured == ["pretrained", "clean_model", "poisoned", "poisoned"]
    for run in sweep.runs:
        run_recipe(run.recipe, tmp_path / "each" / "runs" / run.id, save_models=False)
    assert numbers(tmp_path / "one") == numbers(tmp_path / "each")


def test_a_folder_of_something_else(make_runs: MakeRuns, tmp_path: Path) -> None:
    sweep = make_runs({"seeds": [0]})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(InputError, match="contains something other than an experiment"):
        run_all(sweep, tmp_path / "out")
    assert not (tmp_path / "out" / "experiment.yaml").exists()


@pytest.mark.usefixtures("workers_here")
def test_a_sweep_killed_at_its_very_beginning_goes_on(
    make_runs: MakeRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_runs({"seeds": [0]})
    run = tmp_path / "out" / "runs" / sweep.runs[0].id
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".experiment.yaml.mmpoison-ab12_xyz").write_text("name: hal")
    forecast(sweep, tmp_path / "out")  # is not refused either
    with monkeypatch.context() as patch:
        patch.setattr("mmpoison.base.workers.Dispatch.run", lambda *_: None)
        run_all(sweep, tmp_path / "out")
    # and so does one of whose runs a worker was killed so early
    run.mkdir(parents=True)
    (run / ".recipe.yaml.mmpoison-ab12_xyz").touch()
    assert run_all(sweep, tmp_path / "out", workers=1).left == 0
    assert (run / "metrics.json").is_file()
    assert not list(run.rglob(".*"))


@pytest.mark.usefixtures("workers_here")
def test_a_forecast_makes_nothing_and_knows_what_finished_here(
    make_runs: MakeRuns, tmp_path: Path, own_cache: Path
) -> None:
    sweep = make_runs({"grid": {"attack.samples": [1, 2]}})
    assert forecast(sweep, tmp_path / "out") == Forecast(2, 0, unknown=2)
    assert not (tmp_path / "out").exists()
    run_all(sweep, tmp_path / "out")
    assert forecast(sweep, tmp_path / "out") == Forecast(2, 2)
    # another seed and goal of the same settings are alike, another amount of poison is not
    more = make_runs(
        {"grid": {"attack.samples": [2, 3]}, "goals": ["aeroplane2sheep"], "seeds": [5]}
    )
    found = forecast(more, tmp_path / "other")
    assert (found.total, found.done, found.unknown) == (2, 0, 1)
    assert 0 < found.seconds < 600
    assert found.bytes > 1000
    again = make_runs({"grid": {"attack.samples": [2, 2.0]}})
    assert forecast(again, tmp_path / "other").unknown == 1


@pytest.mark.usefixtures("workers_here")
def test_a_refused_run_is_a_note_where_the_list_says_so(
    make_runs: MakeRuns, tmp_path: Path, own_cache: Path
) -> None:
    runs = make_runs({"grid": {"attack.samples": [999, 2]}})
    state = run_all(replace(runs, note_refusals=True), tmp_path / "out")
    assert not state.failed
    assert len(state.done) == 2
    metrics = Metrics.read(tmp_path / "out/runs/samples=999-seed0/metrics.json")
    assert str(metrics.run.note).startswith("not possible: goal sheep2aeroplane: 999 samples")
    (row,) = RunRead.of_folder(tmp_path / "out/runs/samples=999-seed0").rows
    assert (row["study"], row["goal"], row["run.note"]) == ("nothing", None, metrics.run.note)
    # what stops every run is none
    broken = make_runs({"seeds": [0]}, data={"name": str(tmp_path / "nothing")})
    assert len(run_all(replace(broken, note_refusals=True), tmp_path / "none").failed) == 1


def test_tasks_that_share_most_with_what_a_worker_has_come_first() -> None:
    def task(*group: str) -> Any:
        return SimpleNamespace(group=group)

    dispatch = Dispatch(SweepState(4), 0, lambda state: None, lambda failures: None)
    other, same_data, same_model = task("d2", "p3"), task("d1", "p2"), task("d1", "p1")
    dispatch.waiting = [other, same_data, same_model]
    groups: set[tuple[str, ...]] = {("d1", "p1"), ("d2", "p3")}
    assert dispatch._next(("d1", "p1"), groups) is same_model
    assert dispatch._next(("d1", "p1"), groups) is same_data
    # nothing is loaded: what no worker has
    dispatch.waiting = [other, same_model, fresh := task("d1", "p4")]
    assert dispatch._next((), groups) is fresh


def test_what_runs_share_is_loaded_once(make_runs: MakeRuns) -> None:
    recipe = make_runs(None).runs[0].recipe
    run_cache = RunCache(keep=1)
    pairs = run_cache.pairs(recipe.data, 0)
    assert run_cache.pairs(recipe.data, 0) is pairs
    assert run_cache.pairs(recipe.data, 1) is not pairs
    assert run_cache.pairs(recipe.data, 0) is not pairs  # only one is kept


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:{closed}", "no Ray cluster answers"),
        ("ray://[::1]:{closed}", "no Ray cluster answers"),
        ("no-such-host.invalid:6379", "no Ray cluster answers"),
        ("head-node", "HOST:PORT or ray://HOST:PORT"),
        ("127.0.0.1:99999", "HOST:PORT or ray://HOST:PORT"),
        ("http://127.0.0.1:80", "HOST:PORT or ray://HOST:PORT"),
    ],
)
def test_a_cluster_that_is_not_there_is_refused_at_once(
    make_runs: MakeRuns, tmp_path: Path, address: str, said: str
) -> None:
    pytest.importorskip("ray")
    with socket.socket() as held:  # bound and not listening: whoever knocks is refused
        held.bind(("127.0.0.1", 0))
        address = address.format(closed=held.getsockname()[1])
        with pytest.raises(InputError, match=f"^--ray {re.escape(address)}: .*{said}"):
            run_all(make_runs({"seeds": [0]}), tmp_path / "out", ray=address)
    assert not (tmp_path / "out").exists()


def one_by_one(sweep: RunList, out: Path) -> dict[str, Any]:
    """The numbers of a sweep whose runs were done one after the other, here, with nothing made before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMPOISON_CACHE", str(out / "cache"))
        for run in sweep.runs:
            run_recipe(run.recipe, out / "runs" / run.id, save_models=False)
    return numbers(out)


@pytest.mark.slow
def test_a_driver_that_is_killed_loses_nothing_that_is_done(
    make_runs: MakeRuns, tmp_path: Path, own_cache: Path
) -> None:
    sweep, out = make_runs({"grid": {"attack.samples": [1, 2, 3]}}), tmp_path / "out"
    recipe, said = str(tmp_path / "recipe.yaml"), tmp_path / "first.txt"
    command = [sys.executable, "-m", "mmpoison", "run", recipe, "--out", str(out)]
    with said.open("w") as log:
        driver = subprocess.Popen([*command, "--workers", "2"], stdout=log, stderr=log)
        try:
            end = time.monotonic() + 600
            while not list(out.glob("runs/*/metrics.json")) and time.monotonic() < end:
                assert driver.poll() is None, said.read_text()
                time.sleep(0.05)
        finally:
            driver.kill()
            driver.wait()
    done = {file: file.stat().st_mtime_ns for file in out.glob("runs/*/metrics.json")}
    kept = trainings()
    assert done
    assert kept
    state = run_all(sweep, out, workers=2)
    assert not state.failed
    assert state.left == 0
    assert state.found >= len(done)
    # no run that was there was made again, nor was a model trained again
    assert {file: file.stat().st_mtime_ns for file in done} == done
    after = trainings()
    assert {key: after[key] for key in kept} == kept
    # the clean model belongs to none of them: it was made once, and the others waited for it
    assert sum("clean_model" in models for models in made(out).values()) <= 1
    assert len(after) == 1 + len(sweep.runs)
    assert numbers(out) == one_by_one(sweep, tmp_path / "one")
    listed = yaml.safe_load((out / "experiment.yaml").read_text())
    assert listed["sweep"] == {"grid": {"attack.samples": [1, 2, 3]}}


@pytest.mark.slow
def test_ray_gives_the_same_and_survives_a_kill(
    make_runs: MakeRuns, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    # by default Ray's workers give way to all others, here to the tests that run beside them
    monkeypatch.setenv("RAY_worker_niceness", "0")
    sweep, out = make_runs({"grid": {"attack.samples": [1, 2]}}), tmp_path / "ray"
    killed = kill_the_first_worker(monkeypatch)
    try:
        state = run_all(sweep, out, workers=2, ray="local")
    finally:
        ray.shutdown()
    assert killed
    assert not state.failed
    assert state.left == 0
    assert numbers(out) == one_by_one(sweep, tmp_path / "one")
