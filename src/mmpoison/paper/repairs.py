"""The curves of repairs as figures 7 to 9 and table 8 want them."""

from __future__ import annotations

from mmpoison.paper.measured import Results

CURVE = "sterilize-curve"
RATE = "sterilize.training.learning_rate"


def ends_of_curves(results: Results) -> list[tuple[str, Results]]:
    """The last look of each learning rate of each run, by learning rate, high to low."""
    found: list[tuple[str, Results]] = []
    for rate, looks in results.where(study=CURVE).by("case"):
        last: dict[str, float] = {}
        for row in looks.rows:
            last[row["run"]] = max(last.get(row["run"], 0.0), row["x"] or 0.0)
        ends = [row for row in looks.rows if row["x"] == last[row["run"]]]
        found.append((str(rate), looks.only(ends)))
    return sorted(found, key=lambda pair: -float(pair[0]))
