"""Every recipe that comes with the package: whole, expanded, and of things that exist."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any

import pytest
import yaml

from mmpoison.attacks import Goal, build_attack
from mmpoison.datasets.catalogue import DATASETS
from mmpoison.datasets.openmoji import CLASSES
from mmpoison.models import MODELS
from mmpoison.paper import PAPER
from mmpoison.runs.recipe import Recipe, load_recipe, shipped_recipes
from mmpoison.runs.sweeps.sweep_runs import Sweep, load_sweep

FOLDER = files("mmpoison.runs") / "recipes"
PASCAL: tuple[str, ...] = tuple(CLASSES)
UCM = (
    *("agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral"),
    *("denseresidential", "forest", "freeway", "golfcourse", "harbor", "intersection"),
    *("mediumresidential", "mobilehomepark", "overpass", "parkinglot", "river", "runway"),
    *("sparseresidential", "storagetanks", "tenniscourt"),
)
KNOWN_CLASSES = {
    "openmoji": PASCAL,
    "flickr-pascal": PASCAL,
    "vg-pascal": PASCAL,
    "rsicd-ucm": UCM,
    "rsicd": ("airport", "beach"),
    "coco-paper": ("boat", "dog", "zebra", "train"),
    "coco-m": ("boat", "dog"),
    "coco-s": ("boat", "dog"),
}
TABLES = [name for name in PAPER if name.startswith(("table", "figure"))]


def classes_of(name: str) -> tuple[str, ...]:
    return KNOWN_CLASSES[name.removesuffix("-b").removesuffix("-vg")]


@cache
def sweep_of(name: str) -> Sweep:
    return load_sweep(name, classes=lambda recipe: classes_of(recipe.data.name))


def test_every_table_and_figure_has_a_recipe_and_its_twins() -> None:
    wanted = {f"{name}{twin}" for name in TABLES for twin in ("", "-openmoji", "-rsicd-ucm")}
    assert wanted <= set(shipped_recipes())


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_header_is_its_command(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    first = text.splitlines()[0]
    command = "mmpoison demo" if name == "openmoji" else f"mmpoison run {name}"
    assert re.match(rf"# {re.escape(command)}(?= |$)", first)
    assert yaml.safe_load(text)["name"] == name
    of_paper = name.removesuffix("-openmoji").removesuffix("-rsicd-ucm") in PAPER
    assert of_paper == (load_recipe(name).sweep is not None)


@pytest.mark.parametrize("name", shipped_recipes())
def test_all_its_runs_can_be_made(name: str) -> None:
    sweep = sweep_of(name)
    assert sweep.runs
    assert len({run.id for run in sweep.runs}) == len(sweep.runs)
    alike = {run.recipe.model_copy(update={"seed": 0}).model_dump_json(): run for run in sweep.runs}
    for run in alike.values():
        check(run.recipe)


def check(recipe: Recipe) -> None:
    source = DATASETS[recipe.data.name]
    assert set(recipe.data.options) <= set(source.options)
    goals = [Goal.parse(goal, classes_of(recipe.data.name)) for goal in recipe.attack.goals]
    assert all(goal.original != goal.target for goal in goals)
    build_attack(
        recipe.attack.name, recipe.attack.goals, recipe.attack.options, "recipe key attack."
    )
    assert recipe.model.name in MODELS
    if recipe.filter is not None:
        assert recipe.filter.encoder in {*MODELS, "pretrained"}
    for part in recipe.transfer:
        assert set(part.data.options) <= set(DATASETS[part.data.name].options)
        for goal in part.goals or recipe.attack.goals:
            Goal.parse(goal, classes_of(part.data.name))


def sizes() -> dict[str, int]:
    return {"figure-5b-openmoji": 380, "figure-5b-rsicd-ucm": 420, "figure-5b": 380}


@pytest.mark.parametrize(("name", "runs"), sizes().items())
def test_the_heat_map_has_every_goal(name: str, runs: int) -> None:
    found: set[Any] = {run.parameters["attack.goal"] for run in sweep_of(name).runs}
    assert len(found) == runs
