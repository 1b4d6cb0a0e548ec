"""Declares the options of a plug-in once: a class whose fields say type, range and meaning, which pydantic checks.

```python
@DEFENSES.register("local-density")
@options
class LocalDensity(ScoreFilter):
    k: Annotated[int, Field(ge=1, description="neighbours that count")] = 16
```

The constructor, recipes, `--set`, `mmpoison defenses`, the help and the page of contracts read the fields. A plug-in of
another package may as well be a plain class with a constructor and a mapping `parameters`.
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
"""The largest count that an option takes; the data limit it further."""

_CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else list(value) if type(value) is tuple else value


def _plain(value: Any) -> Any:
    """Return a number of NumPy as one of Python."""
    return value.item() if isinstance(value, np.generic) else value


Listed = Annotated[T, BeforeValidator(_listed)]
"""A list, for which one text alone may be given."""


@dataclass_transform(kw_only_default=True, field_specifiers=(Field,))
def options(cls: type[T]) -> type[T]:
    """Make a class with annotated fields a pydantic dataclass, whose fields are given by name.

    A wrong value is an `InputError` of one line that begins with the option. The attribute `parameters` has the
    description of each field, after those of the base class, unless the class has its own.
    """
    own = vars(cls).get("parameters")
    inherited: Mapping[str, str] = getattr(cls, "parameters", {})
    fields = [*vars(cls).get("__annotations__", ())]
    made: Any = dataclass(cls, kw_only=True, config=_CONFIG)
    plain: Callable[..., None] = made.__init__

    @wraps(plain)
    def checked(self: Any, *given: Any, **named: Any) -> None:
        before = vars(self).copy()  # of a subclass that sets its own attributes first
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
    """Return the first thing that is wrong with some options, on one line: the option, its value, what is needed."""
    problem = error.errors(include_url=False)[0]
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return cause
    said = problem["msg"].replace("Input should be", "must be")
    return InputError(f"{problem['loc'][0]} {problem['input']!r:.40}: {said}")


def check_options(
    given: Iterable[str], known: Collection[str], whose: str, where: str = ""
) -> None:
    """Refuse the name of an option that there is not; the message has the nearest one.

    Args:
        given: Names.
        known: The names that exist.
        whose: Whose options they are, for the message.
        where: Prefix of an option's name in the message.

    Raises:
        InputError: If one is not known.
    """
    for name in given:
        if name not in known:
            raise InputError(f"{where}{name}: {whose}: {unknown_name('option', name, [*known])}")
