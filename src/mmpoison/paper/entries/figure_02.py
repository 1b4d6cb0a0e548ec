"""Figure 2: the poisoning rate."""

from __future__ import annotations

from mmpoison.paper.curve_page import Curve, curve_page
from mmpoison.paper.measured import ATTACK_2, Results
from mmpoison.paper.page import Page
from mmpoison.paper.registry import entry
from mmpoison.paper.shapes import AMOUNTS, blocks
from mmpoison.reporting.text import percent

RATE = "run.poisoning_rate"


@entry(
    "figure-2", "Attack II at several poisoning rates", "attack II with several amounts of poison"
)
def figure_2(results: Results, page: Page) -> None:
    """A point a rate; rate 0 is the clean model."""
    lines = []
    for block in blocks(results.where(ATTACK_2).whole_data(), varies=AMOUNTS):
        points = [(0.0, "0 (clean)", block.results.where(model="clean_model"))]
        poisoned = block.results.where(model="poisoned")
        # seeds draw data whose counts differ a little: the amount that was asked for tells rates apart
        amounts: dict[tuple[object, ...], list[dict[str, object]]] = {}
        for row in poisoned.rows:
            amounts.setdefault(tuple(row.get(name) for name in AMOUNTS), []).append(row)
        for rows in amounts.values():
            at = poisoned.only(rows)
            if (rate := at.measured(RATE).mean) is not None:
                points.append((100 * rate, percent(rate), at))
        lines.append(Curve(block.title, sorted(points, key=lambda point: point[0])))
    curve_page(page, lines, "poisoning rate (%)", "Hit@10 and MinRank against the poisoning rate.")
