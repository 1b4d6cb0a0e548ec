"""Table 4: attack III."""

from __future__ import annotations

from mmpoison.reporting.paper._ours import ATTACK_3, Results
from mmpoison.reporting.paper._page import Page
from mmpoison.reporting.paper._registry import entry
from mmpoison.reporting.paper._shapes import CLEAN_AND_POISONED, hit_table
from mmpoison.reporting.paper._theirs import title_of


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
