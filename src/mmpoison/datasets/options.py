"""Options of data sets as people give them: text or values of a recipe, checked by the signature that takes them."""

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
"""Keywords that the caller of a loader gives, not the user."""

Count = Annotated[int, Field(ge=0, lt=2**63)]
"""A number of things, or a seed."""


def fit_options(
    given: Mapping[str, Any], function: Callable[..., Any], what: str, more: Sequence[str] = ()
) -> dict[str, Any]:
    """Convert the options of a function to the types of its annotations, which pydantic checks.

    Text is taken as it stands where text is wanted (a separator `|`, a column called `on`), and read where a number or
    a yes or no is wanted. Values that YAML gives must be of the type itself.

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
    kinds = {**dict.fromkeys(more, Any), **option_kinds(function)}
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
        name: _fit(value, kinds[name], one_line(f"{what}, option {name}={value}"))
        for name, value in given.items()
    }


def option_kinds(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the options of a loader or builder, and the type of each.

    Options are keyword-only parameters but `progress`, and the keys of a `TypedDict` by which `**options` are annotated
    (`Unpack[...]`). An option without annotation takes anything.

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
    """Return how a value is read first, where that fits: a list or nothing in text, a number that is a name."""
    if isinstance(value, str) and (value == "null" or value.startswith("[")):
        try:
            return [parse_yaml(value, "option")]
        except InputError:
            return []
    return [value, str(value)] if type(value) is int else []


def words(value: Sequence[str] | str) -> tuple[str, ...]:
    """Read an option as names: a list, or one text with commas.

    >>> words("toaster, hair drier")
    ('toaster', 'hair drier')
    """
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(part.strip() for part in parts if part.strip())
