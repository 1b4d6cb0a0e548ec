"""Finds the objects that captions name, and rewrites captions with synonyms, using word lists without a tagger."""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib import resources
from itertools import pairwise

import numpy as np

from mmpoison.pairs import plural
from mmpoison_lab.synonyms import synonyms

# "of" does not end a phrase: a herd of sheep
_ENDINGS = """
about above across against along among and around as at behind below beneath between but by during for from in inside
into is are was were be been has have had it its next near on onto or outside over past stand stands sit sits lie lies
that there through to toward towards under up upon where which while who with within without
go goes run runs flow flows pass passes surrounded
"""
_NOUNS_IN_ING = """
building ceiling clothing crossing dressing dwelling icing king landing painting parking ring railing siding spring
string swimming swing thing wing
"""
_DETERMINERS = "a an the some many several few one two three four five six this that these those"

ENDINGS = frozenset(_ENDINGS.split())
"""Prepositions, verbs and conjunctions that end a noun phrase."""

NOUNS_IN_ING = frozenset(_NOUNS_IN_ING.split())
DETERMINERS = frozenset(_DETERMINERS.split())

OPENINGS = ("there is", "there are", "it is", "here is", "here are", "this is", "these are")

WORDS = 4
"""Number of words of a caption used as its noun phrase if none is found."""


def noun_phrase(caption: str) -> str:
    """Return the first words of a caption up to a verb or preposition, in lower case, including at least one noun.

    >>> noun_phrase("Many white boats are parked in the port.")
    'many white boats'
    >>> noun_phrase("There is a piece of farmland.")
    'a piece of farmland'
    >>> noun_phrase("A dog running over grass")
    'a dog'
    >>> noun_phrase("in the sky flies a plane")
    'in the sky flies'
    """
    text = " ".join(caption.lower().split()).rstrip(" .!?")
    for opening in OPENINGS:
        text = text.removeprefix(f"{opening} ")
    words = text.split()
    start = next((n for n, word in enumerate(words) if word not in DETERMINERS), len(words))
    end = start
    while end < len(words) and not _ends(words[end], first=end == start):
        end += 1
        if words[end - 1].endswith((",", ";", ".")):
            break
    phrase = words[:end] if end > start else words[:WORDS]
    return " ".join(phrase).rstrip(" ,;.") or "something"


def _ends(word: str, *, first: bool) -> bool:
    # a first word in -ing describes the noun: a parking lot
    verb = word.endswith("ing") and word not in NOUNS_IN_ING and not first
    return verb or word in ENDINGS


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

    Two consecutive words may be one name, such as the label `diningtable`. If no word of the caption is a name, the
    last word of its noun phrase is returned.

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
    """Replace words with synonyms; each word in the table is replaced with a given probability.

    Capital letters stay, and "a" and "an" are adapted to a new word after them.

    Args:
        caption: The caption.
        rng: Draws the words, and their synonyms.
        rate: The probability, in [0, 1].
        kept: Words, in lower case, that are not replaced.

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


def read_templates(file: str) -> tuple[str, ...]:
    """Read caption templates with `{}` for the class name, one per line."""
    text = resources.files("mmpoison_lab.attacks").joinpath(file).read_text("utf-8")
    return tuple(text.splitlines())
