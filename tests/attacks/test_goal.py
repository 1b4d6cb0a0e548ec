"""`Goal.parse`: `A2B` with classes that may hold a 2 themselves."""

from __future__ import annotations

import pytest
from tests.conftest import refusal

from mmpoison.attacks import Goal


@pytest.mark.parametrize(
    ("text", "classes", "goal"),
    [
        ("sheep2aeroplane", ["sheep", "aeroplane"], ("sheep", "aeroplane")),
        ("mp2boat", ["mp2", "mp", "boat"], ("mp", "boat")),
        ("mp22boat", ["mp2", "mp", "boat"], ("mp2", "boat")),
        ("boat22cv", ["boat", "2cv"], ("boat", "2cv")),
        ("2cv2mp2", ["2cv", "mp2"], ("2cv", "mp2")),
        ("a b2c-d", ["a b", "c-d"], ("a b", "c-d")),
    ],
)
def test_parse(text: str, classes: list[str], goal: tuple[str, str]) -> None:
    parsed = Goal.parse(text, classes)
    assert (parsed.original, parsed.target) == goal
    assert str(parsed) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        *((text, "is not of the form A2B") for text in ("sheep", "sheep2", "2sheep")),
        ("sheep2sheep", "original and target class are the same"),
        ("sheep2boot", "unknown class 'boot': did you mean 'boat'"),
    ],
)
def test_what_is_no_goal(text: str, says: str) -> None:
    assert says in refusal(Goal.parse, text, ["sheep", "boat"])
