"""Which pieces a matrix has, and what is refused before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest
from tests.conftest import CLASSES, refusal

from mmpoison.errors import InputError
from mmpoison.runs.recipe import parse_recipe
from mmpoison_lab.matrix.part import MatrixPart, MatrixRecipe
from mmpoison_lab.matrix.plan import (
    check_matrix,
    chosen_part,
    column_order,
    draw_goals,
    plan_pieces,
)

from .conftest import PART


def part_of(**changes: Any) -> MatrixPart:
    return MatrixPart.model_validate({**PART, **changes})


def test_rows_share_goals_and_seeds() -> None:
    three = {"attack": "multiple-target-labels", "samples": 2}
    rows = {
        **PART["rows"],
        "III": {**three, "goals": 2},
        "one target": {**three, "goals": 3, "one_target": True},
    }
    pieces = plan_pieces(part_of(goals=4, seeds=[5, 6], rows=rows), CLASSES)
    assert len({piece.id for piece in pieces}) == len(pieces) == 2 * (1 + 4 + 4 + 4)
    of_row = {name: [(p.goal, p.seed) for p in pieces if p.row == name] for name in rows}
    assert of_row["II-own"] == of_row["III"] == of_row["one target"]
    for piece in pieces:
        if piece.row in ("III", "one target"):
            originals, targets = zip(*(goal.split("2") for goal in piece.goals), strict=True)
            assert len(set(originals)) == len(originals)
            assert len(set(targets)) == (1 if piece.row == "one target" else 2)
            assert not set(targets) & set(originals)
    # seed by seed, so that workers share what they have loaded
    assert [piece.seed for piece in pieces] == [5] * 13 + [6] * 13


def test_null_leaves_a_row_out() -> None:
    assert list(part_of(rows={**PART["rows"], "II-own": None}).rows) == ["clean"]


def test_settings_are_chosen_on_a_goal_that_is_left_out() -> None:
    part = part_of(goals=8)
    (tuned,) = draw_goals(part, CLASSES, tuning=True)
    goals = draw_goals(part, CLASSES)
    assert tuned not in goals
    # more goals begin with the same ones
    assert draw_goals(part_of(goals=3), CLASSES) == goals[:3]
    pieces = plan_pieces(part, CLASSES, tuning=True)
    assert {(piece.goal, piece.seed) for piece in pieces} == {("", 0), (tuned, 0)}
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


def test_a_control_comes_after_the_filter_that_it_is_compared_with() -> None:
    columns = {
        "control": {"method": "relevance-filter", "as_many_as": "relevance-filter"},
        **PART["columns"],
    }
    part = part_of(columns=columns)
    order = column_order(part.columns)
    assert order.index("control") > order.index("relevance-filter")
    # and brings it along
    assert list(chosen_part(part, columns=["control"]).columns) == ["control", "relevance-filter"]
    columns["relevance-filter"] = {"method": "relevance-filter", "as_many_as": "control"}
    with pytest.raises(InputError, match="is a circle"):
        column_order(part_of(columns=columns).columns)


@pytest.mark.parametrize(
    ("kind", "entry", "says"),
    [
        ("rows", {"attack": "single-target-label", "sampels": 2}, "did you mean 'samples'"),
        ("rows", {"attack": "single-target-lable", "samples": 2}, "did you mean 'single-target-label'"),
        ("columns", {"method": "clean-finetune", "sped": 2}, "unknown option 'sped'"),
        ("columns", {"method": "relevance-filter"}, "exactly one of threshold"),
        ("columns", {"method": "clean-finetune", "encoder": "x"}, "encoder: defence 'clean-finetune' is of kind"),
    ],
)  # fmt: skip
def test_a_mistake_is_found_first(
    matrix_recipe: MatrixRecipe, kind: str, entry: dict[str, Any], says: str
) -> None:
    part = part_of(**{kind: {"mine": entry}})
    pieces = plan_pieces(part, CLASSES)
    assert says in refusal(check_matrix, matrix_recipe, part, pieces)


def test_names_that_would_share_a_folder(matrix_recipe: MatrixRecipe) -> None:
    rows = {"a b": {"attack": None}, "a/b": {"attack": None}}
    part = part_of(rows=rows)
    assert "two have the same folder" in refusal(check_matrix, matrix_recipe, part, [])
    columns = {"none": {"method": "clean-finetune"}}
    assert "folder 'none'" in refusal(check_matrix, matrix_recipe, part_of(columns=columns), [])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rows": {}}, "matrix.rows"),
        ({"goals": 0}, "matrix.goals"),
        ({"seeds": [5, 5]}, "one is given twice"),
        ({"rows": {"x": {"attack": None, "samples": 3}}}, "a row without an attack has no options"),
        ({"columns": {"x": {"method": "relevance-filter", "as_many_as": "y"}}}, "no column 'y'"),
        ({"cells": 3}, "unknown key 'matrix.cells'"),
    ],
)
def test_mistakes_of_the_section_are_one_line(
    matrix_recipe: MatrixRecipe, changes: dict[str, Any], says: str
) -> None:
    value = matrix_recipe.model_dump(mode="json")
    value["matrix"] = {**value["matrix"], **changes}
    assert says in refusal(parse_recipe, value, "mine.yaml", MatrixRecipe)
