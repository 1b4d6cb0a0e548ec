"""Every number of the command line and of a recipe has a range, and says it in one line."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from tests.cli.test_help import PATHS, named
from tests.cli.test_special_paths import BASE

from mmpoison.attacks import ATTACKS, build_attack
from mmpoison.defenses import DEFENSES
from mmpoison.errors import InputError
from mmpoison.runs.recipe import Recipe, load_recipe, resolve_recipe
from mmpoison.training import TrainingSettings

Cli = Callable[..., Any]

NONSENSE = ("-1", "nan", "inf", "9" * 400)


def numbers() -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Every option of every verb that takes numbers."""
    for path in PATHS:
        for parameter in named(path).params:
            descriptor = getattr(parameter, "type_descriptor", None)
            annotation = getattr(descriptor, "annotation", None)
            if {annotation, *get_args(annotation)} & {int, float}:
                yield path, parameter.opts[-1], parameter


NUMBERS = list(numbers())

# floats are checked by what uses them, so the verb must come so far
MORE: dict[str, dict[tuple[str, ...], list[str]]] = {
    "--threshold": {("scan",): ["--method", "relevance-filter"]},
}


def test_the_walk_finds_them() -> None:
    found = {(path[-1], option) for path, option, _ in NUMBERS}
    assert {
        ("poison", "--rate"),
        ("scan", "--threshold"),
        ("sterilize", "--learning-rate"),
    } <= found
    assert {("run", "--workers"), ("build", "--seed"), ("search", "--port")} <= found


@pytest.mark.parametrize(
    ("path", "option", "parameter"),
    [pytest.param(*one, id=f"{' '.join(one[0])} {one[1]}") for one in NUMBERS],
)
def test_an_option(
    cli: Cli, work: Path, path: tuple[str, ...], option: str, parameter: Any
) -> None:
    annotation = parameter.type_descriptor.annotation
    whole = int in {annotation, *get_args(annotation)}
    if whole and option not in ("--samples", "--pairs"):
        # those say the range of the data
        assert parameter.min is not None, f"{option} has no least value"
        assert parameter.max is not None, f"{option} has no largest value"
    verb = " ".join(path)
    command = [*BASE.get(verb, verb).split(), *MORE.get(option, {}).get(path, [])]
    before = sorted(work.rglob("*"))
    for value in NONSENSE:
        result = cli(*command, f"{option}={value}")
        assert result.code == 2, (value, result)
        assert len(result.err.splitlines()) == 1, (value, result.err)
        name = option.lstrip("-").replace("-", "[-_ ]")
        assert "Traceback" not in result.err
        assert_names(result.err, name, value)
    assert sorted(work.rglob("*")) == before


def assert_names(line: str, name: str, value: str) -> None:
    """The message names the option in one of the ways it is written, and not another one."""
    assert re.search(name, line) or re.search("clean_loss|alarms|exactly one", line), (value, line)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, 10**400])
def test_every_number_of_a_recipe(value: Any) -> None:
    tried = 0
    for key in recipe_numbers(Recipe):
        base = load_recipe("openmoji").model_dump(mode="json", exclude={"sweep"})
        with pytest.raises(InputError, match=re.escape(key.split(".")[-1])) as refused:
            resolve_recipe(base, {key: value}, "recipe")
        assert "\n" not in str(refused.value)
        tried += 1
    assert tried >= 20


def recipe_numbers(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Dotted keys of all numbers of a recipe."""
    for name, field in model.model_fields.items():
        kinds = {field.annotation, *get_args(field.annotation)}
        inner = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if inner and name not in ("sweep", "transfer", "as_many_as"):
            yield from recipe_numbers(inner[0], f"{path}{name}.")
        elif kinds & {int, float} and bool not in kinds:
            yield f"{path}{name}"


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, 10**400])
def test_every_number_of_an_attack(value: Any) -> None:
    tried = 0
    for name in ATTACKS:
        goals = ["sheep2boat", "dog2cat"] if name.startswith("multiple") else ["sheep2boat"]
        for option in ("samples", "pairs", "rate", "share"):
            with pytest.raises(InputError, match=option):
                build_attack(name, goals, {option: value})
            tried += 1
    assert tried >= 12


@pytest.mark.parametrize("value", [-(10**9), math.nan, math.inf, -math.inf, 10**400])
def test_every_number_of_a_defense(value: Any) -> None:
    tried = 0
    for name, defense in DEFENSES.items():
        parameters = inspect.signature(defense).parameters
        needed = {"settings": TrainingSettings()} if "settings" in parameters else {}
        for option, parameter in parameters.items():
            kinds = set(re.findall(r"\w+", str(parameter.annotation)))
            if parameter.kind is parameter.VAR_KEYWORD:  # where a filter cuts
                numbers = ["clean_loss", "false_alarms"]
                low, _ = getattr(defense, "score_range")  # noqa: B009 - a filter has it
                if value != -(10**9) or math.isfinite(low):  # else it may be a score
                    numbers.append("threshold")
            else:
                numbers = [option] if kinds & {"int", "float"} and "bool" not in kinds else []
            for number in numbers:
                with pytest.raises(InputError):
                    defense(**needed, **{number: value})
                tried += 1
                assert name
    assert tried >= 9
