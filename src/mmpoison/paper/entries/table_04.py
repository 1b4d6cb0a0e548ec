"""Table 4: attack III."""

from __future__ import annotations

from mmpoison.paper.measured import ATTACK_3, Results
from mmpoison.paper.page import Page
from mmpoison.paper.paper_values import title_of
from mmpoison.paper.registry import entry
from mmpoison.paper.shapes import CLEAN_AND_POISONED, hit_table


@entry("table-4", title_of("table-4"), "runs of attack III (multiple-target-labels)")
def table_4(results: Results, page: Page) -> None:
    """Two goals injected at once, two lines each."""
    hit_table(
        page,
        results.where(ATTACK_3).whole_data(),
        "table-4",
        CLEAN_AND_POISONED,
        note="Goals that are not the paper's stand beside its goals in their order.",
    )
