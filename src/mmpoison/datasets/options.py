"""Options of data sets as people give them: text from a command line or values from a recipe, one check for all."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpoison.base.untrusted_yaml import parse_yaml
from mmpoison.errors import InputError

_YES_NO = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
}


def fit_options(
    given: Mapping[str, Any], known: Sequence[str], function: Callable[..., Any], what: str
) -> dict[str, Any]:
    """The options of a function with the types that it is annotated with.

    Text is taken as it stands where text is wanted (a separator `|`, a column called `on`), and read where a number or
    a yes or no is wanted.

    Args:
        given: By name; text, or values as YAML gives them.
        known: Options that there are.
        function: What takes them as keywords.
        what: Whose options they are, for messages ("data set 'coco'").

    Raises:
        InputError: If there is no such option, or the value is of another kind.

    >>> def load(root, *, year: int | None = None, images: bool = True, separator: str = ","): ...
    >>> fit_options({"year": "2017", "separator": "1"}, ["year", "images", "separator"], load, "it")
    {'year': 2017, 'separator': '1'}
    """
    for name in sorted(given):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(
                f"{what} has no option {name!r}: {hint}it has {', '.join(known) or 'none'}"
            )
    parameters = inspect.signature(function).parameters
    return {
        name: _fit(value, _kinds(parameters.get(name)), f"{what}, option {name}={value}")
        for name, value in given.items()
    }


def _kinds(parameter: inspect.Parameter | None) -> set[str]:
    """The names in an annotation; a parameter that has none, or is not told, takes anything."""
    if parameter is None or parameter.annotation is parameter.empty:
        return set()
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return set(re.findall(r"\w+", text))


def _fit(value: Any, kinds: set[str], where: str) -> Any:
    if isinstance(value, str):
        return _read(value, kinds, where)
    if isinstance(value, bool):
        fits = "bool" in kinds
    elif isinstance(value, int):
        if not kinds & {"int", "float"} and "str" in kinds:
            return str(value)  # a column called 1
        fits = bool(kinds & {"int", "float"})
    elif value is None:
        fits = "None" in kinds
    elif isinstance(value, Path):
        fits = bool(kinds & {"Path", "str"})
    elif isinstance(value, float):
        fits = "float" in kinds
    else:
        # lists and tables: what is in them the function sees itself
        fits = bool(kinds - {"bool", "int", "float", "str", "Path", "None"})
    if kinds and not fits:
        raise InputError(f"{where}: {_wanted(kinds)} is needed")
    return value


def _read(text: str, kinds: set[str], where: str) -> Any:
    """Text as the most special kind that it can be."""
    if "None" in kinds and text == "null":
        return None
    if "bool" in kinds and text.lower() in _YES_NO:
        return _YES_NO[text.lower()]
    if "int" in kinds and re.fullmatch(r"[+-]?\d{1,18}", text):
        return int(text)
    if "float" in kinds:
        try:
            return float(text)
        except ValueError:
            pass
    if "Sequence" in kinds and text.startswith("["):
        try:
            listed = parse_yaml(text, where)
        except InputError:
            listed = None
        if isinstance(listed, list):
            return listed
    if kinds and not kinds & {"str", "Path"}:
        raise InputError(f"{where}: {_wanted(kinds)} is needed")
    return text


def _wanted(kinds: set[str]) -> str:
    for kind, words in (
        ("bool", "true or false"),
        ("int", "a whole number"),
        ("float", "a number"),
        ("Sequence", "a text or a list"),
    ):
        if kind in kinds:
            return words
    return "a text"
