"""Finds what a caption names, by a list of words and without a tagger."""

from __future__ import annotations

# "of" is no ending: a herd of sheep
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
"""Prepositions, verbs and conjunctions, with which a noun phrase ends."""

NOUNS_IN_ING = frozenset(_NOUNS_IN_ING.split())
DETERMINERS = frozenset(_DETERMINERS.split())

OPENINGS = ("there is", "there are", "it is", "here is", "here are", "this is", "these are")

WORDS = 4
"""So many words of a caption stand for what it names, if nothing is found."""


def noun_phrase(caption: str) -> str:
    """Return the first words of a caption, up to a verb or preposition, in lower case; at least one of them a noun.

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
