"""Small sweeps, and what they measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import squares_recipe
from tests.runs.conftest import write_recipe

from mmpoison.runs.sweeps.sweep import Sweep, load_sweep

MakeSweep = Callable[..., Sweep]


@pytest.fixture
def make_sweep(square_folder: Path, checkpoint: Path, tmp_path: Path) -> MakeSweep:
    """A function that makes a small sweep from its section."""

    def make(section: Any, **groups: Any) -> Sweep:
        value = squares_recipe(square_folder, checkpoint, **{"sweep": section, **groups})
        file = write_recipe(tmp_path, value)
        return load_sweep(file, classes=lambda recipe: [])

    return make


def numbers(out: Path) -> dict[str, Any]:
    """All that was measured, by run."""
    found = {}
    for file in sorted(out.glob("runs/*/metrics.json")):
        metrics = json.loads(file.read_text())
        found[file.parent.name] = {k: metrics[k] for k in ("goal", "ranks", "utility", "drift")}
    return found
