"""Rewrites captions by synonyms, and finds the words in them that name a class."""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import pairwise

import numpy as np

from mmpoison.attacks.noun_phrase import noun_phrase
from mmpoison.pairs.captions import plural, synonyms

_WORD = re.compile(r"[^\W\d_]+")


def class_names(label: str) -> frozenset[str]:
    """Return the words that name a class: its label and the label's synonyms, with plurals, without spaces.

    >>> sorted(class_names("Dining table"))
    ['diningtable', 'diningtables']
    """
    noun = "".join(_WORD.findall(label.lower()))
    names = {noun, plural(noun)} if noun else set()
    for name in tuple(names):
        names.update(synonyms().get(name, ()))
    return frozenset(names)


def naming_words(caption: str, names: Collection[str]) -> frozenset[str]:
    """Return the words of a caption, in lower case, that name a class.

    Two words that follow each other may be one name, as the label `diningtable` is. Where no word of the caption is a
    name, the last word of its noun phrase is returned.

    Args:
        caption: The caption.
        names: Words that name the class, see `class_names`.

    >>> sorted(naming_words("A big dining table", class_names("diningtable")))
    ['dining', 'table']
    >>> sorted(naming_words("Two old rafts on a lake", class_names("boat")))
    ['rafts']
    """
    words = _WORD.findall(caption.lower())
    found = {word for word in words if word in names}
    found.update(word for two in pairwise(words) if "".join(two) in names for word in two)
    return frozenset(found or _WORD.findall(noun_phrase(caption))[-1:])


def rewrite(caption: str, rng: np.random.Generator, rate: float, kept: Collection[str] = ()) -> str:
    """Replace words by synonyms, each word in the table with a probability.

    A capital stays a capital, and "a" and "an" before a new word are adapted to it.

    Args:
        caption: The caption.
        rng: Draws the words, and their synonyms.
        rate: The probability, in [0, 1].
        kept: Words in lower case that are not replaced.

    >>> rewrite("A car in a city.", np.random.default_rng(0), 1)
    'An automobile in a metropolis.'
    """
    table = synonyms()
    parts: list[str] = []
    end = 0
    for match in _WORD.finditer(caption):
        parts += [caption[end : match.start()], match[0]]
        end = match.end()
        word = match[0].lower()
        others = () if word in kept else table.get(word, ())
        if not others or rng.random() >= rate:
            continue
        new = others[int(rng.integers(len(others)))]
        parts[-1] = new.capitalize() if match[0][0].isupper() else new
        if len(parts) > 2 and parts[-2].isspace() and parts[-3].lower() in ("a", "an"):
            parts[-3] = parts[-3][0] + ("n" if new[0] in "aeiou" else "")
    return "".join(parts) + caption[end:]
