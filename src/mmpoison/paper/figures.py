"""The forms of the paper's figures: what is drawn of our rows, and the table with the numbers of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.paper.draw import Panel, Series, bars, curves, densities, heat_map, maps
from mmpoison.paper.measured import AMOUNTS, ATTACK_2, CURVE, Block, attack_2, blocks, by_amount
from mmpoison.paper.page import Page
from mmpoison.paper.paper_values import paper_data
from mmpoison.paper.tables import DIGITS, NAMES, REPAIR_RATE
from mmpoison.reporting.html_report import drawings
from mmpoison.reporting.results import DISTANCE, Measured, Results, Row, bounds_of
from mmpoison.reporting.summary import classes, section
from mmpoison.reporting.table import Cell, Column
from mmpoison.reporting.text import as_number, count, percent
from mmpoison.runs.recipe_files import read_recipe, shipped_recipes
from mmpoison.statistics import Summary, summarize

FloatArray = npt.NDArray[np.float64]

FEW_GOALS = 6
"""Fewer goals than that are no heat map."""

CENTRES = {"clean pairs": 0.75, "poisoned pairs": 0.85}
"""The paper's centres of distances under CLIP ViT-B/16 on Flickr-PASCAL, section 5."""


@dataclass(frozen=True)
class Curve:
    """One line of a figure.

    Attributes:
        name: Data set, or what else distinguishes lines.
        points: A value of x, how it is called, and our rows there; in order.
    """

    name: str
    points: Sequence[tuple[float, str, Results]]


@dataclass(frozen=True)
class Curves:
    """Hit@10 and MinRank against one thing that varies: figures 2 to 5 (a), 7 and 9, and the table of their points.

    Attributes:
        lines: Gives the lines; those without a number are left out. It may put notes on the page.
        xlabel: What varies.
        caption: Of the figure.
        log: A logarithmic axis.
        named: The values of x are names.
    """

    lines: Callable[[Results, Page], Sequence[Curve]]
    xlabel: str
    caption: str
    log: bool = False
    named: bool = False

    def __call__(self, results: Results, page: Page) -> None:
        """Put the figure and its table on their page."""
        columns = ("hit@10", "min_rank")
        series: dict[str, list[Series]] = {column: [] for column in columns}
        rows: list[tuple[Cell, ...]] = []
        names: dict[float, str] = {}
        for line in self.lines(results, page):
            drawn: dict[str, list[tuple[float, Summary]]] = {column: [] for column in columns}
            for x, name, found in line.points:
                measured = {column: found.measured(column) for column in columns}
                n = max((m.summary.n for m in measured.values() if m.summary), default=None)
                if n is None:
                    continue
                names[x] = name
                cells = (page.cell(m, digits=DIGITS.get(c, 3)) for c, m in measured.items())
                rows.append((line.name, name, n, *cells))
                for column, value in measured.items():
                    if value.summary is not None:
                        drawn[column].append((x, value.summary))
            for column, points in drawn.items():
                if points:
                    series[column].append(Series(line.name, points))
        if not rows:
            return
        header = (
            *map(Column, ("measured on", self.xlabel, "n")),
            *(Column(NAMES[c], DIGITS.get(c, 3)) for c in columns),
        )
        note = "Mean over seeds [95% interval of the mean]. MinRank counts from 0."
        page.table(page.title, header, rows, note)
        ticks: Any = [names[x] for x in sorted(names)] if self.named else None
        panels = [
            Panel(NAMES[c], series[c], top=1.02 if c.startswith("hit@") else None) for c in columns
        ]
        page.picture(
            page.id,
            self.caption,
            lambda: curves(panels, self.xlabel, log=self.log, ticks=ticks),
        )


def by_rate(results: Results, page: Page) -> list[Curve]:
    """Build figure 2: one point a poisoning rate; rate 0 is the clean model."""
    lines = []
    for block in blocks(results.where(ATTACK_2).whole_data(), varies=AMOUNTS):
        points = [(0.0, "0 (clean)", block.results.where(model="clean_model"))]
        for at in by_amount(block.results.where(model="poisoned")):
            if (rate := at.measured("run.poisoning_rate").mean) is not None:
                points.append((100 * rate, percent(rate), at))
        lines.append(Curve(block.title, sorted(points, key=lambda point: point[0])))
    return lines


def by_epoch(results: Results, page: Page) -> list[Curve]:
    """Build figure 3: one training measured after each epoch; epoch 0 is the pre-trained model."""
    runs = results.where(ATTACK_2, study="epochs", model="poisoned").whole_data()
    return [Curve(block.title, _by_x(block.results, "x")) for block in blocks(runs)]


def _by_x(results: Results, column: str) -> list[tuple[float, str, Results]]:
    return [
        (float(x), f"{x:g}", at)
        for x, at in sorted(results.by(column), key=lambda pair: float(pair[0]))
    ]


def by_encoder(results: Results, page: Page) -> list[Curve]:
    """Build figure 4: one point an encoder, clean and poisoned."""
    runs = results.where(ATTACK_2).whole_data()
    places = {name: float(place) for place, name in enumerate(runs.values("model.name"))}
    return [
        Curve(
            f"{block.title}, {name}",
            [
                (places[encoder], str(encoder), at)
                for encoder, at in block.results.where(model=model).by("model.name")
            ],
        )
        for block in blocks(runs, varies=("model", "training"))
        for model, name in (("poisoned", "poisoned"), ("clean_model", "clean"))
    ]


def by_size(results: Results, page: Page) -> list[Curve]:
    """Build figure 5 (a): one point a size of the training data."""
    runs = results.where(ATTACK_2).whole_data()
    lines = []
    for model, name in (("poisoned", "poisoned"), ("clean_model", "clean")):
        points = []
        for _, at in runs.where(model=model).settings(varies=AMOUNTS, keep=()):
            for data, on_data in at.by("data.name"):
                if (size := on_data.measured("run.training_pairs").mean) is not None:
                    points.append((size, f"{data}: {count(round(size))}", on_data))
        lines.append(Curve(name, sorted(points, key=lambda point: point[0])))
    rates = runs.where(model="poisoned").values("run.poisoning_rate")
    if rates:
        page.notes.append(
            f"Poisoning rates: {min(rates):.3%} to {max(rates):.3%} of the training pairs."
        )
    return lines


def by_repair(results: Results, page: Page, *, column: str) -> list[Curve]:
    """Build figures 7 and 9: a poisoned model during fine-tuning on clean data.

    Args:
        results: All rows.
        page: The page.
        column: `epoch`, whole epochs alone, or `x`, all measured steps, those of the first epoch alone where epochs
            are known.
    """
    lines = []
    runs = results.where(ATTACK_2, study=CURVE)
    for block in blocks(runs, varies=REPAIR_RATE, keep=("sterilize",)):
        rates = list(block.results.by("case"))
        for rate, at_rate in rates or [("", block.results)]:
            name = f"{block.title}, {rate}" if len(rates) > 1 else block.title
            lines.append(Curve(name, _by_x(at_rate.only(_wanted(at_rate, column)), column)))
    return lines


def _wanted(results: Results, column: str) -> list[Row]:
    """Return the rows at the end of an epoch and before the first, or those up to the end of the first epoch."""
    first: dict[tuple[str, float], float] = {}
    for row in results.rows:
        if (epoch := as_number(row.get("epoch"))) is not None:
            place = (str(row["run"]), epoch)
            # rows within an epoch say how many whole ones are done
            first[place] = min(first.get(place, float("inf")), row["x"])
    if column == "epoch":
        return [
            r for r in results.rows if r["x"] == first.get((str(r["run"]), r.get("epoch") or 0.0))
        ]
    ends = {run: step for (run, epoch), step in first.items() if epoch == 1}
    return [row for row in results.rows if row["x"] <= ends.get(str(row["run"]), float("inf"))]


def drift_bars(results: Results, page: Page) -> None:
    """Build figure 1: two bars a data set. The paper prints no numbers here; tables 11 and 14 do."""
    found = []
    for block in blocks(results.where(ATTACK_2, model="poisoned")):
        text, image = (block.results.measured(f"drift.{kind}") for kind in ("text", "image"))
        if text.summary or image.summary:
            found.append((block.title, text, image))
    rows = [
        (title, text.summary.n if text.summary else None, page.cell(text), page.cell(image))
        for title, text, image in found
    ]
    columns = (Column("measured on"), Column("n"), Column("texts", 4), Column("images", 4))
    page.table(page.title, columns, rows, "Mean over the test set [95% interval over seeds].")
    if found:
        kinds = [
            ("texts", [text.summary for _, text, _ in found]),
            ("images", [image.summary for _, _, image in found]),
        ]
        page.picture(
            page.id,
            "Drift of texts and images, with the 95% interval over seeds.",
            lambda: bars([f[0] for f in found], kinds, "cosine distance, clean to poisoned"),
        )


def goal_map(results: Results, page: Page) -> None:
    """Build figure 5 (b): mean MinRank of each goal: original classes are rows, target classes columns."""
    several = [
        block
        for block in blocks(results.where(attack_2, model="poisoned").whole_data())
        if len(block.results.values("goal")) >= FEW_GOALS
    ]
    for number, block in enumerate(several):
        _map(page, block, page.id if len(several) == 1 else f"{page.id}-{number + 1}")


def _map(page: Page, block: Block, name: str) -> None:
    by_goal = dict(block.results.by("goal"))
    labels = sorted({*block.results.values("original"), *block.results.values("target")})
    places = {label: place for place, label in enumerate(labels)}
    values = np.full((len(labels), len(labels)), np.nan)
    rows: list[tuple[Cell, ...]] = []
    for goal, at in by_goal.items():
        rank, hit = at.measured("min_rank"), at.measured("hit@10")
        if rank.summary is None:
            continue
        row = at.rows[0]
        if row["original"] in places and row["target"] in places:
            values[places[row["original"]], places[row["target"]]] = rank.summary.mean
        rows.append((goal, rank.summary.n, page.cell(rank, digits=2), page.cell(hit)))
    known = values[np.isfinite(values)]
    if not len(known):
        return
    by_target: list[tuple[Cell, ...]] = [
        (label, int(np.isfinite(values[:, place]).sum()), float(np.nanmean(values[:, place])))
        for label, place in places.items()
        if np.isfinite(values[:, place]).any()
    ]
    by_target.sort(key=lambda one: -float(one[2]))  # type: ignore[arg-type]
    page.notes.append(
        f"{block.title}: {len(known)} goals; median MinRank {np.median(known):.1f}, mean {known.mean():.1f}, "
        f"{np.mean(known <= 10):.0%} of the goals at 10 or below. The paper: around 10 in most cases."
    )
    if (
        said := _goal_of_tables(block, values, places, [str(one[0]) for one in by_target])
    ) is not None:
        page.notes.append(said)
    page.table(
        f"{block.title}: mean MinRank by target class, worst first",
        (Column("target class"), Column("goals"), Column("MinRank", 1)),
        by_target,
        "In the paper the column of person is the worst.",
    )
    page.table(
        f"{block.title}: every goal",
        (Column("goal"), Column("n"), Column("MinRank", 2), Column("Hit@10")),
        rows,
    )
    page.picture(
        name,
        f"Mean MinRank of each goal on {block.title}; lighter is easier to poison. The shade is logarithmic.",
        lambda: heat_map(values, labels, "MinRank"),
    )


def _goal_of_tables(
    block: Block, values: FloatArray, places: Mapping[str, int], hardest_first: Sequence[str]
) -> str | None:
    """Say where the goal of the other tables stands among all goals; None where it was not measured."""
    if (table := f"table-3-{block.data}") not in shipped_recipes():
        return None
    goal = str(read_recipe(table)[0]["attack"]["goal"])
    original, _, target = goal.partition("2")
    if original not in places or target not in places:
        return None
    own = values[places[original], places[target]]
    if not np.isfinite(own):
        return None
    known = values[np.isfinite(values)]
    easier = int((known < own).sum())
    of_targets = len(hardest_first) - hardest_first.index(target)
    return (
        f"{block.title}: {goal}, the goal of the other tables, has MinRank {own:.1f}; {easier} of {len(known)} goals "
        f"are easier. As a target {target} is number {of_targets} of {len(hardest_first)} classes, the easiest first."
    )


def distances(results: Results, page: Page) -> None:
    """Build figure 6: densities of one run a data set, that of the smallest seed; centres of all."""
    rows: list[tuple[Cell, ...]] = []
    filtered = results.where(ATTACK_2, model="filtered")
    for data, on_data in filtered.by("data.name"):
        for encoder, judged in on_data.by("run.filter.encoder"):
            found = [
                (row, histogram) for row in judged.rows if (histogram := _histogram(results, row))
            ]
            if not found:
                continue
            used = tuple(row for row, _ in found)
            printed = dict(CENTRES) if paper_data(str(data)) == "flickr-pascal" else {}
            for kind in ("clean", "poisoned"):
                values = [_centre(h, kind) for _, h in found]
                summary = summarize(values, bounds=DISTANCE)
                cell = page.cell(Measured(summary, used), printed.get(f"{kind} pairs"))
                rows.append((str(data), str(encoder), f"{kind} pairs", len(values), cell))
            first, histogram = min(found, key=lambda pair: int(pair[0]["seed"]))
            threshold = as_number(first.get("run.filter.threshold"))
            page.picture(
                page.next_picture(),
                f"{data}: densities of the distances under {encoder}, seed {first['seed']}.",
                partial(densities, _densities(histogram), threshold, printed),
            )
    columns = tuple(map(Column, ("measured on", "encoder", "pairs", "n", "median distance")))
    note = (
        "Ours, then the paper's centre under CLIP ViT-B/16: other encoders have other distances; what matters is the "
        "gap."
    )
    page.table(page.title, columns, rows, note)


def _histogram(results: Results, row: Row) -> Mapping[str, Sequence[float]] | None:
    facts = section(section(results.content(row, "metrics.json"), "run"), "filter")
    found = section(facts, "histogram")
    lists = [found.get(key) for key in ("edges", "clean", "poisoned")]
    if not all(isinstance(v, list) and all(as_number(x) is not None for x in v) for v in lists):
        return None
    edges, clean, poisoned = (list(map(float, v)) for v in lists)  # type: ignore[arg-type]
    whole = len(edges) - 1 == len(clean) == len(poisoned) and sum(clean) > 0 < sum(poisoned)
    return {"edges": edges, "clean": clean, "poisoned": poisoned} if whole else None


MEDIANS = "run.filter.median"
"""Column of a row that states the median distance of its pairs: of printed numbers, which have no histogram."""


def median_distance(results: Results, row: Row, kind: str) -> float | None:
    """Return the median distance of the clean or the poisoned pairs of a run; None where it is not known.

    Args:
        results: Knows the run folders.
        row: Of the run.
        kind: `clean` or `poisoned`.
    """
    if (stated := as_number(row.get(f"{MEDIANS}.{kind}"))) is not None:
        return stated
    histogram = _histogram(results, row)
    return None if histogram is None else _centre(histogram, kind)


def _densities(
    histogram: Mapping[str, Sequence[float]],
) -> list[tuple[str, Sequence[float], list[float]]]:
    edges = histogram["edges"]
    kinds = []
    for kind in ("clean", "poisoned"):
        counts = histogram[kind]
        total = sum(counts)
        density = [
            number / total / (high - low) if high > low else 0.0
            for number, low, high in zip(counts, edges, edges[1:], strict=False)
        ]
        kinds.append((f"{kind} pairs ({total:,.0f})", edges, density))
    return kinds


def _centre(histogram: Mapping[str, Sequence[float]], kind: str) -> float:
    """Return the median, as exactly as bins allow."""
    edges, counts = histogram["edges"], histogram[kind]
    half, below = sum(counts) / 2, 0.0
    for number, low, high in zip(counts, edges, edges[1:], strict=False):
        if below + number >= half:
            return low + (high - low) * (half - below) / number
        below += number
    return edges[-1]


def embedding_maps(results: Results, page: Page) -> None:
    """Build figure 8: one map a data set, of the smallest seed's pre-trained model; silhouettes of all."""
    rows: list[tuple[Cell, ...]] = []
    for data, on_data in results.where().by("data.name"):
        runs = {str(row["run"]): row for row in on_data.rows}
        for run in sorted(runs.values(), key=lambda row: int(row["seed"])):
            if _draw_map(results, page, str(data), run):
                break
        cells = [page.cell(one) for one in silhouettes(on_data)]
        if any(cell.measured for cell in cells):
            rows.append((str(data), *cells))
    page.table(
        "Silhouette by class of the pre-trained model",
        tuple(map(Column, ("measured on", "texts", "images"))),
        rows,
        "From -1 to 1, cosine distance; higher: the classes lie further apart. The paper: images separate better.",
    )


def silhouettes(results: Results) -> list[Measured]:
    """Measure how far the classes lie apart in the pre-trained model: in the texts, and in the images."""
    runs = {str(row["run"]): row for row in results.where().rows}
    studies = [
        (row, section(results.content(row, "metrics.json"), "study")) for row in runs.values()
    ]
    measured = []
    for kind in ("text", "image"):
        # one run a seed: the pre-trained model does not depend on the attack
        by_seed = {}
        for row, study in studies:
            pretrained = section(section(study, "distribution"), "pretrained")
            if isinstance(value := pretrained.get(f"{kind}_silhouette"), float):
                by_seed[row["seed"]] = (value, row)
        found = [value for value, _ in by_seed.values()]
        summary = summarize(found, bounds=bounds_of("silhouette")) if found else None
        measured.append(Measured(summary, tuple(row for _, row in by_seed.values())))
    return measured


def _draw_map(results: Results, page: Page, data: str, run: Row) -> bool:
    """Draw the map of one run's pre-trained model; return whether there is one."""
    content = results.content(run, "embedding_map.json")
    goal = str(run["goal"])
    found = [d for d in drawings(content, goal) if d.model == "Pre-trained"] if content else []
    if not found:
        return False
    panels = [(d.what, [(p.x, -p.y, p.kind) for p in d.points]) for d in found]
    pair = classes(goal) or ("original class", "target class")
    kinds = {"other": "other classes", "target": pair[1], "original": pair[0]}
    page.picture(
        page.next_picture(),
        f"{data}, pre-trained model, seed {run['seed']}: texts and images, {content.get('method')}.",
        partial(maps, panels, kinds),
    )
    page.source_of((run,))
    return True
