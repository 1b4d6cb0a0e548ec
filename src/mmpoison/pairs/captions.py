"""Captions and plurals from class names, for data without captions and for attacks that write their own."""

from __future__ import annotations


def caption_of(template: str, label: str) -> str:
    """Generate a caption for an image of a class.

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
