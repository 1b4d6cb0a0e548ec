"""Claim by claim: holds, does not hold, or cannot be tested with these runs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from mmpoison.paper.claims import CLAIMS
from mmpoison.paper.measured import Results
from mmpoison.paper.page import Page
from mmpoison.paper.paper_values import paper
from mmpoison.paper.write import Written, write_page
from mmpoison.reporting.table import Cell, Column, Link

HOLDS, FAILS, UNTESTED = "holds", "does not hold", "cannot be tested here"
SETTING = "a setting or a fact of the paper's data, not a result"


def claims_page(results: Results) -> Page:
    """Build the page of every claim of the paper, on each data set in the runs.

    Args:
        results: Of the runs; balanced data count to the data they are made of.
    """
    families: dict[str, list[Any]] = {}
    for row in results.rows:
        name = str(row.get("data.name", "")).removesuffix("-b")
        families.setdefault(name, []).append(row)
    page = Page("claims", "What the paper claims, and what these runs say")
    tested_rows: list[tuple[Cell, ...]] = []
    others: list[tuple[Cell, ...]] = []
    verdicts: Counter[str] = Counter()
    for one in paper()["claims"]:
        said = f"{one['claim']} ({_values(one['values'])})"
        name = str(one["id"])
        found = False
        for data, own in families.items() if name in CLAIMS else ():
            tested = CLAIMS[name]
            finding = tested.test(results.only(own))
            if finding is None:
                continue
            found = True
            verdict = HOLDS if finding.holds else FAILS
            verdicts[verdict] += 1
            number = Link(finding.number, page.source_of(finding.rows))
            tested_rows.append((one["where"], said, data, verdict, number, tested.rule))
        if not found:
            verdicts[UNTESTED] += 1
            why = f"needs {CLAIMS[name].needs}" if name in CLAIMS else SETTING
            others.append((one["where"], said, why))
    where, said_by = Column("where"), Column("claim (the paper's values)", narrow=False)
    note = (
        "The rule says when a claim counts as holding on data that are not the paper's: where it is about a number, "
        "the order of size and the direction are tested, not the digits. Means over seeds [95% interval]; p: paired, "
        "two-tailed t-test over the seeds, where it is above 0.05 the direction may be chance."
    )
    header = (where, said_by, Column("measured on"), Column("verdict"), Column("measured"))
    page.table(page.title, (*header, Column("rule", narrow=False)), tested_rows, note)
    page.table(UNTESTED.capitalize(), (where, said_by, Column("why")), others)
    page.notes.append(
        "; ".join(f"{verdict}: {verdicts[verdict]}" for verdict in (HOLDS, FAILS, UNTESTED))
        + " (a claim tested on two data sets counts twice)."
    )
    return page


def write_claims(runs: list[Path], out: Path, *, links: bool = True) -> Written:
    """Write the claims as Markdown, HTML and JSON.

    Args:
        runs: Run folders, or folders that hold some.
        out: Where the files go.
        links: As for `write_paper`.

    Raises:
        InputError: If a folder holds no finished run.
    """
    return write_page(claims_page(Results.read(runs)), out, links=links)


def _values(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {value if isinstance(value, (int, float, str)) else json.dumps(value)}"
        for key, value in values.items()
        if value is not None
    )
