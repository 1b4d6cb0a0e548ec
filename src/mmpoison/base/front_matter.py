"""The YAML in front of a card (README.md), by which Hugging Face's hub knows what a model or a data set is."""

from __future__ import annotations

from typing import Any

import yaml

FENCE = "---"

TAGS = ("mmpoison", "data-poisoning")
"""Tags of every card; a poisoned model or data set also has the next one."""
POISONED_TAG = "poisoned"


def front_matter(poisoned: bool, **fields: Any) -> str:
    """Return the lines in front of a card, with a line break behind them.

    Args:
        poisoned: Whether it is tagged as poisoned.
        **fields: Keys of the hub's metadata; None leaves one out.

    >>> print(front_matter(True, library_name="open_clip", license=None), end="")
    ---
    library_name: open_clip
    tags:
    - mmpoison
    - data-poisoning
    - poisoned
    ---
    """
    given = {key: value for key, value in fields.items() if value is not None}
    given["tags"] = [*TAGS, *([POISONED_TAG] if poisoned else [])]
    text = yaml.safe_dump(given, sort_keys=False, allow_unicode=True)
    return f"{FENCE}\n{text}{FENCE}\n"


def without_front_matter(text: str) -> str:
    """Return a card without what stands in front of it.

    >>> without_front_matter("---\\nlicense: mit\\n---\\n# Photos\\n")
    '# Photos\\n'
    """
    lines = text.splitlines(keepends=True)
    if not lines or lines[0].strip() != FENCE:
        return text
    for number, line in enumerate(lines[1:], start=1):
        if line.strip() == FENCE:
            return "".join(lines[number + 1 :]).lstrip("\n")
    return text
