"""Parts of texts that a command writes: each stands between two comments, `<!-- NAME -->` and `<!-- /NAME -->`."""

from __future__ import annotations

import re
from pathlib import Path

from mmpoison.errors import InputError
from mmpoison.paper.page import name_of
from mmpoison.paper.verdicts import LINES

WIDE = "---\nhide: [navigation, toc]\n---\n\n"
"""Before a page with wide tables: leaves the room for them."""

FRAME = '<div class="one-screen" markdown>'
"""Around a table whose lines are low: docs/stylesheets/tables.css."""


def with_block(content: str, name: str, block: str, of: Path) -> str:
    """Return a text with a block in its place.

    Args:
        content: The text.
        name: Of the block.
        block: What stands there from now on.
        of: The file of the text, for an error.

    Raises:
        InputError: If the text has no place for it, or more than one.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if content.count(begin) != 1 or content.count(end) != 1:
        raise InputError(f"{of}: needs {begin} and {end} once each, around the table of {name}")
    before, rest = content.split(begin)
    return f"{before}{begin}\n\n{block}\n\n{end}{rest.split(end)[1]}"


def for_docs(summary: str, folder: Path) -> str:
    """Prepare the page `summary` for the documentation: its names lead to pages, and its lines are low.

    Args:
        summary: Markdown, as `report --claims` writes it.
        folder: Holds the pages; the name of a table or figure without one stays as it is.
    """
    names = {name_of(entry): entry for entry in LINES if (folder / f"{entry}.md").is_file()}

    def linked(found: re.Match[str]) -> str:
        entry = names.get(found[1])
        return f"| [{found[1]}]({entry}.md) |" if entry else found[0]

    text = re.sub(r"(?m)^\| ((?:Table|Figure) \w+) \|", linked, summary)
    return re.sub(r"(?m)(?:^\|.*\n)+", rf"{FRAME}\n\n\g<0>\n</div>\n", text, count=1)


def summary_of(text: str) -> str:
    """Cut the table with its note out of what `for_docs` made, without headings."""
    return text[text.index(FRAME) :].strip()
