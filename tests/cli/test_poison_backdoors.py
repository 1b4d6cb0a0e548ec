"""`mmpoison poison` and recipes with backdoors, whose sets hold images that the clean set lacks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import squares_recipe

from mmpoison.runs.progress import SilentProgress
from mmpoison.runs.recipe import parse_recipe
from mmpoison.runs.run import run_recipe

Cli = Callable[..., Any]
GOAL = ("--goal", "sheep2aeroplane")


@pytest.mark.parametrize(
    "given",
    [
        ("patch-backdoor", "--rate", "0.1", "--set", "place=random"),
        ("blend-backdoor", "--samples", "3", "--mode", "add", "--set", "noise=per-image"),
    ],
)
def test_it_is_verified_and_made_again(
    cli: Cli, square_folder: Path, tmp_path: Path, fresh_cache: Path, given: tuple[str, ...]
) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    made = cli("poison", square_folder, "--out", out, *GOAL, "--attack", *given)
    assert made.code == 0, made.err
    shutil.rmtree(fresh_cache)
    images = sorted((out / "added").iterdir())
    assert len(images) >= 2
    assert cli("data", "verify", out, "--clean", square_folder).code == 0
    command = ("poison", square_folder, "--from-manifest", out / "manifest.json", "--out", again)
    rebuilt = cli(*command)
    assert rebuilt.code == 0, rebuilt.err
    for file in ("manifest.json", "captions.jsonl"):
        assert (again / file).read_bytes() == (out / file).read_bytes()
    for image in images:
        assert (again / "added" / image.name).read_bytes() == image.read_bytes()


def test_a_run_measures_it_with_and_without_the_trigger(
    square_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    recipe = squares_recipe(
        square_folder,
        checkpoint,
        attack={"name": "patch-backdoor", "goal": "sheep2aeroplane", "samples": 4},
        filter={"encoder": "pretrained", "clean_loss": 0.1},
    )
    out = tmp_path / "run"
    run_recipe(parse_recipe(recipe, "test"), out, save_models=False, progress=SilentProgress())
    metrics = json.loads((out / "metrics.json").read_text())
    rows = metrics["with_trigger"]["sheep2aeroplane"]
    assert set(rows) == {"pretrained", "clean_model", "poisoned", "filtered"}
    assert set(rows) <= set(metrics["goal"]["sheep2aeroplane"])
    assert all(row["targets"] == 4 for row in rows.values())
    # the model was trained on the new images, which only the manifest and the cache have
    assert metrics["run"]["poisoned_pairs"] == 20
    manifest = json.loads((out / "manifest.json").read_text())
    assert len(manifest["added_images"]) == 4
