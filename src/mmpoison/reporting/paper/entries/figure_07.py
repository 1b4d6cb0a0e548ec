"""Figure 7: the post-training defence by epoch."""

from __future__ import annotations

from mmpoison.reporting.paper._defence_curve import defence_curve
from mmpoison.reporting.paper._ours import Results
from mmpoison.reporting.paper._page import Page
from mmpoison.reporting.paper._registry import entry


@entry(
    "figure-7",
    "The post-training defence after each epoch",
    "attack II with the curve of sterilize",
)
def figure_7(results: Results, page: Page) -> None:
    """Epoch 0 is the poisoned model."""
    defence_curve(results, page, by="epoch")
