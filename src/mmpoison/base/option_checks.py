"""Checks of options: one message for all attacks and defences."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from mmpoison.errors import InputError


def check_number(
    name: str,
    value: float,
    wanted: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    least: float = -math.inf,
    most: float = math.inf,
) -> float:
    """Refuse a value that is not a number in a range, and return it otherwise.

    Args:
        name: Name of the option.
        value: Its value.
        wanted: What is needed, for the message.
        low: The value must be larger.
        high: The value must be smaller.
        least: The smallest value.
        most: The largest value.

    Raises:
        InputError: If it is not in the range.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not (low < value < high and least <= value <= most)
        or abs(value) > sys.float_info.max
    ):
        raise InputError(f"{name} {value!r:.40} is not {wanted}")
    return float(value)


def check_whole(
    name: str, value: int, least: int, most: int, wanted: str = "a whole number"
) -> int:
    """Refuse a value that is not a whole number in a range, and return it otherwise.

    Args:
        name: Name of the option.
        value: Its value.
        least: Smallest value.
        most: Largest value.
        wanted: What it should be, for the message.

    Raises:
        InputError: If it is not.
    """
    if type(value) is not int or not least <= value <= most:
        raise InputError(f"{name} {value!r:.40} is not {wanted} from {least} to {most:,}")
    return value


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Refuse an option with a few values.

    Args:
        name: Name of the option.
        value: Its value.
        known: The values that it may have.

    Raises:
        InputError: If it is none of them.
    """
    if value not in known:
        raise InputError(f"{name} {value!r:.60} is none of {', '.join(known)}")
