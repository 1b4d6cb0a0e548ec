"""A tiny matrix: two attacks and three defences on coloured squares, with frozen trunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import cli, refused, work  # noqa: F401
from tests.conftest import squares_recipe

from mmpoison.runs.recipe import parse_recipe
from mmpoison_lab.matrix.part import MatrixRecipe

HEADS = {
    "epochs": 2,
    "batch_size": 32,
    "precision": "fp32",
    "trainable": "text-head",
    "learning_rate": 1e-3,
    "schedule": "step",
    "warmup_epochs": 0,
}
PART: dict[str, Any] = {
    "goals": 1,
    "seeds": [5],
    "rows": {
        "clean": {"attack": None},
        "II-own": {"attack": "single-target-label", "samples": 2, "carrier": "own"},
    },
    "columns": {
        "relevance-filter": {"method": "relevance-filter", "clean_loss": 0.1},
        "clean-finetune": {"method": "clean-finetune"},
        "rank-gain": {"method": "rank-gain"},
    },
}


def matrix_value(data: Path, model: Path, **changes: Any) -> dict[str, Any]:
    """The recipe as YAML would hold it; changes are of the section `matrix`."""
    return squares_recipe(
        data,
        model,
        training=HEADS,
        filter={"encoder": "pretrained", "clean_loss": 0.1, "trusted": "none", "force": True},
        sterilize={"training": {**HEADS, "max_steps": 2}},
        matrix={**PART, **changes},
    )


def as_matrix(value: dict[str, Any]) -> MatrixRecipe:
    recipe = parse_recipe(value, "test", MatrixRecipe)
    assert isinstance(recipe, MatrixRecipe)
    return recipe


@pytest.fixture
def matrix_recipe(square_folder: Path, checkpoint: Path) -> MatrixRecipe:
    return as_matrix(matrix_value(square_folder, checkpoint))
