"""Rephrases captions: synonyms from a small table of common caption words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

import numpy as np

from mmpoison.pairs import plural


@cache
def groups() -> tuple[tuple[str, ...], ...]:
    """Read the table: groups of interchangeable words, plurals separate from singulars."""
    found: list[tuple[str, ...]] = []
    text = resources.files("mmpoison_lab").joinpath("synonyms.txt").read_text("utf-8")
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


@dataclass(frozen=True)
class EditWords:
    """Views of captions by EDA (Wei and Zou, EMNLP 2019): each caption gets one of four edits.

    The edits are: delete words, swap two words, insert a synonym of a word, replace a word with a synonym. A word
    without synonyms is inserted itself, and is never replaced.

    Attributes:
        share: Share of a caption's words that an edit changes; at least one word.
        synonyms: Synonyms of words in lower case; by default those of the table.
    """

    share: float = 0.1
    synonyms: Mapping[str, Sequence[str]] = field(default_factory=synonyms)

    def __call__(self, captions: Sequence[str], stream: np.random.Generator) -> list[str]:
        """Return changed captions; see `TextView`."""
        return [" ".join(self._edited(caption.split(), stream)) for caption in captions]

    def _edited(self, words: list[str], stream: np.random.Generator) -> list[str]:
        edit = int(stream.integers(4))
        for _ in range(max(1, int(self.share * len(words)))):
            if len(words) < 2:
                break
            first, second = (int(i) for i in stream.choice(len(words), 2, replace=False))
            if edit == 0:
                del words[first]
            elif edit == 1:
                words[first], words[second] = words[second], words[first]
            elif edit == 2:
                words.insert(second, self._synonym(words[first], stream))
            else:
                words[first] = self._synonym(words[first], stream)
        return words

    def _synonym(self, word: str, stream: np.random.Generator) -> str:
        known = self.synonyms.get(word.lower(), ())
        return known[int(stream.integers(len(known)))] if known else word
