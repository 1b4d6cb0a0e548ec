"""Table 15: longer queries against attack I."""

from __future__ import annotations

from mmpoison.paper.measured import ATTACK_1, Results
from mmpoison.paper.page import STRONGER, Page
from mmpoison.paper.paper_values import TITLES, rows_of, their_data, title_of
from mmpoison.paper.registry import entry
from mmpoison.paper.shapes import DIGITS, HITS, NAMES, blocks
from mmpoison.reporting.table import Cell, Column


@entry("table-15", title_of("table-15"), "attack I with the study query-length")
def table_15(results: Results, page: Page) -> None:
    """A line for how often each caption is said."""
    rows: list[tuple[Cell, ...]] = []
    covered = set()
    runs = results.where(ATTACK_1, study="query-length", model="poisoned").whole_data()
    for block in blocks(runs):
        data = their_data(block.data)
        covered.add(data)
        printed = rows_of("table-15", dataset=data)
        for times, said in sorted(block.results.by("x"), key=lambda pair: float(pair[0])):
            place = int(times) - 1
            theirs = printed[place] if place < len(printed) else {}
            words = said.measured("words")
            cells = (
                page.cell(
                    said.measured(c),
                    theirs.get(c),
                    sense="up" if c.startswith("hit") else "down",
                    digits=DIGITS.get(c, 3),
                )
                for c in HITS
            )
            rows.append(
                (
                    block.title,
                    f"{times:g}x",
                    words.summary.n if words.summary else None,
                    page.cell(words, theirs.get("text_length")),
                    *cells,
                    TITLES.get(str(data)) if theirs else None,
                )
            )
    for row in rows_of("table-15"):
        if row["dataset"] not in covered:
            absent = (page.absent(row[c]) for c in HITS)
            rows.append(
                (None, None, None, page.absent(row["text_length"]), *absent, TITLES[row["dataset"]])
            )
    header = (
        Column("ours on"),
        Column("said"),
        Column("n"),
        Column("words"),
        *(Column(NAMES[c], DIGITS.get(c, 3)) for c in HITS),
        Column("theirs on"),
    )
    page.table(title_of("table-15"), header, rows, STRONGER)
