"""Table 1: utility of the clean model and of the three attacks' models."""

from __future__ import annotations

from mmpoison.paper.measured import ATTACK_1, ATTACK_2, ATTACK_3, Results
from mmpoison.paper.page import STRONGER, Page
from mmpoison.paper.paper_values import TITLES, rows_of, their_data, title_of
from mmpoison.paper.registry import entry
from mmpoison.paper.shapes import blocks
from mmpoison.reporting.table import Cell, Column

TASKS = (("tr", "text"), ("ir", "image"))


@entry("table-1", title_of("table-1"), "runs of attacks I, II and III")
def table_1(results: Results, page: Page) -> None:
    """Hit@10 of text and image retrieval on the whole test set."""
    kinds = {"attack-i": ATTACK_1, "attack-ii": ATTACK_2, "attack-iii": ATTACK_3}
    runs = results.where(lambda row: any(is_it(row) for is_it in kinds.values())).whole_data()
    rows: list[tuple[Cell, ...]] = []
    covered = set()
    for block in blocks(runs, varies=("attack",)):
        data = their_data(block.data)
        covered.add(data)
        for task, long in TASKS:
            theirs = next(iter(rows_of("table-1", dataset=data, task=task)), {})
            column = f"utility.{long}_retrieval.hit@10"
            models = {
                "clean": block.results.where(model="clean_model"),
                **{
                    kind: block.results.where(is_it, model="poisoned")
                    for kind, is_it in kinds.items()
                },
            }
            measured = {kind: found.measured(column) for kind, found in models.items()}
            n = max((m.summary.n for m in measured.values() if m.summary), default=None)
            cells = (page.cell(m, theirs.get(kind), sense="up") for kind, m in measured.items())
            known = TITLES.get(str(data)) if theirs else None
            rows.append((block.title, task.upper(), n, *cells, known))
    for row in rows_of("table-1"):
        if row["dataset"] not in covered:
            absent = (page.absent(row[kind]) for kind in ("clean", *kinds))
            rows.append((None, row["task"].upper(), None, *absent, TITLES[row["dataset"]]))
    header = ("ours on", "task", "n", "Clean", "Attack I", "Attack II", "Attack III", "theirs on")
    note = f"Hit@10; TR: text retrieval, IR: image retrieval. {STRONGER}"
    page.table(title_of("table-1"), [Column(name) for name in header], rows, note)
