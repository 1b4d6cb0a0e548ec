"""What is found in a run folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmpoison.attacks import SingleTargetLabel
from mmpoison.datasets import PairDataset
from mmpoison.errors import InputError
from mmpoison.runs.recipe import load_recipe
from mmpoison.runs.run_folder import last_demo, run_checkpoints, run_data


def write_run(folder: Path, *, models: tuple[str, ...], name: str = "demo") -> Path:
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(load_recipe(name).to_yaml(), encoding="utf-8")
    for model in models:
        (folder / "models" / model).mkdir(parents=True)
    return folder


def test_checkpoints_in_the_order_of_comparison(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", models=("poisoned", "clean_model", "judge"))
    found = run_checkpoints(run)
    assert list(found) == ["clean_model", "poisoned"]
    assert found["poisoned"] == run / "models" / "poisoned"


def test_a_run_without_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without --no-models"):
        run_checkpoints(write_run(tmp_path / "run", models=()))


def test_the_last_demo(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(InputError, match=r"runs/ holds no demo run"):
        last_demo(runs)
    older = write_run(runs / "z", models=("poisoned",))
    newer = write_run(runs / "a", models=("poisoned",))
    for run, when in ((older, 1000), (newer, 2000)):
        os.utime(run / "models" / "poisoned", (when, when))
    write_run(runs / "other-recipe", models=("poisoned",), name="flickr8k")
    write_run(runs / "without-models", models=())
    (runs / "broken").mkdir()
    (runs / "broken" / "recipe.yaml").write_text("{: [")
    assert last_demo(runs) == newer


def test_the_data_of_a_run(squares: PairDataset, square_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    recipe = load_recipe("openmoji", {"data.name": str(square_folder), "data.options": {}})
    (run / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    pairs, manifest = run_data(run)
    assert pairs.fingerprint == squares.fingerprint
    assert manifest is None
    poisoned = SingleTargetLabel(goal="sheep2aeroplane", samples=2).poison(squares)
    assert poisoned.manifest is not None
    poisoned.manifest.write(run / "manifest.json")
    assert run_data(run)[1] == poisoned.manifest
