"""Small things around the main object: none of them belongs to one of the 20 classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Setting = Literal[
    "land", "snow", "dry", "barn", "sky", "runway", "water", "street", "rails", "room", "shelf"
]  # fmt: skip
Where = Literal["up", "down"]

# hexcode, noun, "up" hangs in the sky or on the wall and "down" stands on the ground
Distractor = tuple[str, str, Where]

_UP: tuple[Distractor, ...] = (
    ("2601", "cloud", "up"),
    ("2600", "sun", "up"),
    ("1FA81", "kite", "up"),
    ("1F388", "balloon", "up"),
    ("1F308", "rainbow", "up"),
)
_GREEN: tuple[Distractor, ...] = (
    ("1F333", "tree", "down"),
    ("1F332", "fir tree", "down"),
    ("1F33B", "sunflower", "down"),
    ("1F337", "tulip", "down"),
    ("26BD", "ball", "down"),
    ("1F3E0", "house", "down"),
    ("1FAA8", "rock", "down"),
    ("1FAB5", "log", "down"),
    ("1F98B", "butterfly", "up"),
)

DISTRACTORS: Mapping[Setting, tuple[Distractor, ...]] = {
    "land": _GREEN + _UP,
    "snow": (
        ("1F332", "fir tree", "down"),
        ("26C4", "snowman", "down"),
        ("1F3E0", "house", "down"),
        ("1FAA8", "rock", "down"),
        ("2601", "cloud", "up"),
        ("2600", "sun", "up"),
    ),
    "dry": (
        ("1F334", "palm tree", "down"),
        ("1FAA8", "rock", "down"),
        ("26F1", "parasol", "down"),
        ("26BD", "ball", "down"),
        ("1F422", "turtle", "down"),
        *_UP[:4],
    ),
    "barn": (
        ("1FAA3", "bucket", "down"),
        ("1F9FA", "basket", "down"),
        ("1FAB5", "log", "down"),
        ("1F33E", "sheaf of hay", "down"),
        ("1FA9C", "ladder", "down"),
        ("1FA9F", "window", "up"),
        ("1F570", "clock", "up"),
    ),
    "sky": (*_UP, ("26C5", "sunny cloud", "up"), ("1FA82", "parachute", "up")),
    "runway": (
        ("1F5FC", "tower", "down"),
        ("1F3E2", "terminal", "down"),
        ("1F6A9", "flag", "down"),
        ("1F6A7", "barrier", "down"),
        ("2601", "cloud", "up"),
        ("2600", "sun", "up"),
    ),
    "water": (
        ("1F3DD", "island", "down"),
        ("1F6DF", "lifebuoy", "down"),
        ("1F41F", "fish", "down"),
        ("1F42C", "dolphin", "down"),
        ("2601", "cloud", "up"),
        ("2600", "sun", "up"),
        ("1F308", "rainbow", "up"),
    ),
    "street": (
        ("1F6A6", "traffic light", "down"),
        ("1F6D1", "stop sign", "up"),
        ("1F333", "tree", "down"),
        ("1F4EE", "postbox", "down"),
        ("1F3E0", "house", "down"),
        ("26BD", "ball", "down"),
        ("1F388", "balloon", "up"),
        ("2601", "cloud", "up"),
    ),
    "rails": (
        ("1F6A6", "signal", "down"),
        ("1F333", "tree", "down"),
        ("1F332", "fir tree", "down"),
        ("1F3E0", "house", "down"),
        ("2601", "cloud", "up"),
        ("2600", "sun", "up"),
    ),
    "room": (
        ("1F5BC", "painting", "up"),
        ("1FA9F", "window", "up"),
        ("1FA9E", "mirror", "up"),
        ("1F9F8", "teddy bear", "down"),
        ("1F3C0", "ball", "down"),
        ("1F381", "present", "down"),
        ("1F9FA", "basket", "down"),
        ("1F4DA", "stack of books", "down"),
        ("1F3B8", "guitar", "down"),
    ),
    "shelf": (
        ("1F34E", "apple", "down"),
        ("1F34B", "lemon", "down"),
        ("2615", "cup", "down"),
        ("1F35E", "loaf of bread", "down"),
        ("1F9C0", "piece of cheese", "down"),
        ("1F56F", "candle", "down"),
        ("1F5BC", "painting", "up"),
        ("1FA9F", "window", "up"),
    ),
}

# hexcodes that may hide the foot of the main object, by setting
FOREGROUND: Mapping[Setting, tuple[str, ...]] = {
    "land": ("1F33F", "1F33C", "1F337", "1FAA8", "1F344"),
    "snow": ("1F332", "1FAA8"),
    "dry": ("1FAA8", "1F41A"),
    "barn": ("1FAA3", "1F33E"),
    "street": ("1F6A7", "1F4E6"),
    "rails": ("1F33F", "1FAA8"),
    "room": ("1F9F8", "1F4E6", "1F4DA"),
    "shelf": ("1F34E", "1F34B", "2615"),
}

# The other class that may keep the main object company. Sheep and aeroplanes are nobody's
# company: a scene that shows one is always labelled so.
COMPANY: Mapping[Setting, tuple[str, ...]] = {
    "land": ("dog", "person", "bird", "horse", "cow", "bicycle"),
    "snow": ("dog", "person", "horse"),
    "dry": ("dog", "person", "bird"),
    "barn": ("dog", "person", "bird", "cat"),
    "sky": ("bird",),
    "runway": ("bus", "car", "person"),
    "water": ("bird", "boat"),
    "street": ("person", "car", "bicycle", "bus", "motorbike", "dog", "cat"),
    "rails": ("person", "bird", "dog"),
    "room": ("cat", "dog", "person", "chair", "pottedplant"),
    "shelf": ("pottedplant", "bottle"),
}


def scenery_codes() -> tuple[str, ...]:
    """Every hexcode that a distractor or a foreground item uses, sorted."""
    codes = {code for group in DISTRACTORS.values() for code, _, _ in group}
    codes.update(code for group in FOREGROUND.values() for code in group)
    return tuple(sorted(codes))
