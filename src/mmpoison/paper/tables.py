"""The forms of the paper's tables: lines of our runs with the paper's numbers next to them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmpoison.paper.measured import (
    ATTACK_1,
    ATTACK_2,
    ATTACK_3,
    attack_2,
    beyond_order,
    blocks,
    ends_of_curves,
    p_of,
    trained,
    with_model,
)
from mmpoison.paper.page import STRONGER, Page, Sense
from mmpoison.paper.paper_values import TITLES, paper_data, rows_of, title_of
from mmpoison.reporting.results import Measured, Results, change, difference, paired
from mmpoison.reporting.table import Cell, Column

HITS = ("hit@1", "hit@5", "hit@10", "min_rank")
DEEP_HITS = ("hit@1", "hit@5", "hit@10", "hit@20", "hit@30", "hit@50", "min_rank")
NAMES = {**{f"hit@{k}": f"Hit@{k}" for k in (1, 5, 10, 20, 30, 50)}, "min_rank": "MinRank"}
DIGITS = {"min_rank": 2}
TASKS = (("tr", "text"), ("ir", "image"))
RATE = "sterilize.training.learning_rate"

REPAIR_CURVE = "sterilize.curve"
"""Whether a repair is measured on its way, which changes none of its results."""

REPAIR_RATE = (RATE, REPAIR_CURVE)
"""In what repairs may differ that are compared by their learning rate."""
SEVERAL_GOALS = 4
"""More goals than that are one line, their mean."""

Pick = Callable[[Results], Results]


@dataclass(frozen=True)
class Number:
    """A column of numbers.

    Attributes:
        key: The paper's column; its standard deviation is under `{key}_std`.
        name: Its header.
        digits: After the point.
        narrow: Whether a terminal of 80 columns has room for it.
        same: Numbers that are equal with so many digits are the same; `digits` by default.
    """

    key: str
    name: str
    digits: int = 3
    narrow: bool = True
    same: int | None = None


def hit_numbers(columns: Sequence[str]) -> list[Number]:
    """Return columns of Hit@K and MinRank."""
    return [Number(c, NAMES[c], DIGITS.get(c, 3), c in HITS) for c in columns]


def attack_sense(column: str) -> Sense:
    """Return which direction is better for an attack."""
    return "up" if column.startswith("hit@") else "down"


@dataclass(frozen=True)
class Measurements:
    """A line of measured numbers.

    Attributes:
        names: Its first cells: what it is of.
        numbers: Its numbers, one a column.
        data: The paper's data set, or what else distinguishes the paper's rows.
        printed: The paper's row next to it, empty where there is none.
        sense: Which way is better for a column.
    """

    names: tuple[Cell, ...]
    numbers: Sequence[Measured]
    data: str | None
    printed: Mapping[str, Any] = field(default_factory=dict)
    sense: Callable[[str], Sense] = lambda key: None


def compared_table(
    page: Page,
    table: str,
    names: Sequence[str],
    numbers: Sequence[Number],
    lines: Iterable[Measurements],
    *,
    note: str = STRONGER,
    key: str = "dataset",
    absent: Callable[[Mapping[str, Any]], tuple[Cell, ...]] | None = None,
    rest: Sequence[Mapping[str, Any]] | None = None,
    spread: bool = False,
) -> None:
    """Put a table on a page: measured lines, then the paper's rows for data without a measured line.

    Args:
        page: Takes the table.
        table: The paper's table.
        names: Headers of the first columns; `n`, the number of seeds, is last where it is there.
        numbers: The columns of numbers.
        lines: Our lines.
        note: What a reader must know.
        key: The paper's column that says of which data a row is.
        absent: First cells of a row of the paper without a measured line; empty cells by default.
        rest: These rows, in place of those without a measured line.
        spread: Show our standard deviations; they are shown where the paper prints its own, too.
    """
    counted = names[-1] == "n"
    rows: list[tuple[Cell, ...]] = []

    def add(first: Sequence[Cell], line: Measurements) -> None:
        printed = line.printed
        n = max((m.summary.n for m in line.numbers if m.summary), default=None)
        cells = (
            page.cell(
                measured,
                printed.get(number.key),
                sense=line.sense(number.key),
                digits=number.digits if number.same is None else number.same,
                reference_sd=printed.get(f"{number.key}_std"),
                spread=spread or f"{number.key}_std" in printed,
            )
            for number, measured in zip(numbers, line.numbers, strict=True)
        )
        last = TITLES.get(str(line.data), line.data) if printed else None
        rows.append((*first, *([n] if counted else []), *cells, last))

    covered = set()
    for line in lines:
        covered.add(line.data)
        add(line.names, line)
    if not rows:
        return
    nothing = [Measured(None)] * len(numbers)
    for row in rest if rest is not None else rows_of(table):
        if rest is not None or row[key] not in covered:
            first = absent(row) if absent else (None,) * (len(names) - counted)
            add(first, Measurements((), nothing, row[key], row))
    header = (
        *(Column(name) for name in names),
        *(Column(number.name, number.digits, number.narrow) for number in numbers),
        Column("paper's data" if names[0] == "measured on" else "paper"),
    )
    page.table(title_of(table), header, rows, note)


@dataclass(frozen=True)
class Line:
    """A line of a table of Hit@K.

    Attributes:
        name: What the paper calls it.
        pick: Our rows for it.
        printed: Cells by which the paper's row is found, with its data set and goal.
        better: `attack` where a higher Hit@K is better, `defence` where a lower one is, None for a baseline.
    """

    name: str
    pick: Pick
    printed: Mapping[str, Any] = field(default_factory=dict)
    better: str | None = None

    def sense(self, column: str) -> Sense:
        """Return which direction is better for a column."""
        if self.better is None:
            return None
        return "up" if (self.better == "attack") == column.startswith("hit@") else "down"


def model(name: str) -> Pick:
    """Pick the rows of one model."""
    return lambda results: results.where(model=name, study=tuple(results.values("study")))


def _trained(what: str) -> Pick:
    return lambda results: results.where(lambda row: trained(row) == what, model="poisoned")


CLEAN_AND_POISONED = (
    Line("baseline (clean model)", model("clean_model"), {"method": "baseline"}),
    Line("ours (poisoned model)", model("poisoned"), {"method": "ours"}, "attack"),
)
"""The two lines of tables 2, 3, 4, 6 and 13."""

FROZEN = (
    Line("both trained", _trained("both"), {"model": "both-trainable"}, "attack"),
    Line("image encoder", _trained("image"), {"model": "image-trainable (text frozen)"}, "attack"),
    Line("text encoder", _trained("text"), {"model": "text-trainable (image frozen)"}, "attack"),
    Line(
        "pre-trained",
        lambda results: results.where(model="pretrained"),
        {"model": "both-frozen (pre-trained)"},
    ),
)
"""The lines of tables 5 and 12: which encoder trained."""

DEFENDED = (
    Line("attack II", model("poisoned"), {"method": "attack-ii"}, "attack"),
    Line("defence (filtered)", model("filtered"), {"method": "defense"}, "defence"),
    Line("clean", model("clean_model"), {"method": "clean"}),
)
"""The lines of table 16."""


@dataclass(frozen=True)
class HitTable:
    """Hit@K and MinRank, a line a kind of model.

    Attributes:
        runs: Our rows that the table is about.
        lines: Its lines.
        columns: Its columns.
        varies: Parameters in which the lines differ.
        keep: Parameters of defences that matter here.
        spread: The paper prints standard deviations.
        note: What a reader must know.
        data: The paper's data set for all our runs; by default that of the same kind as the measured data.
    """

    runs: Pick
    lines: Sequence[Line] = CLEAN_AND_POISONED
    columns: Sequence[str] = HITS
    varies: Sequence[str] = ()
    keep: Sequence[str] = ()
    spread: bool = False
    note: str = ""
    data: str | None = None

    def __call__(self, results: Results, page: Page) -> None:
        """Put the table on its page."""

        def absent(row: Mapping[str, Any]) -> tuple[Cell, ...]:
            names = [line.name for line in self.lines if line.printed.items() <= row.items()]
            return None, row["goal"], names[0] if names else str(row.get("method"))

        compared_table(
            page,
            page.id,
            ("measured on", "goal", "method", "n"),
            hit_numbers(self.columns),
            self._measurements(self.runs(results), page.id),
            note=f"{STRONGER} {self.note}".strip(),
            absent=absent,
            spread=self.spread,
        )

    def _measurements(self, results: Results, table: str) -> Iterator[Measurements]:
        for block in blocks(results, varies=self.varies, keep=self.keep):
            data = self.data or paper_data(block.data)
            here = rows_of(table, dataset=data)
            printed_goals = list(dict.fromkeys(row["goal"] for row in here))
            for place, (goal, at_goal) in enumerate(goals_of(block.results, printed_goals)):
                printed_goal = goal if goal in printed_goals else None
                if printed_goal is None and place < len(printed_goals):
                    printed_goal = printed_goals[place]
                for line in self.lines:
                    picked = line.pick(at_goal)
                    printed = _first(
                        rows_of(table, dataset=data, goal=printed_goal, **line.printed)
                    )
                    numbers = [picked.measured(column) for column in self.columns]
                    yield Measurements(
                        (block.title, goal, line.name), numbers, data, printed, line.sense
                    )


def goals_of(results: Results, printed: Sequence[str]) -> list[tuple[str, Results]]:
    """Group rows by goal: the paper's goals if present, all goals if they are few, else their mean."""
    by_goal = list(results.by("goal"))
    if named := [(goal, rows) for goal, rows in by_goal if goal in printed]:
        return named
    if len(by_goal) <= SEVERAL_GOALS:
        return by_goal
    return [(f"mean of {len(by_goal)} goals", results)]


def _first(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next(iter(rows), {})


def utility_of_attacks(results: Results, page: Page) -> None:
    """Build table 1: Hit@10 of text and image retrieval on the whole test set, clean and after each attack."""
    kinds = {"attack-i": ATTACK_1, "attack-ii": ATTACK_2, "attack-iii": ATTACK_3}
    runs = results.where(lambda row: any(is_it(row) for is_it in kinds.values())).whole_data()

    def lines() -> Iterator[Measurements]:
        for block in blocks(runs, varies=("attack",)):
            data = paper_data(block.data)
            models = [
                block.results.where(model="clean_model"),
                *(block.results.where(is_it, model="poisoned") for is_it in kinds.values()),
            ]
            for task, long in TASKS:
                numbers = [rows.measured(f"utility.{long}_retrieval.hit@10") for rows in models]
                printed = _first(rows_of("table-1", dataset=data, task=task))
                yield Measurements(
                    (block.title, task.upper()), numbers, data, printed, lambda key: "up"
                )

    headers = ("Clean", "Attack I", "Attack II", "Attack III")
    compared_table(
        page,
        "table-1",
        ("measured on", "task", "n"),
        [Number(key, name) for key, name in zip(("clean", *kinds), headers, strict=True)],
        lines(),
        note=f"Hit@10; TR: text retrieval, IR: image retrieval. {STRONGER}",
        absent=lambda row: (None, row["task"].upper()),
    )


def transfer(results: Results, page: Page) -> None:
    """Build table 6: a block for each data set trained on; the numbers are of the other data."""
    attack = results.where(ATTACK_2)
    tables = [
        (
            attack.where(lambda row: row.get("data.name") == "vg-pascal"),
            "Trained on VG, tested on the test half of PASCAL.",
        )
    ]
    for other, rows in results.where(ATTACK_2, study="transfer").by("case"):
        note = f"Trained on the data named, tested on {other}; the paper trained on VG."
        tables.append((rows, note))
    for rows, note in tables:
        HitTable(lambda results: results, note=note, data="flickr-pascal")(rows, page)


def utility_after_repair(results: Results, page: Page) -> None:
    """Build table 7: Hit@10 of the sterilized model, and its change against the clean model."""
    runs = results.where(ATTACK_2, model=("clean_model", "sterilized")).whole_data()

    def lines() -> Iterator[Measurements]:
        for block in blocks(
            with_model(runs, "sterilized"), varies=(REPAIR_CURVE,), keep=("sterilize",)
        ):
            data = paper_data(block.data)
            before, after = (block.results.where(model=m) for m in ("clean_model", "sterilized"))
            numbers = []
            for _, long in TASKS:
                column = f"utility.{long}_retrieval.hit@10"
                numbers += [after.measured(column), difference(before, after, column)]
            printed = _first(rows_of("table-7", dataset=data))
            yield Measurements((block.title,), numbers, data, printed, lambda key: "up")

    numbers = [
        number
        for short, _ in TASKS
        for number in (
            Number(f"hit@10_{short}", f"{short.upper()} Hit@10"),
            Number(f"hit@10_{short}_delta", f"change of {short.upper()}"),
        )
    ]
    note = f"Change: against the clean model, paired by seed. {STRONGER}"
    compared_table(page, "table-7", ("measured on", "n"), numbers, lines(), note=note)


def repair_rates(results: Results, page: Page) -> None:
    """Build table 8: the poisoned model, then the sterilized one at each learning rate, high to low."""

    def lines() -> Iterator[Measurements]:
        runs = results.where(ATTACK_2).whole_data()
        for block in blocks(runs, varies=REPAIR_RATE, keep=("sterilize",)):
            defended = block.results.where(
                lambda row: row.get(RATE) is not None, model="sterilized"
            )
            by_rate = sorted(defended.by(RATE), key=lambda pair: -float(pair[0]))
            lines = {f"{rate:g}": rows for rate, rows in by_rate}
            curves = ends_of_curves(results.of_runs(block.results.values("run")))
            lines |= {rate: rows for rate, rows in curves if rate not in lines}
            if not lines:
                continue
            poisoned = block.results.where(model="poisoned")
            named = {"attack II": poisoned, **{f"defence, {n}": r for n, r in lines.items()}}
            for name, rows in named.items():
                numbers = [rows.measured(column) for column in HITS]
                printed = rows_of("table-8", method="attack-ii")[0] if rows is poisoned else {}
                yield Measurements(
                    (block.title, name), numbers, "flickr-pascal", printed, attack_sense
                )

    note = "The text of the paper does not print its three learning rates, so no measured line is compared with them."
    compared_table(
        page,
        "table-8",
        ("measured on", "method, learning rate", "n"),
        hit_numbers(HITS),
        lines(),
        note=f"{note} {STRONGER}",
        absent=lambda row: (None, f"paper's learning rate no. {row['lr_index']}"),
        rest=rows_of("table-8", method="defense"),
    )


def data_sizes(results: Results, page: Page) -> None:
    """Build table 9: pairs, images, labelled images and classes of whole data sets, before any split."""
    counts = {
        "pairs": "pairs",
        "images": "images",
        "labelled_images": "labeled_images",
        "classes": "classes",
    }
    note = (
        "Measured, an arrow (↑ more, ↓ fewer, ≈ as many), the paper's number. The paper's Flickr is probably "
        "31,783 images (158,915 / 5)."
    )
    columns = [Number(printed, lines.replace("_", " "), 0) for lines, printed in counts.items()]
    whole = _with_flickr(results.where())
    _facts(whole, page, columns, ("data", tuple(counts)), paper_data, "dataset", note)


def _with_flickr(results: Results) -> Results:
    """Add the sizes of Flickr, which cannot be run alone for it has no labels: Flickr-PASCAL less PASCAL."""
    both, pascal = (
        results.only(row for row in results.rows if row.get("data.name") == name)
        for name in ("flickr-pascal", "pascal-sentences")
    )
    sizes: dict[str, float] = {}
    for key in ("run.data.pairs", "run.data.images"):
        whole, part = both.measured(key).mean, pascal.measured(key).mean
        if whole is not None and part is not None:
            sizes[key] = whole - part
    if not sizes:
        return results
    unknown = dict.fromkeys(("run.data.labelled_images", "run.data.classes"))
    flickr = {**both.rows[0], **unknown, **sizes, "data.name": "flickr30k"}
    return results.only((*results.rows, flickr))


def model_sizes(results: Results, page: Page) -> None:
    """Build table 10: floating-point operations of one forward pass and numbers of parameters."""
    encoders = {
        "clip-vit-b32": "ViT-B/32",
        "clip-vit-b16": "ViT-B/16",
        "clip-vit-l14": "ViT-L/14",
    }
    note = (
        "Ours: one image and one caption through both encoders, a multiply-add counted as one operation; all "
        "parameters. The paper does not say what its counts cover."
    )
    columns = [Number("flops_g", "FLOPs (10⁹)"), Number("params_m", "parameters (10⁶)")]
    facts = ("model", ("flops_g", "parameters_m"))
    _facts(results, page, columns, facts, encoders.get, "encoder", note)


def _facts(
    results: Results,
    page: Page,
    numbers: Sequence[Number],
    facts: tuple[str, Sequence[str]],
    printed: Callable[[str], str | None],
    key: str,
    note: str,
) -> None:
    """Put a table of facts of the data, or of the models, on a page; `facts` says of which, and which facts."""
    of, keys = facts

    def lines() -> Iterator[Measurements]:
        for name, rows in results.where().by(f"{of}.name"):
            measured = [rows.measured(f"run.{of}.{each}") for each in keys]
            if any(m.summary for m in measured):
                data = printed(str(name))
                yield Measurements(
                    (str(name),), measured, data, _first(rows_of(page.id, **{key: data}))
                )

    compared_table(page, page.id, ("measured",), numbers, lines(), note=note, key=key)


WITHOUT_POISON = "Drift without poison, and what poison adds"

BEYOND = (
    "Without poison: between two clean models, one of which sees the pairs in the order of the poisoned training "
    "(study order-drift). p: paired two-tailed t-test of what poison adds to texts and to images, not corrected for "
    "the number of tests."
)


@dataclass(frozen=True)
class DriftTable:
    """Cosine distance between the clean and the poisoned encoders, of texts and of images (tables 11 and 14).

    Attributes:
        runs: Our rows, of poisoned models.
        note: What a reader must know.
        tested: Say in a note whether texts or images moved more, with a t-test.
    """

    runs: Pick
    note: str = ""
    tested: bool = False

    def __call__(self, results: Results, page: Page) -> None:
        """Put the table on its page."""
        runs = self.runs(results)

        def lines() -> Iterator[Measurements]:
            for block in blocks(runs):
                data = paper_data(block.data)
                numbers = [block.results.measured(f"drift.{kind}") for kind in ("text", "image")]
                yield Measurements(
                    (block.title,), numbers, data, _first(rows_of(page.id, dataset=data))
                )

        numbers = [Number("text", "texts", 4, same=3), Number("image", "images", 4, same=3)]
        note = f"{STRONGER} {self.note}".strip()
        compared_table(page, page.id, ("measured on", "n"), numbers, lines(), note=note)
        without: list[tuple[Cell, ...]] = []
        for block in blocks(runs):
            order = [block.results.measured(f"order_drift.{kind}") for kind in ("text", "image")]
            text, image = (beyond_order(block.results, kind) for kind in ("text", "image"))
            for name, drift, p in (
                ("without poison", order, None),
                ("beyond that", [text, image], p_of(change(text, image))),
            ):
                if all(one.summary for one in drift):
                    n = max(one.summary.n for one in drift if one.summary)
                    without.append((block.title, name, n, *map(page.cell, drift), p))
        columns = (
            *map(Column, ("measured on", "drift", "n")),
            Column("texts", 4),
            Column("images", 4),
            Column("p", 4),
        )
        page.table(WITHOUT_POISON, columns, without, BEYOND)
        for block in blocks(runs) if self.tested else ():
            test = paired(block.results, block.results, "drift.image", "drift.text")
            if test is not None and test.t_p is not None:
                more = "texts" if test.mean > 0 else "images"
                page.notes.append(
                    f"{block.title}: in all, the {more} moved more, paired two-tailed t-test over {test.n} seeds, "
                    f"p = {test.t_p:.2g}; the paper: texts, p = 0.0071."
                )


def frozen_over_seeds(results: Results, page: Page) -> None:
    """Build table 12: a line for what was trained, with standard deviations; then paired t-tests."""
    runs = results.where(attack_2).whole_data()
    varies = ("training.trainable",)
    HitTable(lambda rows: rows, FROZEN, DEEP_HITS, varies, spread=True)(runs, page)
    rows: list[tuple[Cell, ...]] = []
    for block in blocks(runs, varies=varies):
        for one, other in itertools.combinations(FROZEN, 2):
            sides = one.pick(block.results), other.pick(block.results)
            tests = [paired(*sides, column) for column in DEEP_HITS]
            if any(tests):
                n = max(test.n for test in tests if test)
                cells = (test.t_p if test else None for test in tests)
                rows.append((block.title, f"{one.name}, {other.name}", n, *cells))
    header = (
        *map(Column, ("measured on", "models", "n")),
        *(Column(NAMES[c], 4) for c in DEEP_HITS),
    )
    note = "Not corrected for the number of tests. –: no spread, or fewer than two seeds in common."
    page.table("p of the paired two-tailed t-test", header, rows, note)


def query_lengths(results: Results, page: Page) -> None:
    """Build table 15: a line for how often each caption is said."""

    def lines() -> Iterator[Measurements]:
        runs = results.where(ATTACK_1, study="query-length", model="poisoned").whole_data()
        for block in blocks(runs):
            data = paper_data(block.data)
            rows = rows_of("table-15", dataset=data)
            for times, said in sorted(block.results.by("x"), key=lambda pair: float(pair[0])):
                printed = rows[int(times) - 1] if int(times) <= len(rows) else {}
                numbers = [said.measured(column) for column in ("words", *HITS)]
                sense = {c: attack_sense(c) for c in HITS}
                yield Measurements((block.title, f"{times:g}x"), numbers, data, printed, sense.get)

    columns = [Number("text_length", "words"), *hit_numbers(HITS)]
    compared_table(page, "table-15", ("measured on", "said", "n"), columns, lines())
