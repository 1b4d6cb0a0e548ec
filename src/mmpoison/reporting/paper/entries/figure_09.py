"""Figure 9: the post-training defence by step."""

from __future__ import annotations

from mmpoison.reporting.paper._defence_curve import defence_curve
from mmpoison.reporting.paper._ours import Results
from mmpoison.reporting.paper._page import Page
from mmpoison.reporting.paper._registry import entry


@entry(
    "figure-9",
    "The post-training defence at the steps of its first epoch",
    "attack II with the curve of sterilize",
)
def figure_9(results: Results, page: Page) -> None:
    """Step 0 is the poisoned model."""
    defence_curve(results, page, by="x")
