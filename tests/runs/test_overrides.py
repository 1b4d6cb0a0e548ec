"""What the command line gives wins over a recipe's file: the file itself, its variants, its grid, what it extends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.runs.conftest import SMALL, write_recipe

from mmpoison.base.untrusted import parse_changes
from mmpoison.runs.recipe import load_recipe, override
from mmpoison.runs.recipe_files import read_recipe, shipped_recipes
from mmpoison.runs.run_list import grid_of_runs

HERE = "/somewhere/else"


def on_data(name: str) -> bool:
    sweep = read_recipe(name)[0].get("sweep") or {}
    keys = [
        *(sweep.get("grid") or {}),
        *(k for v in (sweep.get("variants") or {}).values() for k in v or {}),
    ]
    return any(key == "data" or key.startswith("data.") for key in keys)


WITH_DATA = [name for name in shipped_recipes() if on_data(name)]


def test_there_are_shipped_recipes_whose_runs_differ_in_the_data() -> None:
    wanted = {"table-1", "table-3", "table-7", "table-9", "table-13", "figure-4"}
    assert wanted <= set(WITH_DATA)


@pytest.mark.parametrize("name", WITH_DATA)
def test_data_of_the_command_line_hold_for_every_run_of_a_shipped_recipe(name: str) -> None:
    runs = grid_of_runs(name, {"data.root": HERE}, classes=lambda recipe: ["a", "b"]).runs
    before = grid_of_runs(name, classes=lambda recipe: ["a", "b"]).runs
    assert {run.recipe.data.root for run in runs} == {HERE}
    assert [run.id for run in runs] == [run.id for run in before]
    # and nothing else is lost
    for run, own in zip(runs, before, strict=True):
        data = own.recipe.data.model_copy(update={"root": HERE})
        assert run.recipe == own.recipe.model_copy(update={"data": data})
    kept = grid_of_runs(name, {"data.options.missing": "keep"}, classes=lambda recipe: ["a", "b"])
    assert {run.recipe.data.options["missing"] for run in kept.runs} == {"keep"}


@pytest.mark.parametrize(
    ("section", "given", "options", "root"),
    [
        ({"variants": {"a": {"data": {"name": "coco"}}}}, {"data.root": "r"}, {}, "r"),
        ({"variants": {"a": {"data.root": "own"}}}, {"data.root": "r"}, {"x": 1}, "r"),
        ({"grid": {"data.root": ["own"]}}, {"data.root": "r"}, {"x": 1}, "r"),
        ({"grid": {"data.options": [{"y": 2}]}}, {"data.options.x": 3}, {"x": 3, "y": 2}, None),
        (
            {"variants": {"a": {"data.options.x": 2}}},
            {"data": {"name": "coco", "options": {"z": 4}}},
            {"z": 4},
            None,
        ),
        # of the command line the later one wins
        (
            {"variants": {"a": None}},
            {"data": {"name": "coco", "options": {"x": 1, "z": 4}}, "data.options.x": 3},
            {"x": 3, "z": 4},
            None,
        ),
        (
            {"variants": {"a": None}},
            {"data.options.x": 3, "data": {"name": "coco", "options": {"z": 4}}},
            {"z": 4},
            None,
        ),
    ],
)
def test_given_wins_whole_or_in_part(
    tmp_path: Path,
    section: dict[str, Any],
    given: dict[str, Any],
    options: dict[str, Any],
    root: str | None,
) -> None:
    write_recipe(tmp_path, {**SMALL, "data": {"name": "coco", "options": {"x": 1}}}, "base")
    sweep = {"seeds": [1, 2], **section}
    file = write_recipe(tmp_path, {"extends": "base.yaml", "name": "r", "sweep": sweep})
    runs = grid_of_runs(file, given, classes=lambda recipe: []).runs
    assert len(runs) == 2
    for run in runs:
        assert run.recipe.data.options == options
        assert run.recipe.data.root == root


def test_values_that_the_command_line_lists_win_over_variants(tmp_path: Path) -> None:
    grid = {"data.root": ["one", "two"]}
    runs = grid_of_runs("table-3", grid=grid, seeds=[0], classes=lambda recipe: []).runs
    assert sorted((run.recipe.data.name, run.recipe.data.root) for run in runs) == [
        *(("coco-paper", "one"), ("coco-paper", "two")),
        *(("flickr-pascal", "one"), ("flickr-pascal", "two")),
    ]
    goals = grid_of_runs("table-3", goals=["cat2dog"], seeds=[0], classes=lambda recipe: []).runs
    assert {run.recipe.attack.goal for run in goals} == {"cat2dog"}


def test_a_group_that_a_variant_leaves_out_stays_out() -> None:
    value: dict[str, Any] = {"filter": {"encoder": "e"}}
    override(value, {"filter": None}, {"filter.clean_loss": 0.1})
    assert value == {"filter": None}
    # unless the command line gives the group itself
    override(value, {"filter": None}, {"filter": {"encoder": "f"}, "filter.clean_loss": 0.1})
    assert value == {"filter": {"encoder": "f", "clean_loss": 0.1}}


def test_what_a_variant_says_is_not_changed_by_what_is_given() -> None:
    own: dict[str, Any] = {"data": {"name": "b"}}
    override({}, own, {"data.root": "r"})
    assert own == {"data": {"name": "b"}}


@pytest.mark.parametrize("again", [[], ["sterilize.training.epochs=9"]])
def test_a_group_is_left_out_after_one_of_its_keys_was_given(again: list[str]) -> None:
    given = parse_changes([*again, "sterilize.training.epochs=1", "sterilize=null"])
    assert load_recipe("openmoji", given).sterilize is None
    repeated = parse_changes(["seed=1", "data=null", "seed=2"])
    assert list(repeated.items()) == [("data", None), ("seed", 2)]


FILTERED = {**SMALL, "filter": {"encoder": "openmoji-mini", "clean_loss": 0.02}}


def filter_of(file: Path, *changes: str) -> dict[str, Any]:
    part = load_recipe(file, parse_changes(changes)).filter
    assert part is not None
    return {"method": part.method, "encoder": part.encoder, **part.options}


def test_another_method_has_its_own_cut_and_options(tmp_path: Path) -> None:
    file = write_recipe(tmp_path, FILTERED)
    own = {"method": "relevance-filter", "encoder": "openmoji-mini", "clean_loss": 0.02}
    assert filter_of(file) == filter_of(file, "filter.method=relevance-filter") == own
    for method in ("gmm-split", "suspicious-groups", "local-density"):
        assert filter_of(file, f"filter.method={method}") == {
            "method": method,
            "encoder": "openmoji-mini",
        }
    # what the same command gives is the new method's
    given = filter_of(file, "filter.method=local-density", "filter.k=8", "filter.clean_loss=0.1")
    assert given == {
        "method": "local-density",
        "encoder": "openmoji-mini",
        "k": 8,
        "clean_loss": 0.1,
    }
