"""A recipe that extends another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.runs.conftest import write_recipe

from mmpoison.errors import InputError
from mmpoison.runs.recipe import load_recipe
from mmpoison.runs.recipe_files import read_recipe, recipe_on


def test_a_shipped_recipe_with_changes(tmp_path: Path) -> None:
    file = write_recipe(
        tmp_path,
        name="mine",
        value={"extends": "openmoji", "name": "mine", "training": {"epochs": 3}, "filter": None},
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
    write_recipe(tmp_path, {"extends": "openmoji", "seed": 4, "attack": {"samples": 3}}, "base")
    file = write_recipe(tmp_path, {"extends": "base.yaml", "attack": {"goal": "cow2dog"}}, "mine")
    recipe = load_recipe(file)
    assert (recipe.seed, recipe.attack.options["samples"]) == (4, 3)
    assert recipe.attack.goals == ["cow2dog"]


def test_a_sweep_is_replaced_whole(tmp_path: Path) -> None:
    write_recipe(tmp_path, {"extends": "openmoji", "sweep": {"seeds": [0, 1]}}, "base")
    file = write_recipe(
        tmp_path,
        name="mine",
        value={"extends": "base.yaml", "sweep": {"grid": {"training.epochs": [1, 2]}}},
    )
    assert read_recipe(file)[0]["sweep"] == {"grid": {"training.epochs": [1, 2]}}


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ("openmojy", "unknown recipe 'openmojy': did you mean 'openmoji'"),
        ("mine.yaml", "extend each other in a circle"),
        ("gone.yaml", r"gone\.yaml: no such recipe file"),
        (3, "extends: give the name of one recipe, not 3"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, other: Any, says: str) -> None:
    file = write_recipe(tmp_path, {"extends": other}, "mine")
    with pytest.raises(InputError, match=says) as error:
        load_recipe(file)
    assert len(str(error.value).splitlines()) == 1


ON_DATA = {
    "name": "mine",
    "training": {"epochs": 2},
    "sweep": {"seeds": [0, 1]},
    "on_data": {
        "scenes": {"extends": "openmoji", "sweep": {"grid": {"attack.samples": [5, 25]}}},
        "photos": {"extends": "flickr8k", "training": {"epochs": 3}},
    },
}


@pytest.mark.parametrize(
    ("on", "name", "data", "epochs"),
    [
        ("", "mine", "openmoji", 2),
        ("scenes", "mine", "openmoji", 2),
        ("photos", "mine-photos", "flickr8k", 3),
    ],
)
def test_what_differs_by_the_data(
    tmp_path: Path, on: str, name: str, data: str, epochs: int
) -> None:
    file = str(write_recipe(tmp_path, ON_DATA, "mine"))
    chosen = recipe_on(file, on or None)
    assert chosen == (f"{file}:photos" if on == "photos" else file)
    recipe = load_recipe(chosen)
    assert (recipe.name, recipe.data.name, recipe.training.epochs) == (name, data, epochs)
    assert recipe.sweep is not None
    assert recipe.sweep.seeds == [0, 1]
    # another file may extend the part for one of the data
    other = write_recipe(tmp_path, {"extends": "mine.yaml:photos", "name": "other"}, "other")
    assert load_recipe(other).data.name == "flickr8k"


def test_a_shipped_recipe_on_other_data() -> None:
    assert recipe_on("table-3", None) == recipe_on("table-3", "paper") == "table-3"
    assert recipe_on("table-3", "openmoji") == "table-3-openmoji"
    assert load_recipe("table-14-openmoji").sweep == load_recipe("table-13-openmoji").sweep


@pytest.mark.parametrize(
    ("recipe", "on", "says"),
    [
        ("table-3", "photos", "--on 'photos': recipe table-3 runs on paper, openmoji, flickr8k"),
        ("openmoji", "photos", "recipe openmoji runs on one data set: omit --on"),
        ("mine.yaml", "x", "--on 'x': .*mine.yaml runs on scenes, photos"),
        ("mine.yaml:x", None, "mine.yaml: on_data: no 'x' there, only scenes, photos"),
        ("bad.yaml", None, "bad.yaml: on_data: expected a mapping of names"),
        ("part.yaml", None, "part.yaml: on_data.a: expected a mapping of keys"),
    ],
)
def test_data_that_a_recipe_does_not_have(
    tmp_path: Path, recipe: str, on: str | None, says: str
) -> None:
    write_recipe(tmp_path, ON_DATA, "mine")
    write_recipe(tmp_path, {"on_data": ["openmoji"]}, "bad")
    write_recipe(tmp_path, {"on_data": {"a": 3}}, "part")
    name = str(tmp_path / recipe) if ".yaml" in recipe else recipe
    with pytest.raises(InputError, match=says):
        load_recipe(recipe_on(name, on))
