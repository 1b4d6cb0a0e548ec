"""Which pieces a matrix has, and what is refused before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest
from tests.conftest import CLASSES, refusal

from mmpoison.runs.recipe import parse_recipe
from mmpoison_lab.matrix.part import MatrixPart, MatrixRecipe
from mmpoison_lab.matrix.plan import chosen_part, draw_goals, matrix_runs

from .conftest import PART


def part_of(**changes: Any) -> MatrixPart:
    return MatrixPart.model_validate({**PART, **changes})


def with_part(recipe: MatrixRecipe, part: MatrixPart) -> MatrixRecipe:
    return recipe.model_copy(update={"matrix": part})


def test_rows_share_goals_and_seeds(matrix_recipe: MatrixRecipe) -> None:
    three = {"attack": "multiple-target-labels", "samples": 2}
    rows = {
        **PART["rows"],
        "III": {**three, "goals": 2},
        "one target": {**three, "goals": 3, "one_target": True},
    }
    part = part_of(goals=4, seeds=[5, 6], rows=rows)
    runs = matrix_runs(with_part(matrix_recipe, part), CLASSES).runs
    assert len({run.id for run in runs}) == len(runs) == 2 * (1 + 4 + 4 + 4) * 4
    labels = [run.recipe.labels for run in runs]
    columns = ["none", *PART["columns"]]
    assert [one.defence for one in labels if one] == columns * (len(runs) // 4)
    of_row = {
        name: [
            (one.goal, run.recipe.seed)
            for one, run in zip(labels, runs, strict=True)
            if one and one.attack == name
        ]
        for name in rows
    }
    assert of_row["II-own"] == of_row["III"] == of_row["one target"]
    for run in runs:
        row = run.recipe.labels and run.recipe.labels.attack
        if row in ("III", "one target"):
            goals = run.recipe.attack.goals
            originals, targets = zip(*(goal.split("2") for goal in goals), strict=True)
            assert len(set(originals)) == len(originals)
            assert len(set(targets)) == (1 if row == "one target" else 2)
            assert not set(targets) & set(originals)
    # seed by seed, so that workers share what they have loaded
    assert [run.recipe.seed for run in runs] == [5] * 52 + [6] * 52


def test_a_row_that_is_near_gets_its_target_when_it_runs(matrix_recipe: MatrixRecipe) -> None:
    rows = {"near": {"attack": "single-target-label", "samples": 2, "near": True}}
    recipe = with_part(matrix_recipe, part_of(rows=rows))
    plain = matrix_runs(recipe, CLASSES).runs
    near = matrix_runs(recipe, CLASSES, lambda original, run: f"like-{original}").runs
    original = plain[0].recipe.attack.goals[0].split("2")[0]
    assert {run.recipe.attack.goal for run in near} == {f"{original}2like-{original}"}
    # it is paired by the goal that was drawn
    assert [run.id for run in near] == [run.id for run in plain]
    assert {run.recipe.labels and run.recipe.labels.goal for run in near} == {
        plain[0].recipe.attack.goal
    }


def test_null_leaves_a_row_out() -> None:
    assert list(part_of(rows={**PART["rows"], "II-own": None}).rows) == ["clean"]


def test_settings_are_chosen_on_a_goal_that_is_left_out(matrix_recipe: MatrixRecipe) -> None:
    part = part_of(goals=8)
    (tuned,) = draw_goals(part, CLASSES, tuning=True)
    goals = draw_goals(part, CLASSES)
    assert tuned not in goals
    # more goals begin with the same ones
    assert draw_goals(part_of(goals=3), CLASSES) == goals[:3]
    runs = matrix_runs(with_part(matrix_recipe, part), CLASSES, tuning=True)
    assert {(run.recipe.attack.goals[:1] == [tuned], run.recipe.seed) for run in runs.runs} == {
        *((True, 0), (False, 0))
    }
    assert runs.about["matrix"]["tuning"]
    assert "13 classes" not in refusal(draw_goals, part_of(goals=12), CLASSES)
    with pytest.raises(ValueError, match="Seed 5 is reserved for tuning: try --seeds 6-8"):
        part_of(tuning_seed=5)


def test_a_registered_name_is_a_row_or_column() -> None:
    chosen = chosen_part(part_of(), ["orphan", "II-own"], ["suspicious-groups", "neighbours"][:1])
    assert list(chosen.rows) == ["orphan", "II-own"]
    assert chosen.rows["orphan"].options == {"samples": 25}
    assert chosen.columns["suspicious-groups"].options == {}
    named = chosen_part(part_of(), columns=["clean-finetune"], goals=3, seeds=[8, 9])
    assert (named.goals, named.seeds) == (3, [8, 9])
    assert list(named.rows) == list(PART["rows"])
    several = chosen_part(part_of(), ["multiple-target-labels"]).rows["multiple-target-labels"]
    assert several.goals == 2
    assert refusal(chosen_part, part_of(), ["orphann"]).startswith(
        "--with rows: unknown row 'orphann': did you mean 'orphan'?"
    )
    unknown = refusal(chosen_part, part_of(), [], ["x"])
    assert "--with columns: unknown column 'x'" in unknown
    assert unknown.count("relevance-filter") == 1  # a column that is named as its defence
    assert "seeds" in refusal(chosen_part, part_of(), seeds=[0])


def test_a_control_brings_the_filter_along_that_it_is_compared_with() -> None:
    control = {"method": "relevance-filter", "as_many_as": "relevance-filter"}
    part = part_of(columns={"control": control, **PART["columns"]})
    assert list(chosen_part(part, columns=["control"]).columns) == ["control", "relevance-filter"]
    with pytest.raises(ValueError, match="drops as many as another"):
        part_of(
            columns={"control": control, "relevance-filter": {**control, "as_many_as": "control"}}
        )


@pytest.mark.parametrize(
    ("kind", "entry", "says"),
    [
        ("rows", {"attack": "single-target-label", "sampels": 2}, "did you mean 'samples'"),
        ("columns", {"method": "relevance-filter"}, "exactly one of threshold"),
        ("columns", {"method": "clean-finetune", "encoder": "x"}, "encoder: defence 'clean-finetune' is of kind"),
    ],
)  # fmt: skip
def test_a_mistake_is_found_first(
    matrix_recipe: MatrixRecipe, kind: str, entry: dict[str, Any], says: str
) -> None:
    part = part_of(**{kind: {"mine": entry}})
    assert says in refusal(matrix_runs, with_part(matrix_recipe, part), CLASSES)


def test_names_that_would_share_a_folder(matrix_recipe: MatrixRecipe) -> None:
    rows = {"a b": {"attack": None}, "a/b": {"attack": None}}
    for part in (part_of(rows=rows), part_of(columns={"none": {"method": "clean-finetune"}})):
        recipe = with_part(matrix_recipe, part)
        assert "two runs have the same folder" in refusal(matrix_runs, recipe, CLASSES)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seeds": [5, 5]}, "a seed is given twice"),
        ({"rows": {"x": {"attack": None, "samples": 3}}}, "a row without an attack has no options"),
        ({"columns": {"x": {"method": "relevance-filter", "as_many_as": "y"}}}, "no column 'y'"),
    ],
)
def test_mistakes_of_the_section_are_one_line(
    matrix_recipe: MatrixRecipe, changes: dict[str, Any], says: str
) -> None:
    value = matrix_recipe.model_dump(mode="json")
    value["matrix"] = {**value["matrix"], **changes}
    assert says in refusal(parse_recipe, value, "mine.yaml", MatrixRecipe)
