"""Table 12: table 5 over five seeds, with tests between its lines."""

from __future__ import annotations

import itertools

from mmpoison.paper.frozen import LINES
from mmpoison.paper.measured import Results, attack_2
from mmpoison.paper.page import Page
from mmpoison.paper.paired import paired
from mmpoison.paper.paper_values import title_of
from mmpoison.paper.registry import entry
from mmpoison.paper.shapes import DEEP_HITS, NAMES, blocks, hit_table
from mmpoison.reporting.table import Cell, Column


@entry("table-12", title_of("table-12"), "the runs of table 5 with five seeds")
def table_12(results: Results, page: Page) -> None:
    """A line for what was trained, with standard deviations; then paired t-tests."""
    runs = results.where(attack_2).whole_data()
    hit_table(
        page,
        runs,
        "table-12",
        LINES,
        columns=DEEP_HITS,
        varies=("training.trainable",),
        spread=True,
    )
    rows: list[tuple[Cell, ...]] = []
    for block in blocks(runs, varies=("training.trainable",)):
        for one, other in itertools.combinations(LINES, 2):
            sides = one.pick(block.results), other.pick(block.results)
            tests = {column: paired(*sides, column) for column in DEEP_HITS}
            if any(tests.values()):
                n = max(test.n for test in tests.values() if test)
                cells = (test.t_p if test else None for test in tests.values())
                rows.append((block.title, f"{one.name}, {other.name}", n, *cells))
    header = (
        Column("ours on"),
        Column("models"),
        Column("n"),
        *(Column(NAMES[c], 4) for c in DEEP_HITS),
    )
    page.table(
        "p of the paired two-tailed t-test",
        header,
        rows,
        "Not corrected for the number of tests. –: no spread, or fewer than two seeds in common.",
    )
