"""Figure 7: the post-training defence by epoch."""

from __future__ import annotations

from mmpoison.paper.defence_curve import defence_curve
from mmpoison.paper.measured import Results
from mmpoison.paper.page import Page
from mmpoison.paper.registry import entry


@entry(
    "figure-7",
    "The post-training defence after each epoch",
    "attack II with the curve of sterilize",
)
def figure_7(results: Results, page: Page) -> None:
    """Epoch 0 is the poisoned model."""
    defence_curve(results, page, by="epoch")
