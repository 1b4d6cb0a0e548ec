"""Figures 7 and 9: the attack while a poisoned model is fine-tuned on clean data."""

from __future__ import annotations

from mmpoison.paper.curve_page import Curve, curve_page
from mmpoison.paper.measured import ATTACK_2, Results
from mmpoison.paper.page import Page
from mmpoison.paper.repairs import CURVE
from mmpoison.paper.shapes import blocks
from mmpoison.reporting.parameters import Row
from mmpoison.reporting.text import as_number


def defence_curve(results: Results, page: Page, *, by: str) -> None:
    """Hit@10 and MinRank against what of the repair was done.

    Args:
        results: All rows.
        page: The page.
        by: `epoch`, whole epochs alone, or `x`, all steps that were looked at, those of the first epoch alone where
            epochs are known.
    """
    lines = []
    for block in blocks(results.where(ATTACK_2, study=CURVE), varies=("sterilize",)):
        rates = list(block.results.by("case"))
        for rate, looks in rates or [("", block.results)]:
            kept = looks.only(_wanted(looks, by))
            points = [
                (float(x), f"{x:g}", at)
                for x, at in sorted(kept.by(by), key=lambda pair: float(pair[0]))
            ]
            name = f"{block.title}, {rate}" if len(rates) > 1 else block.title
            lines.append(Curve(name, points))
    steps = by == "x"
    caption = f"Hit@10 and MinRank of the attack after so many {'steps' if steps else 'epochs'} of the repair."
    curve_page(page, lines, "steps" if steps else "epochs", caption, log=steps)


def _wanted(looks: Results, by: str) -> list[Row]:
    """The looks at the end of an epoch and before the first, or those up to the end of the first epoch."""
    first: dict[tuple[str, float], float] = {}
    for row in looks.rows:
        if (epoch := as_number(row.get("epoch"))) is not None:
            place = (str(row["run"]), epoch)
            # looks within an epoch say how many whole ones are done
            first[place] = min(first.get(place, float("inf")), row["x"])
    if by == "epoch":
        return [
            r for r in looks.rows if r["x"] == first.get((str(r["run"]), r.get("epoch") or 0.0))
        ]
    ends = {run: step for (run, epoch), step in first.items() if epoch == 1}
    return [row for row in looks.rows if row["x"] <= ends.get(str(row["run"]), float("inf"))]
