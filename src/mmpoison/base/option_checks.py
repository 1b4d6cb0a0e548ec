"""Checks of the arguments of the Python API."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import wraps
from numbers import Integral
from typing import ParamSpec, TypeVar

from mmpoison.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

_VALUES = {"int", "float", "bool", "Sequence", "Mapping", "Any"}
"""Types of parameters that are not names, paths or objects of mmpoison."""


def check_whole(
    name: str, value: int, least: int, most: int, wanted: str = "a whole number"
) -> int:
    """Return a value if it is a whole number in a range; refuse it otherwise.

    Args:
        name: Name of the option.
        value: Its value.
        least: Smallest value.
        most: Largest value.
        wanted: Description of valid values, for the message.

    Raises:
        InputError: If the value is invalid.
    """
    if type(value) is not int or not least <= value <= most:
        raise InputError(f"{name} {value!r:.40} is not {wanted} from {least} to {most:,}")
    return value


def check_seed(seed: object) -> None:
    """Refuse a seed that is not a whole number from 0 (Python or NumPy) in 64 bits.

    Raises:
        InputError: If the value is invalid.
    """
    whole = int(seed) if isinstance(seed, Integral) else -1
    if isinstance(seed, bool) or not 0 <= whole < 1 << 63:
        raise InputError(f"seed {seed!r:.40} is not a whole number from 0 to {(1 << 63) - 1:,}")


def check_name(name: str, value: object) -> None:
    """Refuse an argument that cannot be a name, a path or an object of mmpoison.

    Args:
        name: Name of the parameter.
        value: Its value.

    Raises:
        InputError: If it is an empty text, None, a number, bytes or any other plain value.
    """
    plain = type(value).__module__ == "builtins" and not isinstance(value, str)
    if plain or (isinstance(value, str) and not value.strip()):
        raise InputError(
            f"{name} is {value!r:.40}: give a name, a path, or an object of the right type"
        )


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function of the Python API to refuse invalid seeds, names and paths before loading anything."""
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            # annotations as text: most types are imported only for type checkers
            kinds = set(re.findall(r"\w+", str(signature.parameters[name].annotation)))
            if value is None and "None" in kinds:
                continue
            if name == "seed":
                check_seed(value)
            elif value == "" or not kinds & _VALUES:
                check_name(name, value)
        return function(*args, **kwargs)

    return call
