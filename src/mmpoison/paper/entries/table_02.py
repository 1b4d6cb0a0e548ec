"""Table 2: attack I."""

from __future__ import annotations

from mmpoison.paper.measured import ATTACK_1, Results
from mmpoison.paper.page import Page
from mmpoison.paper.paper_values import title_of
from mmpoison.paper.registry import entry
from mmpoison.paper.shapes import CLEAN_AND_POISONED, hit_table


@entry("table-2", title_of("table-2"), "runs of attack I (single-target-image)")
def table_2(results: Results, page: Page) -> None:
    """Captions of the original class, and the one target image."""
    hit_table(page, results.where(ATTACK_1).whole_data(), "table-2", CLEAN_AND_POISONED)
