"""Synonyms from a small table of words that captions use."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources

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
