"""Table 11: how far clean and poisoned encoders are apart, over five seeds."""

from __future__ import annotations

from mmpoison.paper.measured import ATTACK_2, Results
from mmpoison.paper.page import Page
from mmpoison.paper.paired import paired
from mmpoison.paper.paper_values import title_of
from mmpoison.paper.registry import entry
from mmpoison.paper.shapes import blocks, drift_table


@entry("table-11", title_of("table-11"), "attack II with five seeds")
def table_11(results: Results, page: Page) -> None:
    """Drift of texts and images, and the t-test between them."""
    runs = results.where(ATTACK_2, model="poisoned").whole_data()
    drift_table(page, runs, "table-11")
    for block in blocks(runs):
        test = paired(block.results, block.results, "drift.image", "drift.text")
        if test is not None and test.t_p is not None:
            more = "texts" if test.mean > 0 else "images"
            page.notes.append(
                f"{block.title}: the {more} moved more, paired two-tailed t-test over {test.n} seeds, "
                f"p = {test.t_p:.2g}; the paper: texts, p = 0.0071."
            )
