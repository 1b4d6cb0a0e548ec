"""Table 8: the post-training defence at several learning rates."""

from __future__ import annotations

from mmpoison.paper.measured import ATTACK_2, Measured, Results
from mmpoison.paper.page import STRONGER, Page
from mmpoison.paper.paper_values import TITLES, rows_of, title_of
from mmpoison.paper.registry import entry
from mmpoison.paper.repairs import RATE, ends_of_curves
from mmpoison.paper.shapes import DIGITS, HITS, NAMES, blocks
from mmpoison.reporting.table import Cell, Column


@entry("table-8", title_of("table-8"), "attack II with sterilize at several learning rates")
def table_8(results: Results, page: Page) -> None:
    """The poisoned model, then the sterilized one at each learning rate, high to low."""
    rows: list[tuple[Cell, ...]] = []
    attack = results.where(ATTACK_2).whole_data()
    for block in blocks(attack):
        defended = block.results.where(lambda row: row.get(RATE) is not None, model="sterilized")
        lines: list[tuple[str, Results]] = [
            (f"{rate:g}", at_rate)
            for rate, at_rate in sorted(defended.by(RATE), key=lambda pair: -float(pair[0]))
        ]
        looks = ends_of_curves(results.of_runs(block.results.values("run")))
        lines += [(rate, at) for rate, at in looks if rate not in dict(lines)]
        if not lines:
            continue
        poisoned = block.results.where(model="poisoned")
        theirs = rows_of("table-8", method="attack-ii")[0]
        for name, found in (("attack II", poisoned), *((f"defence, {n}", r) for n, r in lines)):
            measured = {column: found.measured(column) for column in HITS}
            n = max((m.summary.n for m in measured.values() if m.summary), default=None)
            cells = (
                page.cell(
                    m,
                    theirs.get(column) if found is poisoned else None,
                    sense="up" if column.startswith("hit") else "down",
                    digits=DIGITS.get(column, 3),
                )
                for column, m in measured.items()
            )
            rows.append(
                (
                    block.title,
                    name,
                    n,
                    *cells,
                    TITLES["flickr-pascal"] if found is poisoned else None,
                )
            )
    for row in rows_of("table-8", method="defense"):
        cells = (page.cell(Measured(None), row[column]) for column in HITS)
        rows.append(
            (None, f"paper's learning rate no. {row['lr_index']}", None, *cells, "Flickr-PASCAL")
        )
    header = (
        Column("ours on"),
        Column("method, learning rate"),
        Column("n"),
        *(Column(NAMES[c], DIGITS.get(c, 3)) for c in HITS),
        Column("theirs on"),
    )
    note = "The text of the paper does not print its three learning rates, so no line of ours stands beside them."
    page.table(title_of("table-8"), header, rows, f"{note} {STRONGER}")
