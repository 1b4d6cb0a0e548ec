"""Small recipes, and a worker of Ray that is killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import squares_recipe

from mmpoison.base.workers import RayWorker
from mmpoison.errors import InputError
from mmpoison.runs.recipe import load_recipe
from mmpoison.runs.run_list import RunList, grid_of_runs

MakeRuns = Callable[..., RunList]

SMALL: dict[str, Any] = {
    "name": "small",
    "data": {"name": "openmoji"},
    "model": {"name": "openmoji-small"},
    "attack": {"name": "single-target-label", "goal": "sheep2aeroplane", "samples": 5},
    "training": {"epochs": 1},
}


def write_recipe(folder: Path, value: Any, name: str = "recipe") -> Path:
    file = folder / f"{name}.yaml"
    if isinstance(value, bytes):
        file.write_bytes(value)
    else:
        text = value if isinstance(value, str) else yaml.safe_dump(value, sort_keys=False)
        file.write_text(text)
    return file


def refusal(
    recipe: Path | str, changes: dict[str, Any] | None = None, *, names_file: bool = True
) -> str:
    """What is wrong with a recipe, in one line of some length, which begins with its file."""
    with pytest.raises(InputError) as error:
        load_recipe(recipe, changes)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 1000
    if isinstance(recipe, Path) and names_file:
        assert message.startswith(str(recipe))
    return message


def kill_the_first_worker(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Kill the first of Ray's workers as it gets its task; its process id is in the list then."""
    killed: list[int] = []
    original = RayWorker.submit

    def submit(worker: RayWorker, task: Any) -> None:
        original(worker, task)
        if not killed:
            killed.append(worker.pid())
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(RayWorker, "submit", submit)
    return killed


@pytest.fixture
def make_runs(square_folder: Path, checkpoint: Path, tmp_path: Path) -> MakeRuns:
    """A function that makes a small sweep from its section."""

    def make(section: Any, **groups: Any) -> RunList:
        value = squares_recipe(square_folder, checkpoint, **{"sweep": section, **groups})
        file = write_recipe(tmp_path, value)
        return grid_of_runs(file, classes=lambda recipe: [])

    return make


def numbers(out: Path) -> dict[str, Any]:
    """All that was measured, by run."""
    found = {}
    for file in sorted(out.glob("runs/*/metrics.json")):
        metrics = json.loads(file.read_text())
        found[file.parent.name] = {k: metrics[k] for k in ("goal", "ranks", "utility", "drift")}
    return found
