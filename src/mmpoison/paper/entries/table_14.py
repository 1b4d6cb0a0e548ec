"""Table 14: how far clean and poisoned encoders are apart on balanced data."""

from __future__ import annotations

from mmpoison.paper.measured import ATTACK_2, Results, is_balanced
from mmpoison.paper.page import Page
from mmpoison.paper.paper_values import title_of
from mmpoison.paper.registry import entry
from mmpoison.paper.shapes import drift_table


@entry("table-14", title_of("table-14"), "attack II on balanced data (-b)")
def table_14(results: Results, page: Page) -> None:
    """Drift of texts and images."""
    runs = results.where(ATTACK_2, model="poisoned").where(is_balanced)
    drift_table(page, runs, "table-14", note="The paper's are of one run.")
