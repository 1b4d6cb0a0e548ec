"""Table 13: balanced data, one caption an image."""

from __future__ import annotations

from mmpoison.reporting.paper._ours import ATTACK_2, Results, is_balanced
from mmpoison.reporting.paper._page import Page
from mmpoison.reporting.paper._registry import entry
from mmpoison.reporting.paper._shapes import CLEAN_AND_POISONED, hit_table
from mmpoison.reporting.paper._theirs import title_of


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
