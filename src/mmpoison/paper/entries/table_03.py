"""Table 3: attack II."""

from __future__ import annotations

from mmpoison.paper.measured import ATTACK_2, Results
from mmpoison.paper.page import Page
from mmpoison.paper.paper_values import title_of
from mmpoison.paper.registry import entry
from mmpoison.paper.shapes import CLEAN_AND_POISONED, hit_table


@entry("table-3", title_of("table-3"), "runs of attack II (single-target-label)")
def table_3(results: Results, page: Page) -> None:
    """Captions of the original class, and images of the target class."""
    hit_table(page, results.where(ATTACK_2).whole_data(), "table-3", CLEAN_AND_POISONED)
