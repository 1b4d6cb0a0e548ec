"""A recipe that extends another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mmpoison.errors import InputError
from mmpoison.runs.recipe import load_recipe, read_recipe


def write(folder: Path, name: str, value: Any) -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(value))
    return file


def test_a_shipped_recipe_with_changes(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "mine",
        {"extends": "openmoji", "name": "mine", "training": {"epochs": 3}, "filter": None},
    )
    recipe, base = load_recipe(file), load_recipe("openmoji")
    assert recipe.name == "mine"
    assert recipe.training == base.training.model_copy(update={"epochs": 3})
    assert recipe.filter is None
    assert recipe.sterilize == base.sterilize
    # what is written into the run folder stands by itself
    assert "extends" not in recipe.to_yaml()
    assert load_recipe(file, {"training.epochs": 5}).training.epochs == 5


def test_a_file_beside_it_and_a_chain(tmp_path: Path) -> None:
    write(tmp_path, "base", {"extends": "openmoji", "seed": 4, "attack": {"samples": 3}})
    file = write(tmp_path, "mine", {"extends": "base.yaml", "attack": {"goal": "cow2dog"}})
    recipe = load_recipe(file)
    assert (recipe.seed, recipe.attack.options["samples"]) == (4, 3)
    assert recipe.attack.goals == ["cow2dog"]


def test_a_sweep_is_replaced_whole(tmp_path: Path) -> None:
    write(tmp_path, "base", {"extends": "openmoji", "sweep": {"seeds": [0, 1]}})
    file = write(
        tmp_path, "mine", {"extends": "base.yaml", "sweep": {"grid": {"training.epochs": [1, 2]}}}
    )
    assert read_recipe(file)[0]["sweep"] == {"grid": {"training.epochs": [1, 2]}}


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ("openmojy", "unknown recipe 'openmojy': did you mean 'openmoji'"),
        ("mine.yaml", "extend each other in a circle"),
        ("gone.yaml", r"gone\.yaml: no such recipe file"),
        (3, "extends: the name of one recipe is needed, not 3"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, other: Any, says: str) -> None:
    file = write(tmp_path, "mine", {"extends": other})
    with pytest.raises(InputError, match=says) as error:
        load_recipe(file)
    assert len(str(error.value).splitlines()) == 1
