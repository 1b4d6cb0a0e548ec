"""`mmpoison poison` and recipes with attackers who optimise images through a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import squares_recipe

from mmpoison.runs.prepared_run import prepare_run
from mmpoison.runs.progress import SilentProgress
from mmpoison.runs.recipe import parse_recipe
from mmpoison.runs.run_cache import RunCache

Cli = Callable[..., Any]
STEPS = ("--samples", "2", "--set", "steps=3")


@pytest.mark.parametrize("attack", ["badclip", "feature-collision"])
def test_it_is_listed_verified_and_made_again(
    cli: Cli, square_folder: Path, checkpoint: Path, tmp_path: Path, fresh_cache: Path, attack: str
) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    options = ("--attack", attack, "--goal", "sheep2aeroplane", *STEPS, "--encoder", checkpoint)
    made = cli("poison", square_folder, "--out", out, *options, "--device", "cpu")
    assert made.code == 0, made.err
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["options"]["encoder"] == str(checkpoint)
    (note,) = manifest["notes"]
    assert note.startswith("surrogate tiny")
    assert {path.name for path in (out / "added").iterdir()} == {
        Path(name).name for name in manifest["added_images"]
    }
    # what was computed is not needed
    shutil.rmtree(fresh_cache)
    assert cli("data", "verify", out, "--clean", square_folder).code == 0
    rebuilt = cli("poison", square_folder, "--out", again, "--from-manifest", out / "manifest.json")
    assert rebuilt.code == 0, rebuilt.err
    for file in ("manifest.json", "captions.jsonl", *manifest["added_images"]):
        assert (again / file).read_bytes() == (out / file).read_bytes()


def test_a_recipe_uses_its_model_and_computes_once(
    square_folder: Path, checkpoint: Path, fresh_cache: Path
) -> None:
    named: list[str] = []

    class Recorder(SilentProgress):
        def progress(self, what: str) -> Callable[[int, int], None]:
            named.append(what)
            return super().progress(what)

    recipe = squares_recipe(
        square_folder,
        checkpoint,
        attack={"name": "badclip", "goal": "sheep2aeroplane", "samples": 2, "steps": 3},
    )
    runs = [
        prepare_run(parse_recipe(recipe, "test"), RunCache(), Recorder(), torch.device("cpu"))
        for _ in range(2)
    ]
    assert named.count("badclip: optimising the patch") == 1
    first, second = (run.poisoned.manifest for run in runs)
    assert first is not None
    assert first == second
    assert first.notes[0].startswith("surrogate tiny")
