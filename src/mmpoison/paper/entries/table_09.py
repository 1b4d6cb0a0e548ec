"""Table 9: how large the data sets are."""

from __future__ import annotations

from mmpoison.paper.measured import Results
from mmpoison.paper.page import Page
from mmpoison.paper.paper_values import TITLES, rows_of, their_data, title_of
from mmpoison.paper.registry import entry
from mmpoison.reporting.table import Cell, Column

COUNTS = (
    ("pairs", "pairs"),
    ("images", "images"),
    ("labelled_images", "labeled_images"),
    ("classes", "classes"),
)


@entry("table-9", title_of("table-9"), "runs, or a folder of `report --data`")
def table_9(results: Results, page: Page) -> None:
    """Pairs, images, labelled images and classes of whole data sets, before any split."""
    rows: list[tuple[Cell, ...]] = []
    covered = set()
    for name, on_data in results.where().by("data.name"):
        data = their_data(str(name))
        measured = [on_data.measured(f"run.data.{column}") for column, _ in COUNTS]
        if not any(m.summary for m in measured):
            continue
        theirs = next(iter(rows_of("table-9", dataset=data)), {})
        covered.add(data if theirs else None)
        cells = (
            page.cell(m, theirs.get(k), digits=0)
            for m, (_, k) in zip(measured, COUNTS, strict=True)
        )
        rows.append((str(name), *cells, TITLES.get(str(data)) if theirs else None))
    for row in rows_of("table-9"):
        if row["dataset"] not in covered:
            absent = (page.absent(row[k]) for _, k in COUNTS)
            rows.append((None, *absent, TITLES[row["dataset"]]))
    header = (
        Column("ours"),
        Column("pairs", 0),
        Column("images", 0),
        Column("labelled images", 0),
        Column("classes", 0),
        Column("theirs"),
    )
    note = (
        "Ours, an arrow (↑ more, ↓ fewer, ≈ as many), theirs. The paper's Flickr is probably 31,783 images "
        "(158,915 / 5)."
    )
    page.table(title_of("table-9"), header, rows, note)
