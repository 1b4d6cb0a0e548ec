"""Table 16: the pre-training defence."""

from __future__ import annotations

from mmpoison.paper.measured import ATTACK_2, Results
from mmpoison.paper.page import Page
from mmpoison.paper.paper_values import title_of
from mmpoison.paper.registry import entry
from mmpoison.paper.shapes import Line, hit_table, model

LINES = (
    Line("attack II", model("poisoned"), {"method": "attack-ii"}, "attack"),
    Line("defence (filtered)", model("filtered"), {"method": "defense"}, "defence"),
    Line("clean", model("clean_model"), {"method": "clean"}),
)


@entry("table-16", title_of("table-16"), "attack II with a section filter")
def table_16(results: Results, page: Page) -> None:
    """Poisoned, filtered and clean model."""
    runs = results.where(ATTACK_2).whole_data()
    filtered = {row["run"] for row in runs.rows if row["model"] == "filtered"}
    hit_table(
        page,
        runs.where(lambda row: row["run"] in filtered),
        "table-16",
        LINES,
        keep=("filter",),
        note="The defence: ▲ where it leaves less of the attack than theirs.",
    )
