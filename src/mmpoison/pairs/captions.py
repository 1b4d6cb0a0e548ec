"""Captions made from class names, and sentences said in other words."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources

# -- Makes captions from class names, for data that have none and for attacks that write their own.


def caption_of(template: str, label: str) -> str:
    """Make a caption for an image of a class.

    >>> caption_of("a photo of a {}.", "oil_tanker"), caption_of("a photo of a {}.", "unicorn")
    ('a photo of an oil tanker.', 'a photo of a unicorn.')
    """
    name = " ".join(label.replace("_", " ").replace("-", " ").split()) or label
    before, after = template.split("{}")
    vowel = name[:1].lower() in "aeiou" and not name.lower().startswith(("uni", "use", "eu", "one"))
    if vowel or name.lower().startswith(("hour", "honest")):
        if before == "a " or before.endswith(" a "):
            before = before[:-1] + "n "
        elif before == "A ":
            before = "An "
    return before + name + after


# -- Synonyms from a small table of words that captions use.


_TABLE = "synonyms.txt"


def plural(noun: str) -> str:
    """Return the regular plural of a noun.

    >>> plural("boat"), plural("city"), plural("bush")
    ('boats', 'cities', 'bushes')
    """
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


@cache
def groups() -> tuple[tuple[str, ...], ...]:
    """Read the table: groups of words that may replace each other, plurals apart from their singulars."""
    found: list[tuple[str, ...]] = []
    text = resources.files("mmpoison.pairs").joinpath(_TABLE).read_text("utf-8")
    for line in text.splitlines():
        kind, *words = line.split()
        if kind == "#":
            continue
        singular = [word.partition("/")[0] for word in words]
        found.append(tuple(singular))
        if kind == "noun":
            found.append(tuple(word.partition("/")[2] or plural(word) for word in words))
    return tuple(found)


@cache
def synonyms() -> Mapping[str, tuple[str, ...]]:
    """Return the synonyms of each word in the table.

    >>> synonyms()["cars"]
    ('automobiles',)
    """
    return {
        word: tuple(other for other in group if other != word)
        for group in groups()
        for word in group
    }
