"""Figure 3: the epochs of fine-tuning."""

from __future__ import annotations

from mmpoison.paper.curve_page import Curve, curve_page
from mmpoison.paper.measured import ATTACK_2, Results
from mmpoison.paper.page import Page
from mmpoison.paper.registry import entry
from mmpoison.paper.shapes import blocks


@entry("figure-3", "Attack II after each epoch", "attack II with the study epochs")
def figure_3(results: Results, page: Page) -> None:
    """One training looked at after each epoch; epoch 0 is the pre-trained model."""
    runs = results.where(ATTACK_2, study="epochs", model="poisoned").whole_data()
    lines = [
        Curve(
            block.title,
            [
                (float(epoch), f"{epoch:g}", at)
                for epoch, at in sorted(block.results.by("x"), key=lambda pair: float(pair[0]))
            ],
        )
        for block in blocks(runs)
    ]
    curve_page(page, lines, "epochs", "Hit@10 and MinRank after each epoch of one training.")
