"""Reads values of data options, which come as text or as YAML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmpoison.errors import InputError


def one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse a value of an option that is none of those allowed."""
    if value not in allowed:
        # 2017 may be given as a number or as text
        known = ", ".join(dict.fromkeys(map(str, allowed)))
        raise InputError(f"data option {name}={value!r}: is none of {known}")


def whole_number(name: str, value: Any, *, least: int = 0) -> int:
    """An option as a whole number; text that spells one will do.

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
    """An option as names: a list, or one text with commas.

    >>> words("drop_classes", "toaster, hair drier")
    ('toaster', 'hair drier')
    """
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, str) for part in parts):
        raise InputError(f"data option {name}={value!r}: a list of names is needed")
    return tuple(part.strip() for part in parts if part.strip())
