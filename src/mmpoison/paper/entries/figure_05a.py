"""Figure 5 (a): the size of the data at one poisoning rate."""

from __future__ import annotations

from mmpoison.paper.curve_page import Curve, curve_page
from mmpoison.paper.measured import ATTACK_2, Results
from mmpoison.paper.page import Page
from mmpoison.paper.registry import entry
from mmpoison.paper.shapes import AMOUNTS
from mmpoison.reporting.text import count

PAIRS = "run.training_pairs"


@entry(
    "figure-5a",
    "Attack II on data of several sizes at one poisoning rate",
    "attack II on data of several sizes",
)
def figure_5a(results: Results, page: Page) -> None:
    """A point a size of the training data."""
    runs = results.where(ATTACK_2).whole_data()
    lines = []
    for model, name in (("poisoned", "poisoned"), ("clean_model", "clean")):
        points = []
        for _, at in runs.where(model=model).settings(varies=AMOUNTS, keep=()):
            for data, on_data in at.by("data.name"):
                if (size := on_data.measured(PAIRS).mean) is not None:
                    points.append((size, f"{data}: {count(round(size))}", on_data))
        lines.append(Curve(name, sorted(points, key=lambda point: point[0])))
    rates = runs.where(model="poisoned").values("run.poisoning_rate")
    if rates:
        page.notes.append(
            f"Poisoning rates: {min(rates):.3%} to {max(rates):.3%} of the training pairs."
        )
    curve_page(page, lines, "training pairs", "Hit@10 and MinRank against the size of the data.")
