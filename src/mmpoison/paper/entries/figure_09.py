"""Figure 9: the post-training defence by step."""

from __future__ import annotations

from mmpoison.paper.defence_curve import defence_curve
from mmpoison.paper.measured import Results
from mmpoison.paper.page import Page
from mmpoison.paper.registry import entry


@entry(
    "figure-9",
    "The post-training defence at the steps of its first epoch",
    "attack II with the curve of sterilize",
)
def figure_9(results: Results, page: Page) -> None:
    """Step 0 is the poisoned model."""
    defence_curve(results, page, by="x")
