"""Checks of options that are numbers: one message for all attacks and defences."""

from __future__ import annotations

import math
import sys

from mmpoison.errors import InputError


def check_number(
    name: str, value: float, wanted: str, low: float = -math.inf, high: float = math.inf
) -> None:
    """Refuse a value that is not a number between two others.

    Args:
        name: Name of the option.
        value: Its value.
        wanted: What is needed, for the message.
        low: The value must be larger.
        high: The value must be smaller.

    Raises:
        InputError: If it is not between them.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not (low < value < high and abs(value) <= sys.float_info.max)
    ):
        raise InputError(f"{name} {value!r:.40} is not {wanted}")


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
