"""Table 13: balanced data, one caption an image."""

from __future__ import annotations

from mmpoison.paper.measured import ATTACK_2, Results, is_balanced
from mmpoison.paper.page import Page
from mmpoison.paper.paper_values import title_of
from mmpoison.paper.registry import entry
from mmpoison.paper.shapes import CLEAN_AND_POISONED, hit_table


@entry("table-13", title_of("table-13"), "attack II on balanced data (-b)")
def table_13(results: Results, page: Page) -> None:
    """The paper prints no baseline here; ours is shown."""
    hit_table(
        page,
        results.where(ATTACK_2).where(is_balanced),
        "table-13",
        CLEAN_AND_POISONED,
        note="The paper prints no baseline in this table.",
    )
