"""Table 5: what the poison does when one encoder is frozen."""

from __future__ import annotations

from mmpoison.reporting.paper._frozen import LINES
from mmpoison.reporting.paper._ours import Results, attack_2
from mmpoison.reporting.paper._page import Page
from mmpoison.reporting.paper._registry import entry
from mmpoison.reporting.paper._shapes import DEEP_HITS, hit_table
from mmpoison.reporting.paper._theirs import title_of


@entry("table-5", title_of("table-5"), "attack II with training.trainable both, image and text")
def table_5(results: Results, page: Page) -> None:
    """A line for what was trained."""
    hit_table(
        page,
        results.where(attack_2).whole_data(),
        "table-5",
        LINES,
        columns=DEEP_HITS,
        varies=("training.trainable",),
    )
