"""Options as people give them: text is what the data set wants it to be, and nonsense is one line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mmpoison.datasets import DATASETS
from mmpoison.datasets.fetch.build import DOWNLOADS
from mmpoison.datasets.options import fit_options
from mmpoison.errors import InputError


def load(  # type: ignore[no-untyped-def]
    root: Path,
    *,
    year: int | str | None = None,
    seed: int = 0,
    share: float = 0.5,
    images: bool = True,
    column: str | None = None,
    folder: str | Path | None = None,
    names: Sequence[str] | str = (),
    free=None,
) -> None:
    """A data set's function, annotated as they are."""


KNOWN = ("year", "seed", "share", "images", "column", "folder", "names", "free")


def fit(**given: Any) -> dict[str, Any]:
    return fit_options(given, KNOWN, load, "it")


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("column", "|", "|"),
        ("column", "", ""),
        ("column", "on", "on"),
        ("column", "1", "1"),
        ("column", "12:30", "12:30"),
        ("column", "a: b", "a: b"),
        ("column", "{", "{"),
        ("column", "null", None),
        ("column", "'", "'"),
        ("folder", "~/data", "~/data"),
        ("seed", "7", 7),
        ("seed", "-7", -7),
        ("year", "2017", 2017),
        ("year", "both", "both"),
        ("share", "0.25", 0.25),
        ("share", "1e-1", 0.1),
        ("images", "no", False),
        ("images", "False", False),
        ("images", "on", True),
        ("names", "a photo of a {}.; a {}", "a photo of a {}.; a {}"),
        ("names", "[a, b c]", ["a", "b c"]),
        ("names", "[{}", "[{}"),
        ("free", "anything", "anything"),
    ],
)
def test_text_is_what_the_option_wants(option: str, text: str, value: Any) -> None:
    got = fit(**{option: text})[option]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("option", "value", "fits"),
    [
        ("column", 1, "1"),
        ("column", None, None),
        ("seed", 3, 3),
        ("share", 1, 1),
        ("images", False, False),
        ("folder", Path("x"), Path("x")),
        ("names", ["a"], ["a"]),
        ("free", {"a": 1}, {"a": 1}),
    ],
)
def test_values_of_a_recipe(option: str, value: Any, fits: Any) -> None:
    assert fit(**{option: value}) == {option: fits}


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("seed", "x", "it, option seed=x: a whole number is needed"),
        ("seed", "1.5", "a whole number is needed"),
        ("seed", "9" * 30, "a whole number is needed"),
        ("seed", True, "a whole number is needed"),
        ("seed", None, "a whole number is needed"),
        ("seed", 1.5, "a whole number is needed"),
        ("share", "x", "a number is needed"),
        ("images", "maybe", "true or false is needed"),
        ("images", 1, "true or false is needed"),
        ("column", ["a"], "a text is needed"),
        ("column", {"a": 1}, "a text is needed"),
        ("column", True, "a text is needed"),
        ("names", 3.5, "a text or a list is needed"),
    ],
)
def test_nonsense_is_one_line(option: str, value: Any, said: str) -> None:
    with pytest.raises(InputError) as error:
        fit(**{option: value})
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_an_unknown_option_names_the_right_ones() -> None:
    with pytest.raises(
        InputError, match=r"it has no option 'clumn': did you mean 'column'\? it has"
    ):
        fit(clumn="x")
    with pytest.raises(InputError, match=r"it has no option 'x': it has none$"):
        fit_options({"x": 1}, (), load, "it")


def functions() -> list[tuple[str, Callable[..., Any], tuple[str, ...]]]:
    return [
        *((name, DATASETS[name].load, DATASETS[name].options) for name in DATASETS),
        *((f"build {name}", DOWNLOADS[name].build, DOWNLOADS[name].options) for name in DOWNLOADS),
    ]


@pytest.mark.parametrize("name", [name for name, _, _ in functions()])
def test_every_option_is_a_keyword_with_a_type(name: str) -> None:
    """Without one, `no` would be taken for a text, which is true."""
    _, function, options = next(entry for entry in functions() if entry[0] == name)
    parameters = inspect.signature(function).parameters
    for option in options:
        assert parameters[option].annotation is not inspect.Parameter.empty
        assert parameters[option].kind is inspect.Parameter.KEYWORD_ONLY
