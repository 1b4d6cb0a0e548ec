"""Figure 8: where texts and images lie, by class."""

from __future__ import annotations

from functools import partial

from mmpoison.paper.draw import maps
from mmpoison.paper.measured import Measured, Results
from mmpoison.paper.page import Page
from mmpoison.paper.registry import entry
from mmpoison.reporting.map import drawings
from mmpoison.reporting.summary import classes, section
from mmpoison.reporting.table import Cell, Column
from mmpoison.statistics import summarize


@entry(
    "figure-8",
    "Embeddings of texts and images in two dimensions",
    "runs with the study distribution",
)
def figure_8(results: Results, page: Page) -> None:
    """One map a data set, of the smallest seed's pre-trained model; silhouettes of all."""
    rows: list[tuple[Cell, ...]] = []
    for data, on_data in results.where().by("data.name"):
        runs = {str(row["run"]): row for row in on_data.rows}
        drawn = False
        for run in sorted(runs.values(), key=lambda row: int(row["seed"])):
            content = results.content(run, "embedding_map.json")
            if not content or drawn:
                continue
            goal = str(run["goal"])
            found = [d for d in drawings(content, goal) if d.model == "Pre-trained"]
            if not found:
                continue
            drawn = True
            panels = [(d.what, [(p.x, -p.y, p.kind) for p in d.points]) for d in found]
            pair = classes(goal) or ("original class", "target class")
            kinds = {"other": "other classes", "target": pair[1], "original": pair[0]}
            name = page.id if not page.pictures else f"{page.id}-{len(page.pictures) + 1}"
            page.picture(
                name,
                f"{data}, pre-trained model, seed {run['seed']}: texts and images, {content.get('method')}.",
                partial(maps, panels, kinds),
            )
            page.source_of((run,))
        study = {
            str(row["run"]): section(
                section(section(results.content(row, "metrics.json"), "study"), "distribution"),
                "pretrained",
            )
            for row in runs.values()
        }
        cells = []
        for kind in ("text", "image"):
            values = [
                (float(s[f"{kind}_silhouette"]), runs[run])
                for run, s in study.items()
                if isinstance(s.get(f"{kind}_silhouette"), float)
            ]
            # one run a seed: the pre-trained model does not hang on the attack
            by_seed = {row["seed"]: (value, row) for value, row in values}
            known = Measured(
                summarize([v for v, _ in by_seed.values()]) if by_seed else None,
                tuple(row for _, row in by_seed.values()),
            )
            cells.append(page.cell(known))
        if any(cell.ours for cell in cells):
            rows.append((str(data), *cells))
    columns = (Column("ours on"), Column("texts"), Column("images"))
    page.table(
        "Silhouette by class of the pre-trained model",
        columns,
        rows,
        "From -1 to 1, cosine distance; higher: the classes lie further apart. The paper: images separate better.",
    )
