"""Table 7: utility after the post-training defence."""

from __future__ import annotations

from mmpoison.paper.measured import ATTACK_2, Results
from mmpoison.paper.page import STRONGER, Page
from mmpoison.paper.paper_values import TITLES, rows_of, their_data, title_of
from mmpoison.paper.registry import entry
from mmpoison.paper.shapes import blocks, difference
from mmpoison.reporting.table import Cell, Column

TASKS = (("tr", "text"), ("ir", "image"))


@entry("table-7", title_of("table-7"), "attack II with a section sterilize")
def table_7(results: Results, page: Page) -> None:
    """Hit@10 of the sterilized model, and its change against the clean model."""
    rows: list[tuple[Cell, ...]] = []
    covered = set()
    runs = results.where(ATTACK_2, model=("clean_model", "sterilized")).whole_data()
    with_defence = {row["run"] for row in runs.rows if row["model"] == "sterilized"}
    runs = runs.where(lambda row: row["run"] in with_defence)
    for block in blocks(runs, keep=("sterilize",)):
        data = their_data(block.data)
        covered.add(data)
        theirs = next(iter(rows_of("table-7", dataset=data)), {})
        after = block.results.where(model="sterilized")
        before = block.results.where(model="clean_model")
        cells: list[Cell] = []
        n = None
        for short, long in TASKS:
            column = f"utility.{long}_retrieval.hit@10"
            measured = after.measured(column)
            n = measured.summary.n if measured.summary else n
            cells += [
                page.cell(measured, theirs.get(f"hit@10_{short}"), sense="up"),
                page.cell(
                    difference(before, after, column),
                    theirs.get(f"hit@10_{short}_delta"),
                    sense="up",
                ),
            ]
        rows.append((block.title, n, *cells, TITLES.get(str(data)) if theirs else None))
    for row in rows_of("table-7"):
        if row["dataset"] not in covered:
            printed = ("hit@10_tr", "hit@10_tr_delta", "hit@10_ir", "hit@10_ir_delta")
            rows.append(
                (None, None, *(page.absent(row[key]) for key in printed), TITLES[row["dataset"]])
            )
    header = ("ours on", "n", "TR Hit@10", "change of TR", "IR Hit@10", "change of IR", "theirs on")
    note = f"Change: against the clean model, paired by seed. {STRONGER}"
    page.table(title_of("table-7"), [Column(name) for name in header], rows, note)
