"""Options of data sets as people give them: text from a command line or values from a recipe, one check for all."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack, get_args, get_origin, get_type_hints

from mmpoison.base.untrusted import parse_yaml
from mmpoison.errors import InputError

NO_OPTIONS = ("seed", "progress", "workers")
"""Keywords that the caller of a loader gives, not the user."""

_YES_NO = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
}


def fit_options(
    given: Mapping[str, Any], function: Callable[..., Any], what: str, more: Sequence[str] = ()
) -> dict[str, Any]:
    """Convert the options of a function to the types of its annotations.

    Text is taken as it stands where text is wanted (a separator `|`, a column called `on`), and read where a number or
    a yes or no is wanted.

    Args:
        given: By name; text, or values as YAML gives them.
        function: What takes them as keywords, see `option_kinds`.
        what: Whose options they are, for messages ("data set 'coco'").
        more: Options that the function takes and does not name.

    Raises:
        InputError: If there is no such option, or the value is of another kind.

    >>> def load(root, *, year: int | None = None, images: bool = True, separator: str = ","): ...
    >>> fit_options({"year": "2017", "separator": "1"}, load, "it")
    {'year': 2017, 'separator': '1'}
    """
    kinds = {**{name: set[str]() for name in more}, **option_kinds(function)}
    for name in sorted(given):
        if name not in kinds:
            # what options of columns and keys were called
            plain = re.sub("_(column|key)$", "", name)
            near = difflib.get_close_matches(plain, kinds, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(
                f"{what} has no option {name!r}: {hint}it has {', '.join(kinds) or 'none'}"
            )
    return {
        name: _fit(value, kinds[name], f"{what}, option {name}={value}")
        for name, value in given.items()
    }


def option_kinds(function: Callable[..., Any]) -> dict[str, set[str]]:
    """Return the options of a loader or builder, and the names in the annotation of each.

    Options are keyword-only parameters but `progress`, and the keys of a `TypedDict` by which `**options` are annotated
    (`Unpack[...]`). An option without annotation takes anything.

    >>> def load(root, seed=0, *, year: int | None = None, progress=None): ...
    >>> sorted(option_kinds(load)["year"])
    ['None', 'int']
    """
    found: dict[str, set[str]] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and name not in NO_OPTIONS:
            found[name] = _kinds(parameter.annotation)
        elif parameter.kind is parameter.VAR_KEYWORD:
            found |= _shared_kinds(function, name)
    return found


def _shared_kinds(function: Callable[..., Any], name: str) -> dict[str, set[str]]:
    """Those of the `TypedDict` that annotates `**name`, none where something else does."""
    try:
        annotation = get_type_hints(function).get(name)
    except (NameError, TypeError):  # names that only a type checker imports
        return {}
    if get_origin(annotation) is not Unpack:
        return {}
    return {key: _kinds(kind) for key, kind in get_type_hints(get_args(annotation)[0]).items()}


def _kinds(annotation: Any) -> set[str]:
    if annotation is inspect.Parameter.empty:
        return set()
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
    """Read text as the most specific kind that fits."""
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


def one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse a value of an option that is none of those allowed."""
    if value not in allowed:
        # 2017 may be given as a number or as text
        known = ", ".join(dict.fromkeys(map(str, allowed)))
        raise InputError(f"data option {name}={value!r}: is none of {known}")


def whole_number(name: str, value: Any, *, least: int = 0) -> int:
    """Read an option as a whole number, also from text.

    >>> whole_number("split_seed", "3")
    3
    """
    try:
        number = int(value) if isinstance(value, (int, str)) else None
    except ValueError:
        number = None
    if number is None or number < least or isinstance(value, bool):
        raise InputError(f"data option {name}={value!r}: a whole number from {least} is needed")
    return number


def words(name: str, value: Any) -> tuple[str, ...]:
    """Read an option as names: a list, or one text with commas.

    >>> words("drop_classes", "toaster, hair drier")
    ('toaster', 'hair drier')
    """
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, str) for part in parts):
        raise InputError(f"data option {name}={value!r}: a list of names is needed")
    return tuple(part.strip() for part in parts if part.strip())
