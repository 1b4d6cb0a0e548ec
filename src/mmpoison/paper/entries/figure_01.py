"""Figure 1: how far poisoning moves texts and images."""

from __future__ import annotations

from mmpoison.paper.draw import bars
from mmpoison.paper.measured import ATTACK_2, Results
from mmpoison.paper.page import Page
from mmpoison.paper.registry import entry
from mmpoison.paper.shapes import blocks
from mmpoison.reporting.table import Column


@entry(
    "figure-1",
    "Cosine distance between the embeddings of the clean and the poisoned model",
    "attack II",
)
def figure_1(results: Results, page: Page) -> None:
    """Two bars a data set. The paper prints no numbers here; tables 11 and 14 do."""
    runs = results.where(ATTACK_2, model="poisoned")
    found = []
    for block in blocks(runs):
        text, image = (block.results.measured(f"drift.{kind}") for kind in ("text", "image"))
        if text.summary or image.summary:
            found.append((block.title, text, image))
    rows = [
        (title, text.summary.n if text.summary else None, page.cell(text), page.cell(image))
        for title, text, image in found
    ]
    columns = (Column("ours on"), Column("n"), Column("texts", 4), Column("images", 4))
    page.table(page.title, columns, rows, "Mean over the test set [95 % interval over seeds].")
    if found:
        page.picture(
            "figure-1",
            "Drift of texts and images, with the 95 % interval over seeds.",
            lambda: bars(
                [title for title, _, _ in found],
                [
                    ("texts", [text.summary for _, text, _ in found]),
                    ("images", [image.summary for _, _, image in found]),
                ],
                "cosine distance, clean to poisoned",
            ),
        )
