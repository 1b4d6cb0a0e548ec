"""`preset: reference-release` in a recipe: written out, over the file where asked for, and never half."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from tests.runs.conftest import SMALL, refusal, write_recipe

from mmpoison.runs.recipe import apply_preset, load_recipe


def test_it_is_written_out(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, {**SMALL, "preset": "reference-release"}))
    assert recipe.preset == "reference-release"
    assert recipe.attack.options == {"samples": 5, "preset": "reference-release"}
    assert recipe.training.batch_size == 256
    # the resolved recipe is the same recipe
    assert load_recipe(write_recipe(tmp_path, recipe.to_yaml(), "again")) == recipe


def test_asked_for_it_goes_over_the_file(tmp_path: Path) -> None:
    value = {
        **SMALL,
        "attack": {**SMALL["attack"], "mode": "add"},
        "training": {"batch_size": 32},
    }
    recipe = load_recipe(write_recipe(tmp_path, value), {"preset": "reference-release"})
    assert "mode" not in recipe.attack.options
    assert recipe.training.batch_size == 256


def test_a_frozen_text_encoder_is_frozen_as_in_the_released_code() -> None:
    for trainable, freed in (
        ("image", "text-transformer-frozen"),
        ("both", "both"),
        ("text", "text"),
    ):
        value = {**deepcopy(SMALL), "preset": "reference-release"}
        value["training"] = {"trainable": trainable}
        apply_preset(value, [], "here")
        assert value["training"]["trainable"] == freed


@pytest.mark.parametrize(
    ("value", "changes", "says"),
    [
        ({"training": {"batch_size": 32}}, {}, "means training.batch_size=256, but the recipe sa"),
        ({}, {"training.batch_size": 64}, "means training.batch_size=256, but the recipe says 64"),
        ({"preset": "reference"}, {}, "unknown preset 'reference'"),
        (
            {"attack": {**SMALL["attack"], "preset": "another"}},
            {},
            "preset is 'reference-release' and attack.preset 'another'",
        ),
        ({"training": None}, {}, "training: "),
    ],
)
def test_refused(tmp_path: Path, value: Any, changes: Any, says: str) -> None:
    file = write_recipe(tmp_path, {**SMALL, "preset": "reference-release", **value})
    assert says in refusal(file, changes, names_file=False)
