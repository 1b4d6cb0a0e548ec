"""Converts and checks options of data sets, given as text or recipe values, by the signature that takes them."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Unpack, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from mmpoison.base.phrasing import one_line
from mmpoison.base.untrusted import parse_yaml
from mmpoison.errors import InputError

NO_OPTIONS = ("seed", "progress", "workers")
"""Keyword arguments passed by the caller of a loader, not by the user."""

Count = Annotated[int, Field(ge=0, lt=2**63)]
"""A number of things, or a seed."""


def fit_options(
    given: Mapping[str, Any], function: Callable[..., Any], what: str, more: Sequence[str] = ()
) -> dict[str, Any]:
    """Convert options to the types of a function's annotations, using pydantic.

    Text stays text if text is expected (a separator `|`, a column called `on`), and is parsed if a number or boolean is
    expected. Values from YAML must have the correct type.

    Args:
        given: Options by name: text, or values from YAML.
        function: The function that takes them as keywords, see `option_kinds`.
        what: The owner of the options, for messages ("data set 'coco'").
        more: Further options that the function accepts without declaring them.

    Raises:
        InputError: If an option does not exist, or a value has the wrong type.

    >>> def load(root, *, year: int | None = None, images: bool = True, separator: str = ","): ...
    >>> fit_options({"year": "2017", "separator": "1"}, load, "it")
    {'year': 2017, 'separator': '1'}
    """
    kinds = {**dict.fromkeys(more, Any), **option_kinds(function)}
    for name in sorted(given):
        if name not in kinds:
            # former names of column and key options
            plain = re.sub("_(column|key)$", "", name)
            near = difflib.get_close_matches(plain, kinds, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(
                f"{what} has no option {name!r}: {hint}it has {', '.join(kinds) or 'none'}"
            )
    return {
        name: _fit(value, kinds[name], one_line(f"{what}, option {name}={value}"))
        for name, value in given.items()
    }


def option_kinds(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the options of a loader or builder, with their types.

    Options are the keyword-only parameters except `progress`, and the keys of a `TypedDict` that annotates `**options`
    (`Unpack[...]`). An option without annotation accepts anything.

    >>> def load(root, seed=0, *, year: int | None = None, progress=None): ...
    >>> option_kinds(load)
    {'year': int | None}
    """
    hints = get_type_hints(function, include_extras=True)
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        kind = hints.get(name, parameter.annotation)
        if parameter.kind is parameter.KEYWORD_ONLY and name not in NO_OPTIONS:
            found[name] = Any if kind is parameter.empty else kind
        elif parameter.kind is parameter.VAR_KEYWORD and get_origin(kind) is Unpack:
            found |= get_type_hints(get_args(kind)[0], include_extras=True)
    return found


def _fit(value: Any, kind: Any, where: str) -> Any:
    wanted: TypeAdapter[Any] = TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))
    try:
        for other in _other_readings(value):
            try:
                return wanted.validate_python(other, strict=True)
            except ValidationError:
                continue
        if isinstance(value, str):
            return wanted.validate_strings(value)
        return wanted.validate_python(value, strict=True)
    except ValidationError as error:
        said = error.errors()[0]["msg"].replace("Input should be", "must be")
        raise InputError(f"{where}: {said}") from None


def _other_readings(value: Any) -> list[Any]:
    """Return alternative readings to try first: a list or nothing for text, a name for a number."""
    if isinstance(value, str) and (value == "null" or value.startswith("[")):
        try:
            return [parse_yaml(value, "option")]
        except InputError:
            return []
    return [value, str(value)] if type(value) is int else []


def words(value: Sequence[str] | str) -> tuple[str, ...]:
    """Parse an option as names: a list, or comma-separated text.

    >>> words("toaster, hair drier")
    ('toaster', 'hair drier')
    """
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(part.strip() for part in parts if part.strip())
