"""Table 14: how far clean and poisoned encoders are apart on balanced data."""

from __future__ import annotations

from mmpoison.reporting.paper._ours import ATTACK_2, Results, is_balanced
from mmpoison.reporting.paper._page import Page
from mmpoison.reporting.paper._registry import entry
from mmpoison.reporting.paper._shapes import drift_table
from mmpoison.reporting.paper._theirs import title_of


@entry("table-14", title_of("table-14"), "attack II on balanced data (-b)")
def table_14(results: Results, page: Page) -> None:
    """Drift of texts and images."""
    runs = results.where(ATTACK_2, model="poisoned").where(is_balanced)
    drift_table(page, runs, "table-14", note="The paper's are of one run.")
