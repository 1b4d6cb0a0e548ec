"""Table 10: how large the image encoders are."""

from __future__ import annotations

from mmpoison.paper.measured import Results
from mmpoison.paper.page import Page
from mmpoison.paper.paper_values import rows_of, title_of
from mmpoison.paper.registry import entry
from mmpoison.reporting.table import Cell, Column

ENCODERS = {
    "clip-vit-b32": "ViT-B/32",
    "clip-vit-b16": "ViT-B/16",
    "clip-vit-l14": "ViT-L/14",
}


@entry("table-10", title_of("table-10"), "runs of the models")
def table_10(results: Results, page: Page) -> None:
    """Floating-point operations of one forward pass and numbers of parameters."""
    rows: list[tuple[Cell, ...]] = []
    covered = set()
    for name, of_model in results.where().by("model.name"):
        measured = [of_model.measured(f"run.model.{key}") for key in ("flops_g", "parameters_m")]
        if not any(m.summary for m in measured):
            continue
        encoder = ENCODERS.get(str(name))
        covered.add(encoder)
        theirs = next(iter(rows_of("table-10", encoder=encoder)), {})
        cells = (
            page.cell(m, theirs.get(key))
            for m, key in zip(measured, ("flops_g", "params_m"), strict=True)
        )
        rows.append((str(name), *cells, encoder))
    for row in rows_of("table-10"):
        if row["encoder"] not in covered:
            rows.append(
                (None, page.absent(row["flops_g"]), page.absent(row["params_m"]), row["encoder"])
            )
    header = (
        Column("ours"),
        Column("FLOPs (10⁹)"),
        Column("parameters (10⁶)"),
        Column("theirs"),
    )
    note = (
        "Ours: one image and one caption through both encoders, a multiply-add counted as one operation; all "
        "parameters. The paper does not say what its counts cover."
    )
    page.table(title_of("table-10"), header, rows, note)
