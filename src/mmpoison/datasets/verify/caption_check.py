"""Counts problems of captions in one pass over the texts."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mmpoison.pairs.table import SPLITS, PairDataset

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
        too_long: Captions that are longer than CLIP's context for sure: a lower bound, by pieces of text, since one
            piece takes one token or more.
        html: Captions with HTML tags or entities.
        control: Captions with control characters (terminal escapes), or characters that hide or reverse text.
        repeated: Captions that their image has already.
        images_without: Images that no caption is with.
        in_train_and_test: Different texts that are in both splits, on whatever image.
        examples: Image of the first caption of each kind that was found: `empty`, `too_long`, `html`, `control`,
            `repeated`; and the first of `images_without`.
    """

    captions: int
    distinct: int
    words: tuple[int, int, int]
    empty: int
    too_long: int
    html: int
    control: int
    repeated: int
    images_without: int
    in_train_and_test: int
    examples: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "words": list(self.words)}


def check_captions(pairs: PairDataset) -> CaptionFacts:
    """Look at every caption once."""
    rows: dict[str, list[int]] = {}
    for row, caption in enumerate(pairs.captions):
        rows.setdefault(caption, []).append(row)
    times = np.array([len(found) for found in rows.values()], dtype=np.int64)
    words = np.array([len(text.split()) for text in rows], dtype=np.int64)

    firsts: dict[str, int] = {}

    def count(kind: str, test: Callable[[str], object]) -> int:
        hits = [found for text, found in rows.items() if test(text)]
        if hits:
            firsts[kind] = min(found[0] for found in hits)
        return sum(map(len, hits))

    splits = pairs.split_codes
    train, test = SPLITS.index("train"), SPLITS.index("test")
    both = repeated = 0
    for found in rows.values():
        if len(found) > 1:
            in_splits = splits[found]
            both += bool((in_splits == train).any() and (in_splits == test).any())
            seen: set[int] = set()
            for row in found:
                image = int(pairs.image[row])
                if image in seen:
                    repeated += 1
                    firsts["repeated"] = min(row, firsts.get("repeated", row))
                seen.add(image)
    every_word = np.repeat(words, times)
    without = np.setdiff1d(np.arange(len(pairs.images)), pairs.used_images())
    counts = {
        "empty": count("empty", lambda text: not says_something(text)),
        "too_long": count("too_long", is_too_long),
        "html": count("html", _HTML.search),
        "control": count("control", _CONTROL.search),
    }
    examples = {kind: str(pairs.images.ids[pairs.image[row]]) for kind, row in firsts.items()}
    if len(without):
        examples["images_without"] = str(pairs.images.ids[without[0]])
    return CaptionFacts(
        captions=len(pairs),
        distinct=len(rows),
        words=(
            (int(words.min()), int(np.median(every_word)), int(words.max())) if rows else (0, 0, 0)
        ),
        **counts,
        repeated=repeated,
        images_without=len(without),
        in_train_and_test=both,
        examples=examples,
    )


def says_something(caption: str) -> bool:
    """Return whether a caption has a letter, a digit or a symbol, and not only marks and spaces.

    >>> says_something("."), says_something(" "), says_something("a sheep"), says_something("\N{SHEEP}")
    (False, False, True, True)
    """
    return any(
        character.isalnum() or unicodedata.category(character)[0] == "S" for character in caption
    )


def is_too_long(caption: str) -> bool:
    """Return whether CLIP's tokenizer certainly truncates a caption.

    >>> is_too_long("a sheep " * 37), is_too_long("a sheep " * 38)
    (False, True)
    """
    if len(caption) <= CONTEXT - 2:
        return False
    # what CLIP's tokenizer takes out beforehand does not count
    text = _CONTROL.sub("", _ESCAPE.sub("", html.unescape(html.unescape(caption))))
    return sum(1 for _ in _PIECES.finditer(text)) > CONTEXT - 2
