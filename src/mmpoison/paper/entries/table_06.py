"""Table 6: poisoned on one data set, tested on another."""

from __future__ import annotations

from mmpoison.paper.measured import ATTACK_2, Results
from mmpoison.paper.page import Page
from mmpoison.paper.paper_values import title_of
from mmpoison.paper.registry import entry
from mmpoison.paper.shapes import CLEAN_AND_POISONED, hit_table


@entry("table-6", title_of("table-6"), "attack II with a section transfer")
def table_6(results: Results, page: Page) -> None:
    """A block for each data set trained on; the numbers are of the other data."""
    composed = results.where(ATTACK_2).where(lambda row: row.get("data.name") == "vg-pascal")
    if composed:
        hit_table(
            page,
            composed,
            "table-6",
            CLEAN_AND_POISONED,
            note="Trained on VG, tested on the test half of PASCAL.",
            data_of=lambda block: "flickr-pascal",
        )
    for other, rows in results.where(ATTACK_2, study="transfer").by("case"):
        hit_table(
            page,
            rows,
            "table-6",
            CLEAN_AND_POISONED,
            note=f"Trained on the data named, tested on {other}; the paper trained on VG.",
            data_of=lambda block: "flickr-pascal",
        )
