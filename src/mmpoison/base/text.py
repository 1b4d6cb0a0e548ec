"""Text for people: external text made safe to show, counts with their nouns, numbers in one format."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from rich.markup import escape


def count_of(count: int, what: str, several: str | None = None) -> str:
    """Format a count with its noun, singular or plural.

    >>> count_of(1, "image"), count_of(1200, "image"), count_of(2, "class", "classes")
    ('1 image', '1,200 images', '2 classes')
    """
    return f"{count:,} {what if count == 1 else several or what + 's'}"


def file_size(count: int) -> str:
    """Format a number of bytes.

    >>> file_size(2_500_000), file_size(12_300_000_000)
    ('2.5 MB', '12.3 GB')
    """
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def capitalized(text: str) -> str:
    """Capitalise the first letter only.

    >>> capitalized("the poison of Hit@5"), capitalized("")
    ('The poison of Hit@5', '')
    """
    return text[:1].upper() + text[1:]


def one_line(text: str) -> str:
    r"""Escape unprintable characters, so that text of any origin fits on one line.

    >>> one_line("a\x1b[31mb\nc")
    'a\\x1b[31mb\\nc'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_line(text: str) -> str:
    r"""Convert text to one line for the terminal: unprintable characters and runs of spaces become one space.

    >>> printable_line("a\x1b[31mb\n  c")
    'a [31mb c'
    """
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def count_phrase(count: int, what: str) -> str:
    """Format a count as the beginning of a sentence.

    >>> count_phrase(1, "image"), count_phrase(1200, "image")
    ('1 image is', '1,200 images are')
    """
    return f"{count_of(count, what)} {'is' if count == 1 else 'are'}"


ABSENT = "–"
"""Shown for a value that was not computed; never a zero."""

# Operating system commands and the like run to a terminator; control sequences end in one letter.
_ESCAPE_SEQUENCE = re.compile(
    r"(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|\x1b[ -/]*[0-~]?"
)
# The two joiners shape emoji and many scripts; all other invisible format characters are dropped.
_JOINERS = "\u200c\u200d"


def visible(text: str) -> str:
    r"""Drop escape sequences, control characters, bidi overrides and other invisible characters.

    >>> visible("a \x1b[31mred\x1b[0m\n\u202esheep")
    'a red sheep'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_visible_character, _ESCAPE_SEQUENCE.sub("", text)))


def _visible_character(character: str) -> str:
    category = unicodedata.category(character)
    if character in "\t\n\r\v\f\x85" or category in ("Zl", "Zp"):
        return " "
    if category == "Cs":  # half a surrogate pair: cannot be encoded
        return "\ufffd"
    if category == "Cc" or (category == "Cf" and character not in _JOINERS):
        return ""
    return character


def safe_text(text: str) -> str:
    r"""Make text safe for a `rich` console: it cannot colour, move or reverse anything.

    >>> safe_text("[red]a \x1b[31msheep")
    '\\[red]a sheep'
    """
    return escape(visible(text))


def clean(value: Any) -> Any:
    """Apply `visible` to every string of a JSON value, keys included."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {visible(str(key)): clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [clean(item) for item in value]
    return value


def spelled(value: Any) -> Any:
    r"""Spell out unprintable characters in every string of a JSON value, for reviewers to see.

    >>> spelled({"caption": "a \x1b[31msheep"})
    {'caption': 'a \\x1b[31msheep'}
    """
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, Mapping):
        return {one_line(str(key)): spelled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [spelled(item) for item in value]
    return value


def is_web_address(text: str) -> bool:
    """Return whether text is a web address without credentials, which is safe as a link.

    >>> is_web_address("https://example.org/a.jpg"), is_web_address("javascript:alert(1)"), is_web_address("http://a@b/")
    (True, False, False)
    """
    try:
        parts = urlsplit(text)
        host = parts.hostname
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(host) and "@" not in parts.netloc


def as_number(value: Any) -> float | None:
    """Return the value as a float, or None if it is not a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value)


def is_finite(value: object) -> bool:
    """Return whether a value is a finite number."""
    number = as_number(value)
    return number is not None and math.isfinite(number)


def decimal(value: Any, digits: int = 3) -> str:
    """Format a number with a fixed number of decimals.

    >>> decimal(0.9281), decimal(51, 2), decimal(None)
    ('0.928', '51.00', '–')
    """
    number = as_number(value)
    return ABSENT if number is None else f"{number:.{digits}f}"


def short(value: Any) -> str:
    """Format a number with at most four significant digits.

    >>> short(0.83), short(1e-05), short(None)
    ('0.83', '1e-05', '–')
    """
    number = as_number(value)
    return ABSENT if number is None else f"{number:.4g}"


def count(value: Any) -> str:
    """Format a number with commas between thousands.

    >>> count(25125), count(None)
    ('25,125', '–')
    """
    number = as_number(value)
    if number is None:
        return ABSENT
    return f"{number:,.0f}" if number.is_integer() else f"{number:,}"


def percent(share: Any) -> str:
    """Format a share as a percentage.

    >>> percent(0.00498), percent(0.0008)
    ('0.50%', '0.08%')
    """
    number = as_number(share)
    if number is None:
        return ABSENT
    hundredths = 100 * number
    digits = (
        f"{hundredths:.2f}" if hundredths == 0 or abs(hundredths) >= 0.1 else f"{hundredths:.2g}"
    )
    return f"{digits}%"


def seconds(value: Any) -> str:
    """Format a duration in seconds, minutes or hours.

    >>> seconds(8.12).replace(chr(160), " "), seconds(3725).replace(chr(160), " ")
    ('8.1 s', '1 h 02 min')
    """
    number = as_number(value)
    space = "\N{NO-BREAK SPACE}"
    if number is None or number != number or abs(number) == float("inf"):
        return ABSENT
    if number < 59.95:
        return f"{number:.1f}{space}s"
    minutes, rest = divmod(round(number), 60)
    if minutes < 60:
        return f"{minutes}{space}min{space}{rest:02d}{space}s"
    return f"{minutes // 60}{space}h{space}{minutes % 60:02d}{space}min"
