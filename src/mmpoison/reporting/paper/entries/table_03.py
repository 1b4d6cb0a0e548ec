"""Table 3: attack II."""

from __future__ import annotations

from mmpoison.reporting.paper._ours import ATTACK_2, Results
from mmpoison.reporting.paper._page import Page
from mmpoison.reporting.paper._registry import entry
from mmpoison.reporting.paper._shapes import CLEAN_AND_POISONED, hit_table
from mmpoison.reporting.paper._theirs import title_of


@entry("table-3", title_of("table-3"), "runs of attack II (single-target-label)")
def table_3(results: Results, page: Page) -> None:
    """Captions of the original class, and images of the target class."""
    hit_table(page, results.where(ATTACK_2).whole_data(), "table-3", CLEAN_AND_POISONED)
