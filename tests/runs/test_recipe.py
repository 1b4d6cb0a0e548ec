"""Recipes: every mistake is one line that says which key, and what was probably meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.runs.conftest import SMALL, refusal, write_recipe

from mmpoison.api.running import run_folder
from mmpoison.base.untrusted import parse_changes
from mmpoison.errors import InputError
from mmpoison.runs.recipe import load_recipe, parse_recipe


def with_key(key: str, value: Any) -> dict[str, Any]:
    changed: dict[str, Any] = yaml.safe_load(yaml.safe_dump(SMALL))
    *parts, last = key.split(".")
    group = changed
    for part in parts:
        group = group.setdefault(part, {})
    group[last] = value
    return changed


# -- files -----------------------------------------------------------------------------------------


def test_a_good_file(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, SMALL))
    assert recipe.attack.goals == ["sheep2aeroplane"]
    assert recipe.attack.options == {"samples": 5}
    assert recipe.seed == 0
    assert recipe.filter is None
    (tmp_path / "again.yml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "again.yml") == recipe


def test_parts_that_0_1_0_does_not_know_are_written_only_where_they_are_set() -> None:
    old = {**SMALL, "sterilize": {"training": {"epochs": 1}}}
    written = yaml.safe_load(parse_recipe(old, "here").to_yaml())
    assert list(written["sterilize"]) == ["training", "pairs", "curve", "every"]
    assert not {"robust_training", "check"} & set(written)
    parts: dict[str, Any] = {
        "robust_training": {"method": "x", "share": 0.5},
        "check": {"false_alarms": 0.05},
        "sterilize": {"method": "y", "scale": 2},
    }
    recipe = parse_recipe({**SMALL, **parts}, "here")
    assert parse_recipe(yaml.safe_load(recipe.to_yaml()), "here") == recipe
    assert recipe.sterilize is not None
    assert recipe.sterilize.options == {"scale": 2}


@pytest.mark.parametrize(
    ("says", "text"),
    [
        *(
            ("not valid YAML", text)
            for text in (
                *("a: [1, 2", "seed: " + "9" * 5000, "!!python/object/apply:os.getcwd []"),
                *("[" * 2000, "a: &a [*a]", 'a: !!int ""', 'name: "\\ud800"'),
            )
        ),
        *(("a recipe is a mapping of keys", text) for text in ("", "just words")),
        ("", b"name: caf\xe9\n"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, says: str, text: str | bytes) -> None:
    assert says in refusal(write_recipe(tmp_path, text))


# -- keys ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("training.xyz", 3, "unknown key 'training.xyz': known here: batch_size, betas, "),
        ("model.align.batchsize", 3, "unknown key 'model.align.batchsize': did you mean"),
        ("filter", {"encoders": "x"}, "filter.encoder"),
        ("sterilize", {}, "training: give the settings of the fine-tune"),
        ("training.min_learning_rate", 1, "min_learning_rate is above learning_rate"),
        ("attack.goal", None, "attack.goal: "),
        ("study", ["x" * 5000], "unknown study"),
        ("training", ..., "training is missing: add it"),
        (
            "transfer",
            [{"dta": {"name": "coco"}, "data": {"name": "x"}}],
            "unknown key 'transfer.0.dta': did you mean 'data'",
        ),
    ],
)
def test_a_wrong_key_or_value(tmp_path: Path, key: str, value: Any, says: str) -> None:
    changed = with_key(key, value)
    if value is ...:
        del changed[key]
    assert says in refusal(write_recipe(tmp_path, changed))


# -- changes on the command line -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("sheep2aeroplane", "sheep2aeroplane"),
        ("null", None),
        ("", None),
        ("[0.9, 0.95]", [0.9, 0.95]),
        ("a=b", "a=b"),
        ("{epochs: 1}", {"epochs": 1}),
    ],
)
def test_values(text: str, value: Any) -> None:
    assert parse_changes([f"some.key={text}"]) == {"some.key": value}


@pytest.mark.parametrize(
    "text",
    [
        *("", "key", "=3", "training.epochs", "key=[1, 2", "key={e: [", "k='e"),
        *("seed=1e999", "seed=-1e999", "seed=" + "9" * 5000, "seed=" + "[" * 2000),
        *("seed=&a [*a]", "seed=.nan"),
    ],
)
def test_what_is_no_change(text: str) -> None:
    with pytest.raises(InputError) as error:
        parse_changes([text])
    message = str(error.value)
    assert message.startswith(f"--set {text!r}: " if len(text) < 20 else "--set 'seed=")
    assert len(message.splitlines()) == 1
    assert len(message) < 500


def test_changes_are_made() -> None:
    recipe = load_recipe(
        "openmoji",
        {
            "training.epochs": 7,
            "attack.mode": "replace",
            "attack.carrier": "own",
            "data.options.unlabelled": 300,
            "model.align.epochs": 2,
            "filter": None,
        },
    )
    assert recipe.training.epochs == 7
    assert recipe.attack.options["mode"] == "replace"
    assert recipe.attack.options["carrier"] == "own"
    assert run_folder(recipe).name.endswith("replace-own-seed0")
    assert recipe.data.options["unlabelled"] == 300
    assert recipe.model.align is not None
    assert recipe.filter is None
    assert load_recipe("openmoji").training.epochs != 7


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"training.epochs.x": 2}, "'epochs' is not a group of keys"),
        ({"study": 3}, "give a list of names, or all"),
        (
            {"transfer": [{"data": {"name": "x"}}, {"data": {"name": "x"}}]},
            "two transfer data sets have the same name",
        ),
    ],
)
def test_a_change_that_fits_nowhere(change: dict[str, Any], says: str) -> None:
    assert says in refusal("openmoji", change)


# -- odd values --


def test_a_date_that_is_none_stays_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(SMALL) + "description: 2001-99-99\n")
    assert load_recipe(tmp_path / "x.yaml").description == "2001-99-99"
