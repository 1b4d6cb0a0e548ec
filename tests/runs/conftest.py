"""Small recipes, and a worker of Ray that is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmpoison.base.workers import RayWorker
from mmpoison.errors import InputError
from mmpoison.runs.recipe import load_recipe

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
