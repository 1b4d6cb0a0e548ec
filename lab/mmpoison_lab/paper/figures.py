"""Builds the paper's figures from our rows, each with a table of its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from mmpoison.base import as_number, count, percent
from mmpoison.reporting import (
    DISTANCE,
    Cell,
    Column,
    Measured,
    Results,
    Row,
    classes,
    drawings,
    section,
)
from mmpoison.runs import read_recipe, shipped_recipes
from mmpoison.statistics import Summary
from mmpoison_lab.paper.draw import Series, bars, curves, densities, heat_map, maps
from mmpoison_lab.paper.measured import (
    AMOUNTS,
    ATTACK_2,
    CURVE,
    Block,
    attack_2,
    blocks,
    by_amount,
)
from mmpoison_lab.paper.page import Page
from mmpoison_lab.paper.paper_values import paper_data
from mmpoison_lab.paper.tables import DIGITS, NAMES, REPAIR_RATE

FloatArray = npt.NDArray[np.float64]

FEW_GOALS = 6
"""Minimum number of goals for a heat map."""

NO_POISON = "0 (clean)"
"""The poisoning rate of the clean model."""

CENTRES = {"clean pairs": 0.75, "poisoned pairs": 0.85}
"""The paper's centres of distances under CLIP ViT-B/16 on Flickr-PASCAL, section 5."""


Point = tuple[str, float, str, Results]
"""A point of a figure: its line, x value, name of that value, and our rows."""


@dataclass(frozen=True)
class Curves:
    """Hit@10 and MinRank against one variable: figures 2 to 5 (a), 7 and 9, and the table of their points.

    Attributes:
        points: Returns the points, line by line, and may add notes to the page. Points without a
            number are left out.
        xlabel: The variable on the x axis.
        caption: Caption of the figure.
        log: Use a logarithmic axis.
        named: Whether the x values are names.
    """

    points: Callable[[Results, Page], Iterable[Point]]
    xlabel: str
    caption: str
    log: bool = False
    named: bool = False

    def __call__(self, results: Results, page: Page) -> None:
        """Add the figure and its table to the page."""
        columns = ("hit@10", "min_rank")
        found = [
            (line, x, name, [at.measured(column) for column in columns])
            for line, x, name, at in self.points(results, page)
        ]
        found = [point for point in found if any(one.summary for one in point[3])]
        if not found:
            return
        rows: list[tuple[Cell, ...]] = []
        for line, _, name, measured in found:
            n = max(one.summary.n for one in measured if one.summary)
            cells = (
                page.cell(m, digits=DIGITS.get(c, 3))
                for c, m in zip(columns, measured, strict=True)
            )
            rows.append((line, name, n, *cells))
        header = (
            *map(Column, ("measured on", self.xlabel, "n")),
            *(Column(NAMES[c], DIGITS.get(c, 3)) for c in columns),
        )
        note = "Mean over seeds [95% interval of the mean]. MinRank counts from 0."
        page.table(page.title, header, rows, note)
        panels: dict[str, Series] = {}
        for place, column in enumerate(columns):
            drawn: dict[str, list[tuple[float, Summary]]] = {}
            for line, x, _, measured in found:
                if (summary := measured[place].summary) is not None:
                    drawn.setdefault(line, []).append((x, summary))
            panels[NAMES[column]] = drawn
        names = {x: name for _, x, name, _ in found}
        ticks = [names[x] for x in sorted(names)] if self.named else None
        page.picture(
            page.id,
            self.caption,
            lambda: curves(panels, self.xlabel, log=self.log, ticks=ticks),
        )


def by_rate(results: Results, page: Page) -> Iterator[Point]:
    """Find the points of figure 2: one per poisoning rate; rate 0 is the clean model."""
    for block in blocks(results.where(ATTACK_2).whole_data(), varies=AMOUNTS):
        clean = block.results.where(model="clean_model")
        points: list[Point] = [(block.title, 0.0, NO_POISON, clean)]
        for at in by_amount(block.results.where(model="poisoned")):
            if (rate := at.measured("run.poisoning_rate").mean) is not None:
                points.append((block.title, 100 * rate, percent(rate), at))
        yield from sorted(points, key=lambda point: point[1])


def by_epoch(results: Results, page: Page) -> Iterator[Point]:
    """Find the points of figure 3: a model after each epoch; epoch 0 is the pre-trained model."""
    runs = results.where(ATTACK_2, study="epochs", model="poisoned").whole_data()
    for block in blocks(runs):
        yield from _by_x(block.title, block.results, "x")


def _by_x(line: str, results: Results, column: str) -> Iterator[Point]:
    for x, at in sorted(results.by(column), key=lambda pair: float(pair[0])):
        yield line, float(x), f"{x:g}", at


def by_encoder(results: Results, page: Page) -> Iterator[Point]:
    """Find the points of figure 4: one per encoder, clean and poisoned."""
    runs = results.where(ATTACK_2).whole_data()
    places = {name: float(place) for place, name in enumerate(runs.values("model.name"))}
    for block in blocks(runs, varies=("model", "training")):
        for model, name in (("poisoned", "poisoned"), ("clean_model", "clean")):
            for encoder, at in block.results.where(model=model).by("model.name"):
                yield f"{block.title}, {name}", places[encoder], str(encoder), at


def by_size(results: Results, page: Page) -> Iterator[Point]:
    """Find the points of figure 5 (a): one per training set size."""
    runs = results.where(ATTACK_2).whole_data()
    for model, name in (("poisoned", "poisoned"), ("clean_model", "clean")):
        points: list[Point] = []
        for _, at in runs.where(model=model).settings(varies=AMOUNTS, keep=()):
            for data, on_data in at.by("data.name"):
                if (size := on_data.measured("run.training_pairs").mean) is not None:
                    points.append((name, size, f"{data}: {count(round(size))}", on_data))
        yield from sorted(points, key=lambda point: point[1])
    rates = runs.where(model="poisoned").values("run.poisoning_rate")
    if rates:
        page.notes.append(
            f"Poisoning rates: {min(rates):.3%} to {max(rates):.3%} of the training pairs."
        )


def by_repair(results: Results, page: Page, *, column: str) -> Iterator[Point]:
    """Find the points of figures 7 and 9: a poisoned model during fine-tuning on clean data.

    Args:
        results: All rows.
        page: The page.
        column: `epoch` for whole epochs only; `x` for all measured steps, up to the end of the
            first epoch if epochs are known.
    """
    runs = results.where(ATTACK_2, study=CURVE)
    for block in blocks(runs, varies=REPAIR_RATE, keep=("sterilize",)):
        rates = list(block.results.by("case"))
        for rate, at_rate in rates or [("", block.results)]:
            name = f"{block.title}, {rate}" if len(rates) > 1 else block.title
            yield from _by_x(name, at_rate.only(_wanted(at_rate, column)), column)


def _wanted(results: Results, column: str) -> list[Row]:
    """Select the rows at step 0 and the ends of epochs, or those up to the end of epoch 1."""
    first: dict[tuple[str, float], float] = {}
    for row in results.rows:
        if (epoch := as_number(row.get("epoch"))) is not None:
            place = (str(row["run"]), epoch)
            # rows within an epoch contain the number of finished epochs
            first[place] = min(first.get(place, float("inf")), row["x"])
    if column == "epoch":
        return [
            r for r in results.rows if r["x"] == first.get((str(r["run"]), r.get("epoch") or 0.0))
        ]
    ends = {run: step for (run, epoch), step in first.items() if epoch == 1}
    return [row for row in results.rows if row["x"] <= ends.get(str(row["run"]), float("inf"))]


def drift(results: Results, page: Page) -> None:
    """Build figure 1: drift of texts and images. The paper's numbers are in tables 11 and 14."""
    found: dict[str, list[Measured]] = {}
    for block in blocks(results.where(ATTACK_2, model="poisoned")):
        both = [block.results.measured(f"drift.{kind}") for kind in ("text", "image")]
        if any(one.summary for one in both):
            found[block.title] = both
    rows = [
        (title, both[0].summary.n if both[0].summary else None, *map(page.cell, both))
        for title, both in found.items()
    ]
    columns = (Column("measured on"), Column("n"), Column("texts", 4), Column("images", 4))
    page.table(page.title, columns, rows, "Mean over the test set [95% interval over seeds].")
    if found:
        kinds = [
            (name, [both[place].summary for both in found.values()])
            for place, name in enumerate(("texts", "images"))
        ]
        caption = "Drift of texts and images, with the 95% interval over seeds."
        label = "cosine distance, clean to poisoned"
        page.picture(page.id, caption, lambda: bars(list(found), kinds, label))


def goal_map(results: Results, page: Page) -> None:
    """Build figure 5 (b): mean MinRank of each goal; original classes are rows, targets columns."""
    several = [
        block
        for block in blocks(results.where(attack_2, model="poisoned").whole_data())
        if len(block.results.values("goal")) >= FEW_GOALS
    ]
    for number, block in enumerate(several):
        _map(page, block, page.id if len(several) == 1 else f"{page.id}-{number + 1}")


def _map(page: Page, block: Block, name: str) -> None:
    rows: list[tuple[Cell, ...]] = []
    ranks: dict[tuple[str, str], float] = {}
    for goal, at in block.results.by("goal"):
        rank, hit = at.measured("min_rank"), at.measured("hit@10")
        if rank.summary is None:
            continue
        if (pair := classes(str(goal))) is not None:
            ranks[pair] = rank.summary.mean
        rows.append((goal, rank.summary.n, page.cell(rank, digits=2), page.cell(hit)))
    if not ranks:
        return
    labels = sorted({label for pair in ranks for label in pair})
    by_target = {
        target: [ranks[pair] for original in labels if (pair := (original, target)) in ranks]
        for target in labels
    }
    means = {target: float(np.mean(found)) for target, found in by_target.items() if found}
    hardest_first = sorted(means, key=lambda target: -means[target])
    known = np.array(list(ranks.values()))
    page.notes.append(
        f"{block.title}: {len(known)} goals; median MinRank {np.median(known):.1f}, mean {known.mean():.1f}, "
        f"{np.mean(known <= 10):.0%} of the goals at 10 or below. The paper: around 10 in most cases."
    )
    page.notes += _goal_of_tables(block, ranks, hardest_first)
    page.table(
        f"{block.title}: mean MinRank by target class, worst first",
        (Column("target class"), Column("goals"), Column("MinRank", 1)),
        [(target, len(by_target[target]), means[target]) for target in hardest_first],
        "In the paper the column of person is the worst.",
    )
    page.table(
        f"{block.title}: every goal",
        (Column("goal"), Column("n"), Column("MinRank", 2), Column("Hit@10")),
        rows,
    )
    values = np.array([[ranks.get((one, other), np.nan) for other in labels] for one in labels])
    page.picture(
        name,
        f"Mean MinRank of each goal on {block.title}; lighter is easier to poison. The shade is logarithmic.",
        lambda: heat_map(values, labels, "MinRank"),
    )


def _goal_of_tables(
    block: Block, ranks: Mapping[tuple[str, str], float], hardest_first: Sequence[str]
) -> Iterator[str]:
    """Yield a note on the rank of the other tables' goal among all goals, if it was measured."""
    if (table := f"table-3-{block.data}") not in shipped_recipes():
        return
    goal = str(read_recipe(table)[0]["attack"]["goal"])
    pair = classes(goal)
    if pair is None or pair not in ranks:
        return
    easier = sum(rank < ranks[pair] for rank in ranks.values())
    place = len(hardest_first) - hardest_first.index(pair[1])
    yield (
        f"{block.title}: {goal}, the goal of the other tables, has MinRank {ranks[pair]:.1f}; {easier} of {len(ranks)} "
        f"goals are easier. As a target {pair[1]} is number {place} of {len(hardest_first)} classes, the easiest first."
    )


def distances(results: Results, page: Page) -> None:
    """Build figure 6: densities of the smallest seed's run by data set, and centres of all runs."""
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
                centres = judged.only({**row, "centre": _centre(h, kind)} for row, h in found)
                by_seed = centres.over_seeds("centre")
                measured = Measured.of(by_seed, used, bounds=DISTANCE)
                cell = page.cell(measured, printed.get(f"{kind} pairs"))
                rows.append((str(data), str(encoder), f"{kind} pairs", len(by_seed), cell))
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


def _histogram(results: Results, row: Row) -> Mapping[str, FloatArray] | None:
    """Read a run's histogram of distances: bin edges, and clean and poisoned pairs per bin."""
    facts = section(section(results.content(row, "metrics.json"), "run"), "filter")
    found = section(facts, "histogram")
    lists = {key: found.get(key) for key in ("edges", "clean", "poisoned")}
    if not all(
        isinstance(v, list) and all(as_number(x) is not None for x in v) for v in lists.values()
    ):
        return None
    made = {key: np.array(values, dtype=float) for key, values in lists.items()}
    edges, clean, poisoned = made.values()
    whole = len(edges) - 1 == len(clean) == len(poisoned) and clean.sum() > 0 < poisoned.sum()
    return made if whole else None


def _densities(histogram: Mapping[str, FloatArray]) -> list[tuple[str, FloatArray, FloatArray]]:
    edges = histogram["edges"]
    widths = np.diff(edges)
    kinds = []
    for kind in ("clean", "poisoned"):
        total = histogram[kind].sum()
        share = histogram[kind] / total
        density = np.divide(share, widths, out=np.zeros_like(share), where=widths > 0)
        kinds.append((f"{kind} pairs ({total:,.0f})", edges, density))
    return kinds


def _centre(histogram: Mapping[str, FloatArray], kind: str) -> float:
    """Return the median, interpolated within its bin."""
    edges, counts = histogram["edges"], histogram[kind]
    half, up_to = counts.sum() / 2, np.cumsum(counts)
    place = int(np.searchsorted(up_to, half))
    above = (half - up_to[place] + counts[place]) / counts[place]
    return float(edges[place] + (edges[place + 1] - edges[place]) * above)


def embedding_maps(results: Results, page: Page) -> None:
    """Build figure 8: a map of the pre-trained model by data set, and silhouettes of all runs."""
    rows: list[tuple[Cell, ...]] = []
    for data, on_data in results.by("data.name"):
        runs = {str(row["run"]): row for row in on_data.where().rows}
        for run in sorted(runs.values(), key=lambda row: int(row["seed"])):
            if _draw_map(results, page, str(data), run):
                break
        pretrained = on_data.where(study="distribution", model="pretrained")
        both = [pretrained.measured(f"{kind}_silhouette") for kind in ("text", "image")]
        cells = [page.cell(one) for one in both]
        if any(cell.measured for cell in cells):
            rows.append((str(data), *cells))
    page.table(
        "Silhouette by class of the pre-trained model",
        tuple(map(Column, ("measured on", "texts", "images"))),
        rows,
        "From -1 to 1, cosine distance; higher: the classes lie further apart. The paper: images separate better.",
    )


def _draw_map(results: Results, page: Page, data: str, run: Row) -> bool:
    """Draw the map of a run's pre-trained model; return whether there is one."""
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
