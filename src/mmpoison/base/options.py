"""Declares a plug-in's options once: a class whose fields give type, range and meaning, checked by pydantic.

```python
@DEFENSES.register("local-density")
@options
class LocalDensity(ScoreFilter):
    k: Annotated[int, Field(ge=1, description="neighbours that count")] = 16
```

The constructor, recipes, `--set`, `mmpoison defenses`, the help and the page of contracts use these fields. A plug-in
of another package may also be a plain class with a constructor and a mapping `parameters`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import wraps
from typing import Annotated, Any, TypeVar, cast, dataclass_transform

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from mmpoison.base.registry import unknown_name
from mmpoison.errors import InputError

T = TypeVar("T")


MOST = 10**12
"""Largest count that an option accepts; the data limit it further."""


_CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else list(value) if type(value) is tuple else value


def _plain(value: Any) -> Any:
    """Convert a NumPy number to a Python number."""
    return value.item() if isinstance(value, np.generic) else value


Listed = Annotated[T, BeforeValidator(_listed)]
"""A list; a single text is accepted as a list of one."""


@dataclass_transform(kw_only_default=True, field_specifiers=(Field,))
def options(cls: type[T]) -> type[T]:
    """Turn a class with annotated fields into a pydantic dataclass with keyword-only fields.

    An invalid value raises an `InputError`, one line that begins with the option. The attribute `parameters` describes
    each field, after those of the base class, unless the class defines its own.
    """
    own = vars(cls).get("parameters")
    inherited: Mapping[str, str] = getattr(cls, "parameters", {})
    fields = [*vars(cls).get("__annotations__", ())]
    made: Any = dataclass(cls, kw_only=True, config=_CONFIG)
    plain: Callable[..., None] = made.__init__

    @wraps(plain)
    def checked(self: Any, *given: Any, **named: Any) -> None:
        before = vars(self).copy()  # a subclass may set its own attributes first
        try:
            plain(self, *map(_plain, given), **{n: _plain(value) for n, value in named.items()})
        except ValidationError as error:
            raise first_problem(error) from None
        vars(self).update({**before, **vars(self)})

    made.__init__ = checked
    if own is None:
        described = {
            one.alias or name: one.description or ""
            for name, one in made.__pydantic_fields__.items()
            if name in fields
        }
        made.parameters = {**inherited, **described}
    return cast("type[T]", made)


def first_problem(error: ValidationError) -> InputError:
    """Describe the first invalid option in one line: its name, its value and what is needed."""
    problem = error.errors(include_url=False)[0]
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return cause
    said = problem["msg"].replace("Input should be", "must be")
    return InputError(f"{problem['loc'][0]} {problem['input']!r:.40}: {said}")


def check_options(
    given: Iterable[str], known: Collection[str], whose: str, where: str = ""
) -> None:
    """Refuse unknown option names. The message suggests the nearest known name.

    Args:
        given: Names.
        known: The names that exist.
        whose: The owner of the options, for the message.
        where: Prefix for option names in the message.

    Raises:
        InputError: If a name is unknown.
    """
    for name in given:
        if name not in known:
            raise InputError(f"{where}{name}: {whose}: {unknown_name('option', name, [*known])}")
