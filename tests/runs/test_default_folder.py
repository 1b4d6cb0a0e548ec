"""The folder of a run that names none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.conftest import squares_recipe

from mmpoison.api.running import run_folder
from mmpoison.runs.recipe import Recipe, parse_recipe


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(**changes: Any) -> Recipe:
    return parse_recipe(squares_recipe(Path("squares"), Path("model"), **changes), "test")


def begun(one: Recipe) -> Path:
    folder = run_folder(one)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(one.to_yaml(), encoding="utf-8")
    return folder


def test_the_same_command_finds_its_folder_again(here: Path) -> None:
    plain = begun(recipe())
    assert plain == Path("runs/squares-sheep2aeroplane-add-seed0")
    assert run_folder(recipe()) == plain


def test_other_settings_have_a_folder_of_their_own(here: Path) -> None:
    plain = begun(recipe())
    other, third = recipe(training={"epochs": 2}), recipe(training={"epochs": 3})
    folder = begun(other)
    assert folder.name.startswith(f"{plain.name}-")
    assert folder.parent == plain.parent
    assert run_folder(other) == folder
    assert run_folder(third) not in (plain, folder)
    # and the first one still has its own
    assert run_folder(recipe()) == plain
