"""Phrases with numbers, and text shown on one line."""

from __future__ import annotations


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
