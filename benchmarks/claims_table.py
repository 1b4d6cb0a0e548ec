"""The short table of the paper's claims in the README and on the landing page, made from the page of claims.

    python benchmarks/claims_table.py            # names the texts whose table differs from docs/results/paper/claims.md
    python benchmarks/claims_table.py --write    # puts the page's answers in place

The table stands between two comments, `<!-- claims -->` and `<!-- /claims -->`. The words are the short ones of the
paper's claims (`paper_values.json`); the answers are those of the page.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

from page_blocks import PAGES, ROOT, check_or_write, with_block
from page_numbers import tables_of

from mmpoison.base.phrasing import capitalized
from mmpoison.errors import InputError
from mmpoison.paper.claims import CLAIMS
from mmpoison.paper.evidence import Verdict

TEXTS = (ROOT / "README.md", ROOT / "docs/index.md")
SETS = {"openmoji": "OpenMoji scenes", "rsicd-ucm": "satellite photos"}
SHOWN = ("14", "23", "27", "22", "01", "18", "32", "34", "37", "38")
"""The claims of the table by number: the attack, then the encoders, then the defences."""


def answers_of(page: Path) -> dict[tuple[str, str], str]:
    """Read the answers of the page of claims by claim and data set, without the claims that do not count.

    Raises:
        InputError: If the page has no table of them.
    """
    left_out = set()
    for table in tables_of(page):
        if "verdict" in table.columns:
            number, verdict = map(table.columns.index, ("no.", "verdict"))
            left_out |= {
                row[number] for row in table.rows if row[verdict].startswith("not counted")
            }
        if {"no.", "measured on", "answer"} <= set(table.columns):
            number, data, answer = map(table.columns.index, ("no.", "measured on", "answer"))
            return {
                (row[number], row[data]): row[answer]
                for row in table.rows
                if row[number] not in left_out
            }
    raise InputError(f"{page}: no table of answers with the columns no., measured on, answer")


def table_of(page: Path, text: Path) -> str:
    """Write the table for a text.

    Args:
        page: The page of claims.
        text: The file that will hold it, for the address of the page.

    Raises:
        InputError: If the page has no answer to one of the claims.
    """
    answers = answers_of(page)
    lines = [f"| claim | {' | '.join(SETS.values())} |", f"|---|{'---|' * len(SETS)}"]
    for number in SHOWN:
        words = capitalized(CLAIMS[f"claim-{number}"].short)
        found = [answers.get((number, data)) for data in SETS]
        if None in found:
            raise InputError(
                f"{page}: no answer to claim {number} on {' and '.join(SETS.values())}"
            )
        lines.append(f"| {words} | {' | '.join(map(str, found))} |")
    counted = Counter(answers.values())
    total = ", ".join(f"{verdict} {counted[verdict]}" for verdict in Verdict)
    claims, summary = (
        Path(os.path.relpath(each, text.parent)).as_posix()
        for each in (page, page.with_name("summary.md"))
    )
    links = f"[the paper on one screen]({summary}), [every claim]({claims})"
    return "\n".join([*lines, "", f"All {counted.total()} answers: {total} ({links})."])


def pages(page: Path = PAGES / "claims.md") -> dict[Path, str]:
    """Return each text with the table of the page.

    Raises:
        InputError: If a text has no place for it, or more than one.
    """
    return {
        text: with_block(text.read_text(encoding="utf-8"), "claims", table_of(page, text), text)
        for text in TEXTS
    }


if __name__ == "__main__":
    sys.exit(check_or_write(pages()))
