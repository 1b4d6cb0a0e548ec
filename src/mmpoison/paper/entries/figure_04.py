"""Figure 4: the type of the image encoder."""

from __future__ import annotations

from mmpoison.paper.curve_page import Curve, curve_page
from mmpoison.paper.measured import ATTACK_2, Results
from mmpoison.paper.page import Page
from mmpoison.paper.registry import entry
from mmpoison.paper.shapes import blocks


@entry("figure-4", "Attack II on several image encoders", "attack II on several models")
def figure_4(results: Results, page: Page) -> None:
    """A point an encoder, clean and poisoned."""
    runs = results.where(ATTACK_2).whole_data()
    places = {name: place for place, name in enumerate(runs.values("model.name"))}
    lines = []
    for block in blocks(runs, varies=("model", "training")):
        for model, name in (("poisoned", "poisoned"), ("clean_model", "clean")):
            points = [
                (float(places[encoder]), str(encoder), at)
                for encoder, at in block.results.where(model=model).by("model.name")
            ]
            lines.append(Curve(f"{block.title}, {name}", points))
    curve_page(
        page,
        lines,
        "model",
        "Hit@10 and MinRank for each model.",
        columns=("hit@10", "min_rank"),
        named=True,
    )
