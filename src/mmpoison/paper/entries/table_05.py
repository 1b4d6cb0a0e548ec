"""Table 5: what the poison does when one encoder is frozen."""

from __future__ import annotations

from mmpoison.paper.frozen import LINES
from mmpoison.paper.measured import Results, attack_2
from mmpoison.paper.page import Page
from mmpoison.paper.paper_values import title_of
from mmpoison.paper.registry import entry
from mmpoison.paper.shapes import DEEP_HITS, hit_table


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
