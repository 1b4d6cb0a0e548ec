"""Every recipe that comes with the package: whole, expanded, and of things that exist."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmpoison.attacks import Goal, build_attack
from mmpoison.datasets.catalogue import DATASETS
from mmpoison.datasets.openmoji.scene_data import CLASSES
from mmpoison.datasets.published.flickr8k import KEYWORDS
from mmpoison.datasets.published.visual_genome import PAPER_KEYWORDS
from mmpoison.models import MODELS
from mmpoison.runs.recipe import Recipe, load_recipe
from mmpoison.runs.recipe_files import (
    list_recipes,
    listed_recipes,
    recipe_files,
    shipped_recipes,
)
from mmpoison.runs.run_list import RunList, grid_of_runs
from mmpoison_lab.matrix.part import MatrixRecipe, load_matrix
from mmpoison_lab.matrix.plan import matrix_runs
from mmpoison_lab.paper import PAPER

PASCAL: tuple[str, ...] = tuple(CLASSES)
KNOWN_CLASSES = {
    "openmoji": PASCAL,
    "flickr-pascal": PASCAL,
    "vg-pascal": PASCAL,
    "pascal-sentences": PASCAL,
    "flickr8k": tuple(KEYWORDS),
    "rsicd": ("baseballfield", "port"),
    "coco-paper": ("boat", "dog", "zebra", "train"),
    "coco-m": ("boat", "dog"),
    "coco-s": ("boat", "dog"),
}
TABLES = [name for name in PAPER if name.startswith(("table", "figure"))]


def classes_of(name: str) -> tuple[str, ...]:
    return KNOWN_CLASSES[name.removesuffix("-b").removesuffix("-vg")]


@cache
def sweep_of(name: str) -> RunList:
    return grid_of_runs(name, classes=lambda recipe: classes_of(recipe.data.name))


def test_every_table_and_figure_has_one_file_for_all_data() -> None:
    assert set(TABLES) == {name for name in recipe_files() if name.startswith(("table", "figure"))}
    wanted = {f"{name}{on}" for name in TABLES for on in ("", "-openmoji", "-flickr8k")}
    assert wanted <= set(shipped_recipes())
    assert {"openmoji", "flickr8k", "flickr-pascal", "coco-paper"} <= set(shipped_recipes())
    assert len(shipped_recipes()) == len(set(shipped_recipes())) == 94


def test_recipes_are_listed_as_a_person_counts() -> None:
    lines = list_recipes()
    names = [line.split()[0] for line in lines]
    assert names == list(recipe_files())
    assert names.index("table-9") + 1 == names.index("table-10")
    assert names.index("figure-5a") + 2 == names.index("figure-6")
    assert max(map(len, lines)) <= 160
    (third,) = (line for line in lines if line.startswith("table-3 "))
    assert third.endswith(
        "--on paper | openmoji | flickr8k  11 min  Table 3: attack II, captions of one class on images of another."
    )


def test_a_time_is_the_one_that_the_header_says() -> None:
    times = {row.name: row.minutes for row in listed_recipes()}
    assert (times["openmoji"], times["flickr8k-full"]) == (6, None)
    for name in TABLES:
        text = recipe_files()[name].read_text(encoding="utf-8")
        (line,) = (line for line in text.splitlines() if f"run {name} --on openmoji " in line)
        words = line.split()
        minutes = [words[n - 1] for n, word in enumerate(words) if word in ("minute", "minutes")]
        # an estimate ("about") is no measurement, and is not listed
        assert str(times[name]) == ("None" if "about" in words else minutes[0]), line
    # never measured: no time is made up
    assert times["flickr-pascal"] is times["coco-paper"] is None


@pytest.mark.parametrize("name", recipe_files())
def test_the_header_says_what_it_is_and_its_commands(name: str) -> None:
    text = recipe_files()[name].read_text(encoding="utf-8")
    title, empty, *lines = text.partition("\nname:")[0].splitlines()
    assert re.fullmatch(r"# \w.*\.", title)
    assert empty == "#"
    value = yaml.safe_load(text)
    assert value["name"] == name
    others = list(value.get("on_data", {}))[1:]
    command = "mmpoison demo" if name == "demo" else f"mmpoison run {name}"
    for place, wanted in enumerate([command, *(f"{command} --on {on}" for on in others)]):
        assert re.match(rf"# {re.escape(wanted)}(?=  |$)|.* --data-root DIR  ", lines[place])
    of_paper = name in PAPER
    recipe = load_recipe(name, model=MatrixRecipe)
    assert bool(others) == (of_paper or name == "matrix")
    assert of_paper == (recipe.sweep is not None)


@pytest.mark.parametrize("name", shipped_recipes())
def test_it_survives_being_written(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, model=MatrixRecipe)
    assert recipe.name == name
    assert recipe.description
    written = tmp_path / "recipe.yaml"
    written.write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(written, model=MatrixRecipe) == recipe


@pytest.mark.parametrize("name", [n for n in shipped_recipes() if "matrix" not in n])
def test_all_its_runs_can_be_made(name: str) -> None:
    sweep = sweep_of(name)
    assert sweep.runs
    assert len({run.id for run in sweep.runs}) == len(sweep.runs)
    alike = {run.recipe.model_copy(update={"seed": 0}).model_dump_json(): run for run in sweep.runs}
    for run in alike.values():
        check(run.recipe)


@pytest.mark.parametrize("name", ["table-1", "table-4"])
def test_attack_3_on_coco_has_the_papers_rate(name: str) -> None:
    runs = [run.recipe for run in sweep_of(name).runs]
    (options,) = {
        tuple(sorted(recipe.attack.options.items(), key=lambda item: item[0]))
        for recipe in runs
        if recipe.data.name == "coco-paper" and len(recipe.attack.goals) == 2
    }
    given = {key: value for key, value in options if value is not None}
    assert given["rate"] == 0.0052
    assert "samples" not in given


def test_visual_genome_is_poisoned_by_its_keywords() -> None:
    words = load_recipe("vg-pascal").attack.options["words"]
    assert tuple(words) == PAPER_KEYWORDS["sheep"]


@pytest.mark.parametrize("twin", ["openmoji", "flickr8k"])
def test_sizes_shrink_every_part_of_the_training_data(twin: str) -> None:
    shares = {
        run.recipe.data.options.get("train_share") for run in sweep_of(f"figure-5a-{twin}").runs
    }
    assert shares == {1.0, 0.5, 0.25}


@pytest.mark.parametrize("name", ["figure-1", "table-11", "table-13", "table-14"])
def test_drift_is_measured_with_a_second_clean_model(name: str) -> None:
    for twin in ("", "-openmoji", "-flickr8k"):
        assert all("order-drift" in run.recipe.study for run in sweep_of(name + twin).runs)


def check(recipe: Recipe) -> None:
    source = DATASETS[recipe.data.name]
    assert set(recipe.data.options) <= set(source.options)
    goals = [Goal.parse(goal, classes_of(recipe.data.name)) for goal in recipe.attack.goals]
    assert all(goal.original != goal.target for goal in goals)
    build_attack(
        recipe.attack.name, recipe.attack.goals, recipe.attack.options, "recipe key attack."
    )
    assert MODELS[recipe.model.name].aligned or recipe.model.align is not None
    if recipe.filter is not None:
        assert recipe.filter.encoder in {*MODELS, "pretrained"}
    for part in recipe.transfer:
        assert set(part.data.options) <= set(DATASETS[part.data.name].options)
        for goal in part.goals or recipe.attack.goals:
            Goal.parse(goal, classes_of(part.data.name))


@pytest.mark.parametrize("name", [n for n in shipped_recipes() if n.startswith("matrix")])
def test_a_matrix_can_be_run(name: str) -> None:
    recipe = load_matrix(name)
    assert recipe.matrix is not None
    classes = classes_of(recipe.data.name)
    runs = matrix_runs(recipe, classes).runs
    # never fewer than 6 goals x 3 seeds a cell
    for row, entry in recipe.matrix.rows.items():
        labels = [run.recipe.labels for run in runs]
        of_row = [one for one in labels if one and (one.attack, one.defence) == (row, "none")]
        cells = 6 if name == "matrix-openmoji-both" else 18
        assert len(of_row) == (cells if entry.attack else len(recipe.matrix.seeds))
        if entry.single:
            assert f"{recipe.data.name}-b" in DATASETS
    frozen = name in ("matrix", "matrix-flickr8k")
    assert recipe.training.heads_only == frozen


@pytest.mark.parametrize("name", ["figure-5b-openmoji", "figure-5b-flickr8k", "figure-5b"])
def test_the_heat_map_has_every_goal(name: str) -> None:
    found: set[Any] = {run.recipe.attack.goal for run in sweep_of(name).runs}
    assert len(found) == 380
