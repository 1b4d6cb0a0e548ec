"""A sweep is the list of its runs; every mistake in it is one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.runs.conftest import SMALL, write_recipe

from mmpoison.errors import InputError
from mmpoison.runs.recipe import Recipe, load_recipe
from mmpoison.runs.run_list import RunList, grid_of_runs


def classes(recipe: Recipe) -> Sequence[str]:
    return ["boat", "dog", "sheep"]


def sweep(tmp_path: Path, section: Any, **more: Any) -> RunList:
    file = write_recipe(tmp_path, {**SMALL, "sweep": section})
    return grid_of_runs(file, **{"classes": classes, **more})


def test_without_a_section_it_is_one_run(tmp_path: Path) -> None:
    only = sweep(tmp_path, None).runs
    assert [run.id for run in only] == ["seed0"]
    assert only[0].recipe.attack.goals == ["sheep2aeroplane"]


def test_every_variant_with_every_point_goal_and_seed(tmp_path: Path) -> None:
    section = {
        "seeds": [3, 4],
        "goals": ["boat2dog", ["boat2dog", "dog2boat"]],
        "grid": {"attack.samples": [5, 10]},
        "variants": {"plain": None, "long": {"training.epochs": 9}},
    }
    runs = sweep(tmp_path, section).runs
    assert len(runs) == len({run.id for run in runs}) == 16
    assert runs[0].id == "plain-samples=5-boat2dog-seed3"
    assert runs[-1].id == "long-samples=10-boat2dog+dog2boat-seed4"
    last = runs[-1]
    assert last.recipe.training.epochs == 9
    assert last.recipe.attack.options == {"samples": 10}
    assert last.recipe.attack.goals == ["boat2dog", "dog2boat"]
    assert last.recipe.seed == 4
    assert all(run.recipe.sweep is None for run in runs)


def test_a_run_is_the_recipe_that_one_would_write_by_hand(tmp_path: Path) -> None:
    run = sweep(tmp_path, {"seeds": [2], "grid": {"training.epochs": [7]}}).runs[0]
    by_hand = load_recipe(write_recipe(tmp_path, SMALL, "own"), {"training.epochs": 7, "seed": 2})
    assert run.recipe == by_hand
    assert run.recipe.to_yaml() == by_hand.to_yaml()
    assert "sweep" not in by_hand.to_yaml()


def test_all_goals(tmp_path: Path) -> None:
    runs = sweep(tmp_path, {"goals": "all"}).runs
    assert [run.recipe.attack.goal for run in runs] == [
        *("boat2dog", "boat2sheep", "dog2boat", "dog2sheep", "sheep2boat", "sheep2dog")
    ]
    with pytest.raises(InputError, match="have one class or none"):
        sweep(tmp_path, {"goals": "all"}, classes=lambda recipe: ["one"])


def test_given_beside_the_file_holds_for_all(tmp_path: Path) -> None:
    section = {
        "seeds": [0, 1],
        "grid": {"training.epochs": [1, 2]},
        "variants": {"a": {"training.batch_size": 32}, "b": {"training.batch_size": 64}},
    }
    runs = sweep(
        tmp_path, section, changes={"training": {"epochs": 5, "batch_size": 16}}, seeds=[7]
    ).runs
    assert [run.id for run in runs] == ["a-seed7", "b-seed7"]
    assert {(r.recipe.training.epochs, r.recipe.training.batch_size) for r in runs} == {(5, 16)}
    more = sweep(tmp_path, section, grid={"training.epochs": [3], "attack.samples": [1, 2]}).runs
    assert len(more) == 8
    assert {run.recipe.training.epochs for run in more} == {3}
    fixed = sweep(tmp_path, section, changes={"sweep.seeds": [9], "sweep.variants": {}}).runs
    assert [run.id for run in fixed] == ["epochs=1-seed9", "epochs=2-seed9"]


def test_names_are_unique_and_safe(tmp_path: Path) -> None:
    grid = {
        "training.epochs": [1],
        "data.options": [{"unlabelled": 1}, {"unlabelled": 2}],
        "description": ["a/../b", "a*..*b", "." * 300],
    }
    ids = [run.id for run in sweep(tmp_path, {"grid": grid}).runs]
    assert len(set(ids)) == 6
    assert all("/" not in name and len(name) < 140 and not name.startswith(".") for name in ids)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"grids": {}}, "unknown key 'sweep.grids': did you mean 'grid'?"),
        ({"grid": {"training.epochs": []}}, "sweep.grid.training.epochs"),
        ({"variants": {"a": {"filtr": None}}}, "sweep.variants.a: unknown key 'filtr': did you"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, section: Any, says: str) -> None:
    with pytest.raises(InputError) as error:
        sweep(tmp_path, section)
    assert len(str(error.value).splitlines()) == 1
    assert says in str(error.value)
    assert str(tmp_path / "recipe.yaml") in str(error.value)


def test_a_list_of_runs_without_end_is_refused_before_it_is_made(tmp_path: Path) -> None:
    grid = {f"attack.option{n}": list(range(100)) for n in range(6)}
    with pytest.raises(InputError, match=r"1,000,000,000,000 runs are over the limit of 20,000"):
        sweep(tmp_path, {"grid": grid})


def test_a_grid_on_the_command_line_over_one_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sweep\.grid"):
        sweep(tmp_path, {"grid": [1]}, grid={"attack.samples": [1]})
