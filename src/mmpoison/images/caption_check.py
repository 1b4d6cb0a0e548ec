"""What can be wrong with captions, counted in one pass over the texts."""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mmpoison.datasets.pairs import SPLITS, PairDataset

CONTEXT = 77
"""Tokens that CLIP's text encoder reads, the start and the end among them."""

# CLIP's tokenizer first cuts a text into these pieces; each is at least one token
_PIECES = re.compile(r"'(?:s|t|re|ve|m|ll|d)\b|[^\W\d_]+|\d|(?:[^\w\s]|_)+", re.IGNORECASE)
_HTML = re.compile(r"</?[a-zA-Z][^<>]*>|&(?:#\d+|#[xX][0-9a-fA-F]+|[a-zA-Z][a-zA-Z0-9]*);")
# control characters but tab and ends of lines, and what hides or reverses text
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
)
_ESCAPE = re.compile(r"\x1b\[[\d;]*[a-zA-Z]")


@dataclass(frozen=True)
class CaptionFacts:
    """Counts over all captions of a set.

    Attributes:
        captions: All of them.
        distinct: Different texts.
        words: Fewest, median and most words of a caption.
        empty: Captions without a letter, a digit or a symbol, such as "" and ".".
        empty_example: Image of the first of them, or None.
        too_long: Captions that are longer than CLIP's context for sure: a lower bound, by pieces of text, since one
            piece takes one token or more.
        html: Captions with HTML tags or entities.
        control: Captions with control characters (terminal escapes), or characters that hide or reverse text.
        repeated: Captions that their image has already.
        images_without: Images that no caption is with.
        in_train_and_test: Different texts that are in both splits, on whatever image.
    """

    captions: int
    distinct: int
    words: tuple[int, int, int]
    empty: int
    empty_example: str | None
    too_long: int
    html: int
    control: int
    repeated: int
    images_without: int
    in_train_and_test: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "words": list(self.words)}


def check_captions(pairs: PairDataset) -> CaptionFacts:
    """Look at every caption once."""
    rows: dict[str, list[int]] = {}
    for row, caption in enumerate(pairs.captions):
        rows.setdefault(caption, []).append(row)
    times = np.array([len(found) for found in rows.values()], dtype=np.int64)
    words = np.array([len(text.split()) for text in rows], dtype=np.int64)

    def count(test: Any) -> int:
        return int(times[np.fromiter(map(test, rows), dtype=bool, count=len(rows))].sum())

    empty = min((found[0] for text, found in rows.items() if not says_something(text)), default=-1)
    splits = pairs.split_codes
    train, test = SPLITS.index("train"), SPLITS.index("test")
    both = repeated = 0
    for found in rows.values():
        if len(found) > 1:
            in_splits = splits[found]
            both += bool((in_splits == train).any() and (in_splits == test).any())
            repeated += len(found) - len(np.unique(pairs.image[found]))
    every_word = np.repeat(words, times)
    return CaptionFacts(
        captions=len(pairs),
        distinct=len(rows),
        words=(
            (int(words.min()), int(np.median(every_word)), int(words.max())) if rows else (0, 0, 0)
        ),
        empty=count(lambda text: not says_something(text)),
        empty_example=None if empty < 0 else str(pairs.images.ids[pairs.image[empty]]),
        too_long=count(is_too_long),
        html=count(lambda text: _HTML.search(text) is not None),
        control=count(lambda text: _CONTROL.search(text) is not None),
        repeated=repeated,
        images_without=len(pairs.images) - len(pairs.used_images()),
        in_train_and_test=both,
    )


def says_something(caption: str) -> bool:
    """Whether a caption holds a letter, a digit or a symbol, and not just marks and spaces.

    >>> says_something("."), says_something(" "), says_something("a sheep"), says_something("\N{SHEEP}")
    (False, False, True, True)
    """
    return any(
        character.isalnum() or unicodedata.category(character)[0] == "S" for character in caption
    )


def is_too_long(caption: str) -> bool:
    """Whether CLIP's tokenizer cuts a caption for sure.

    >>> is_too_long("a sheep " * 37), is_too_long("a sheep " * 38)
    (False, True)
    """
    if len(caption) <= CONTEXT - 2:
        return False
    # what CLIP's tokenizer takes out beforehand does not count
    text = _CONTROL.sub("", _ESCAPE.sub("", html.unescape(html.unescape(caption))))
    return sum(1 for _ in _PIECES.finditer(text)) > CONTEXT - 2
