"""The paper's tables, with our numbers next to the paper's; `TABLES` declares each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from mmpoison.reporting import (
    Cell,
    Column,
    Measured,
    Results,
    Row,
    change,
    difference,
    is_balanced,
)
from mmpoison_lab.paper.measured import (
    ATTACK_1,
    ATTACK_2,
    ATTACK_3,
    Block,
    attack_2,
    beyond_order,
    blocks,
    ends_of_curves,
    of_model,
    p_of,
    trained,
    with_model,
)
from mmpoison_lab.paper.page import STRONGER, Page, Sense
from mmpoison_lab.paper.paper_values import ENCODERS, TITLES, paper_data, rows_of

HITS = ("hit@1", "hit@5", "hit@10", "min_rank")
DEEP_HITS = ("hit@1", "hit@5", "hit@10", "hit@20", "hit@30", "hit@50", "min_rank")
NAMES = {**{f"hit@{k}": f"Hit@{k}" for k in (1, 5, 10, 20, 30, 50)}, "min_rank": "MinRank"}
DIGITS = {"min_rank": 2}
TASKS = (("tr", "text"), ("ir", "image"))
RATE = "sterilize.training.learning_rate"

REPAIR_CURVE = "sterilize.curve"
"""Recipe key: whether a repair is measured while running, which does not change its results."""

REPAIR_RATE = (RATE, REPAIR_CURVE)
"""Parameters that may differ between repairs that are compared by learning rate."""
SEVERAL_GOALS = 4
"""Largest number of goals with a line each; more goals share one line, their mean."""

Pick = Callable[[Results], Results]
Printed = Sequence[Mapping[str, Any]]
"""Rows of one of the paper's tables."""


@dataclass(frozen=True)
class Number:
    """A column of numbers.

    Attributes:
        key: The paper's column; its standard deviation is under `{key}_std`.
        name: Its header.
        digits: Decimal places.
        narrow: Whether it fits a terminal of 80 columns.
        same: Decimal places at which equal numbers count as the same; `digits` by default.
        sense: Which direction is better; for Hit@K and MinRank, from an attack's view.
    """

    key: str
    name: str
    digits: int = 3
    narrow: bool = True
    same: int | None = None
    sense: Sense = None


def hit_numbers(columns: Sequence[str]) -> list[Number]:
    """Return columns of Hit@K and MinRank."""
    return [
        Number(c, NAMES[c], DIGITS.get(c, 3), c in HITS, sense="down" if c == "min_rank" else "up")
        for c in columns
    ]


DEFENCE: dict[Sense, Sense] = {"up": "down", "down": "up"}
"""Maps the better direction for an attack to that for a defence."""

NEITHER: dict[Sense, Sense] = {"up": None, "down": None}
"""For a baseline, neither direction is better."""


@dataclass(frozen=True)
class Line:
    """A line of measured numbers.

    Attributes:
        names: Its first cells after the data set, which name it.
        numbers: Its numbers, one per column.
        printed: The paper's row to compare with; empty if there is none.
        senses: Better directions that differ from the column's.
    """

    names: Sequence[Cell]
    numbers: Sequence[Measured]
    printed: Mapping[str, Any] = field(default_factory=dict)
    senses: Mapping[Sense, Sense] = field(default_factory=dict)


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper: measured lines, then the paper's rows for data without a measured line.

    Attributes:
        numbers: The columns of numbers.
        runs: Selects our rows for the table.
        lines: Builds the lines of a data set and setting, from our rows and the paper's rows for the data.
        varies: Parameters in which the lines differ.
        keep: Parameters of defences that matter for this table.
        group: Groups the rows by data set and setting.
        names: Headers of the first columns; `n`, the number of seeds, is last if present.
        note: A note for the reader.
        key: The paper's column for the data set.
        data: The value of that column for a measured data set.
        absent: First cells, after the data set, of a row of the paper without a measured line.
        spread: Always show our standard deviations; otherwise only if the paper has its own.
    """

    numbers: Sequence[Number]
    runs: Pick
    lines: Callable[[Results, Printed], Iterable[Line]]
    varies: Sequence[str] = ()
    keep: Sequence[str] = ()
    group: Callable[..., Iterable[Block]] = blocks
    names: Sequence[str] = ("measured on", "n")
    note: str = STRONGER
    key: str = "dataset"
    data: Callable[[str], str | None] = paper_data
    absent: Callable[[Mapping[str, Any]], Sequence[Cell]] = lambda row: ()
    spread: bool = False

    def __call__(self, results: Results, page: Page) -> None:
        """Add the table to its page."""
        rows: list[tuple[Cell, ...]] = []
        covered = set()
        for block in self.group(self.runs(results), varies=self.varies, keep=self.keep):
            data = self.data(block.data)
            for line in self.lines(block.results, rows_of(page.id, **{self.key: data})):
                covered.add(data)
                rows.append(self._row(page, block.title, line))
        if not rows:
            return
        nothing = [Measured(None)] * len(self.numbers)
        for printed in rows_of(page.id):
            if printed[self.key] not in covered:
                rows.append(self._row(page, None, Line(self.absent(printed), nothing, printed)))
        header = (
            *(Column(name) for name in self.names),
            *(Column(number.name, number.digits, number.narrow) for number in self.numbers),
            Column("paper's data" if self.names[0] == "measured on" else "paper"),
        )
        page.table(page.title, header, rows, self.note)

    def _row(self, page: Page, title: str | None, line: Line) -> tuple[Cell, ...]:
        printed = line.printed
        n = max((m.summary.n for m in line.numbers if m.summary), default=None)
        cells = (
            page.cell(
                measured,
                printed.get(number.key),
                sense=line.senses.get(number.sense, number.sense),
                digits=number.digits if number.same is None else number.same,
                reference_sd=printed.get(f"{number.key}_std"),
                spread=self.spread or f"{number.key}_std" in printed,
            )
            for number, measured in zip(self.numbers, line.numbers, strict=True)
        )
        counted = [n] if self.names[-1] == "n" else []
        of = printed.get("dataset", printed.get(self.key))
        return title, *line.names, *counted, *cells, TITLES.get(str(of), of)


def _first(rows: Printed, **cells: Any) -> Mapping[str, Any]:
    return next((row for row in rows if cells.items() <= row.items()), {})


def of_attack(
    attack: Callable[[Row], bool], *, balanced: bool = False, having: str = "", **keys: str
) -> Pick:
    """Select an attack's rows, on whole or balanced data, only from runs with a model."""

    def pick(results: Results) -> Results:
        runs = results.where(attack, **keys)
        runs = runs.where(is_balanced) if balanced else runs.whole_data()
        return with_model(runs, having) if having else runs

    return pick


# -- Tables of Hit@K and MinRank: one line per kind of model.


@dataclass(frozen=True)
class Kind:
    """A kind of model with its own line.

    Attributes:
        name: Its name in the paper.
        model: Its name in the long table.
        printed: Cells that identify the paper's row, in addition to data set and goal.
        senses: See `Line`.
        trained: Which encoders were trained; None if that does not matter.
    """

    name: str
    model: str
    printed: Mapping[str, Any]
    senses: Mapping[Sense, Sense] = field(default_factory=dict)
    trained: str | None = None

    def pick(self, results: Results) -> Results:
        """Select its rows."""
        rows = of_model(results, self.model)
        return rows.only(row for row in rows.rows if self.trained in (None, trained(row)))


CLEAN_AND_POISONED = (
    Kind("baseline (clean model)", "clean_model", {"method": "baseline"}, NEITHER),
    Kind("ours (poisoned model)", "poisoned", {"method": "ours"}),
)
"""The two lines of tables 2, 3, 4, 6 and 13."""

FROZEN = (
    Kind("both trained", "poisoned", {"model": "both-trainable"}, trained="both"),
    Kind("image encoder", "poisoned", {"model": "image-trainable (text frozen)"}, trained="image"),
    Kind("text encoder", "poisoned", {"model": "text-trainable (image frozen)"}, trained="text"),
    Kind("pre-trained", "pretrained", {"model": "both-frozen (pre-trained)"}, NEITHER),
)
"""The lines of tables 5 and 12, by trained encoder."""

DEFENDED = (
    Kind("attack II", "poisoned", {"method": "attack-ii"}),
    Kind("defence (filtered)", "filtered", {"method": "defense"}, DEFENCE),
    Kind("clean", "clean_model", {"method": "clean"}, NEITHER),
)
"""The lines of table 16."""


def hit_table(
    runs: Pick,
    kinds: Sequence[Kind] = CLEAN_AND_POISONED,
    columns: Sequence[str] = HITS,
    *,
    note: str = "",
    **options: Any,
) -> PaperTable:
    """Declare a table of Hit@K and MinRank: a line for each goal and kind of model."""

    def lines(results: Results, printed: Printed) -> Iterator[Line]:
        printed_goals = list(dict.fromkeys(row["goal"] for row in printed))
        for place, (goal, at_goal) in enumerate(goals_of(results, printed_goals)):
            in_order = printed_goals[place] if place < len(printed_goals) else None
            printed_goal = goal if goal in printed_goals else in_order
            for kind in kinds:
                rows = kind.pick(at_goal)
                theirs = _first(printed, goal=printed_goal, **kind.printed)
                numbers = [rows.measured(column) for column in columns]
                yield Line((goal, kind.name), numbers, theirs, kind.senses)

    def absent(row: Mapping[str, Any]) -> Sequence[Cell]:
        names = [kind.name for kind in kinds if kind.printed.items() <= row.items()]
        return row["goal"], names[0] if names else str(row.get("method"))

    return PaperTable(
        hit_numbers(columns),
        runs,
        lines,
        names=("measured on", "goal", "method", "n"),
        note=f"{STRONGER} {note}".strip(),
        absent=absent,
        **options,
    )


def goals_of(results: Results, printed: Sequence[str]) -> list[tuple[str, Results]]:
    """Group rows by goal: the paper's goals if present, all goals if there are few, otherwise their mean."""
    by_goal = list(results.by("goal"))
    if named := [(goal, rows) for goal, rows in by_goal if goal in printed]:
        return named
    if len(by_goal) <= SEVERAL_GOALS:
        return by_goal
    return [(f"mean of {len(by_goal)} goals", results)]


def transfer(results: Results, page: Page) -> None:
    """Build table 6: a block per training data set, with numbers on the other data."""
    of_vg = results.where(ATTACK_2).where(lambda row: row.get("data.name") == "vg-pascal")
    tables = [(of_vg, "Trained on VG, tested on the test half of PASCAL.")]
    for other, rows in results.where(ATTACK_2, study="transfer").by("case"):
        note = f"Trained on the data named, tested on {other}; the paper trained on VG."
        tables.append((rows, note))
    for rows, note in tables:
        hit_table(lambda found: found, note=note, data=lambda name: "flickr-pascal")(rows, page)


def frozen_over_seeds(results: Results, page: Page) -> None:
    """Build table 12: a line per trained part, with standard deviations; then paired t-tests."""
    varies = ("training.trainable",)
    hit_table(of_attack(attack_2), FROZEN, DEEP_HITS, varies=varies, spread=True)(results, page)
    rows: list[tuple[Cell, ...]] = []
    for block in blocks(of_attack(attack_2)(results), varies=varies):
        for one, other in itertools.combinations(FROZEN, 2):
            sides = one.pick(block.results), other.pick(block.results)
            changes = [difference(*sides, column) for column in DEEP_HITS]
            if n := max((c.summary.n for c in changes if c.summary), default=0):
                rows.append((block.title, f"{one.name}, {other.name}", n, *map(p_of, changes)))
    header = (
        *map(Column, ("measured on", "models", "n")),
        *(Column(NAMES[c], 4) for c in DEEP_HITS),
    )
    note = "Not corrected for the number of tests. –: no spread, or fewer than two seeds in common."
    page.table("p of the paired two-tailed t-test", header, rows, note)


# -- Lines of the other tables.


ATTACKS = {"attack-i": ATTACK_1, "attack-ii": ATTACK_2, "attack-iii": ATTACK_3}
"""The attacks by the paper's column of table 1."""


def _of_any_attack(results: Results) -> Results:
    return results.where(lambda row: any(is_it(row) for is_it in ATTACKS.values())).whole_data()


def utility_of_attacks(results: Results, printed: Printed) -> Iterator[Line]:
    """Measure Hit@10 of text and image retrieval, without an attack and after each (table 1)."""
    models = [
        results.where(model="clean_model"),
        *(results.where(is_it, model="poisoned") for is_it in ATTACKS.values()),
    ]
    for task, long in TASKS:
        numbers = [rows.measured(f"utility.{long}_retrieval.hit@10") for rows in models]
        yield Line((task.upper(),), numbers, _first(printed, task=task))


def utility_after_repair(results: Results, printed: Printed) -> Iterator[Line]:
    """Measure Hit@10 of the sterilized model, and its change from the clean model (table 7)."""
    before, after = (of_model(results, model) for model in ("clean_model", "sterilized"))
    numbers = []
    for _, long in TASKS:
        column = f"utility.{long}_retrieval.hit@10"
        numbers += [after.measured(column), difference(before, after, column)]
    yield Line((), numbers, _first(printed))


def repair_rates(results: Results, page: Page) -> None:
    """Build table 8: the poisoned model, then the sterilized one at each learning rate, high to low."""

    def lines(rows: Results, printed: Printed) -> Iterator[Line]:
        defended = rows.where(lambda row: row.get(RATE) is not None, model="sterilized")
        by_rate = sorted(defended.by(RATE), key=lambda pair: -float(pair[0]))
        found = {f"{rate:g}": at for rate, at in by_rate}
        curves = ends_of_curves(results.of_runs(rows.values("run")))
        found |= {rate: at for rate, at in curves if rate not in found}
        if not found:
            return
        poisoned = [rows.where(model="poisoned").measured(column) for column in HITS]
        yield Line(("attack II",), poisoned, _first(printed))
        for rate, at in found.items():
            yield Line((f"defence, {rate}",), [at.measured(column) for column in HITS])

    PaperTable(
        hit_numbers(HITS),
        of_attack(ATTACK_2),
        lines,
        varies=REPAIR_RATE,
        keep=("sterilize",),
        names=("measured on", "method, learning rate", "n"),
        note="The text of the paper does not print its three learning rates, so no measured line is compared with "
        f"them. {STRONGER}",
        key="method",
        data=lambda name: "attack-ii",
        absent=lambda row: (f"paper's learning rate no. {row['lr_index']}",),
    )(results, page)


def facts(of: str, runs: Pick, numbers: Mapping[str, Number], **options: Any) -> PaperTable:
    """Declare a table of facts about data or models, with numbers by their names in the long table."""

    def by_name(results: Results, **settings: Sequence[str]) -> Iterator[Block]:
        for name, rows in results.by(f"{of}.name"):
            yield Block(str(name), "", rows)

    def lines(results: Results, printed: Printed) -> Iterator[Line]:
        # counts, which do not depend on the seed
        measured = [replace(results.measured(f"run.{of}.{fact}"), exact=True) for fact in numbers]
        if any(one.summary for one in measured):
            yield Line((), measured, _first(printed))

    return PaperTable(
        list(numbers.values()), runs, lines, group=by_name, names=("measured",), **options
    )


def _with_flickr(results: Results) -> Results:
    """Add the sizes of unlabelled Flickr, which cannot be run alone: Flickr-PASCAL minus PASCAL."""
    results = results.where()
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


BEYOND = (
    "Without poison: between two clean models, one of which sees the pairs in the order of the poisoned training "
    "(study order-drift). p: paired two-tailed t-test of what poison adds to texts and to images, not corrected for "
    "the number of tests."
)


def drift(
    results: Results, page: Page, *, runs: Pick, note: str = "", tested: bool = False
) -> None:
    """Build tables 11 and 14: cosine distances between clean and poisoned encoders, for texts and images.

    Args:
        results: All rows.
        page: The page.
        runs: Selects our rows of poisoned models.
        note: A note for the reader.
        tested: Add a note on whether texts or images moved more, with a t-test.
    """

    def lines(rows: Results, printed: Printed) -> Iterator[Line]:
        yield Line(
            (), [rows.measured(f"drift.{kind}") for kind in ("text", "image")], _first(printed)
        )

    numbers = [Number("text", "texts", 4, same=3), Number("image", "images", 4, same=3)]
    PaperTable(numbers, runs, lines, note=f"{STRONGER} {note}".strip())(results, page)
    found = list(blocks(runs(results)))
    without: list[tuple[Cell, ...]] = []
    for block in found:
        order = [block.results.measured(f"order_drift.{kind}") for kind in ("text", "image")]
        text, image = (beyond_order(block.results, kind) for kind in ("text", "image"))
        for name, moved, p in (
            ("without poison", order, None),
            ("beyond that", [text, image], p_of(change(text, image))),
        ):
            if all(one.summary for one in moved):
                n = max(one.summary.n for one in moved if one.summary)
                without.append((block.title, name, n, *map(page.cell, moved), p))
    names = map(Column, ("measured on", "drift", "n"))
    columns = (*names, Column("texts", 4), Column("images", 4), Column("p", 4))
    page.table("Drift without poison, and what poison adds", columns, without, BEYOND)
    for block in found if tested else ():
        text, image = (block.results.measured(f"drift.{kind}") for kind in ("text", "image"))
        farther = change(image, text)
        if farther.mean is not None and (p := p_of(farther)) is not None:
            more = "texts" if farther.mean > 0 else "images"
            page.notes.append(
                f"{block.title}: in all, the {more} moved more, paired two-tailed t-test over {len(farther.by_seed)} "
                f"seeds, p = {p:.2g}; the paper: texts, p = 0.0071."
            )


def query_lengths(results: Results, printed: Printed) -> Iterator[Line]:
    """Measure attack I by the number of repetitions of each caption (table 15)."""
    for times, said in sorted(results.by("x"), key=lambda pair: float(pair[0])):
        numbers = [said.measured(column) for column in ("words", *HITS)]
        yield Line((f"{times:g}x",), numbers, _first(printed, times=int(times)))


ORDER = "Not all of it is poison: clean pairs in another order make the models drift too (study order-drift)."

TABLES: dict[str, Callable[[Results, Page], None]] = {
    "table-1": PaperTable(
        [
            Number(key, name, sense="up")
            for key, name in (
                ("clean", "Clean"),
                ("attack-i", "Attack I"),
                ("attack-ii", "Attack II"),
                ("attack-iii", "Attack III"),
            )
        ],
        _of_any_attack,
        utility_of_attacks,
        varies=("attack",),
        names=("measured on", "task", "n"),
        note=f"Hit@10; TR: text retrieval, IR: image retrieval. {STRONGER}",
        absent=lambda row: (row["task"].upper(),),
    ),
    "table-2": hit_table(of_attack(ATTACK_1)),
    "table-3": hit_table(of_attack(ATTACK_2)),
    "table-4": hit_table(
        of_attack(ATTACK_3),
        note="Goals that are not the paper's are paired with its goals in order.",
    ),
    "table-5": hit_table(of_attack(attack_2), FROZEN, DEEP_HITS, varies=("training.trainable",)),
    "table-6": transfer,
    "table-7": PaperTable(
        [
            Number(f"hit@10_{short}{key}", name.format(short.upper()), sense="up")
            for short, _ in TASKS
            for key, name in (("", "{} Hit@10"), ("_delta", "change of {}"))
        ],
        of_attack(ATTACK_2, having="sterilized"),
        utility_after_repair,
        varies=(REPAIR_CURVE,),
        keep=("sterilize",),
        note=f"Change: against the clean model, paired by seed. {STRONGER}",
    ),
    "table-8": repair_rates,
    "table-9": facts(
        "data",
        _with_flickr,
        {
            "pairs": Number("pairs", "pairs", 0),
            "images": Number("images", "images", 0),
            "labelled_images": Number("labeled_images", "labelled images", 0),
            "classes": Number("classes", "classes", 0),
        },
        note="Measured, an arrow (↑ more, ↓ fewer, ≈ as many), the paper's number. The paper's Flickr is probably "
        "31,783 images (158,915 / 5).",
    ),
    "table-10": facts(
        "model",
        Results.where,
        {
            "flops_g": Number("flops_g", "FLOPs (10⁹)"),
            "parameters_m": Number("params_m", "parameters (10⁶)"),
        },
        note="Ours: one image and one caption through both encoders, a multiply-add counted as one operation; all "
        "parameters. The paper does not say what its counts cover.",
        key="encoder",
        data=ENCODERS.get,
    ),
    "table-11": partial(drift, runs=of_attack(ATTACK_2, model="poisoned"), note=ORDER, tested=True),
    "table-12": frozen_over_seeds,
    "table-13": hit_table(
        of_attack(ATTACK_2, balanced=True),
        note="The paper prints no baseline in this table.",
    ),
    "table-14": partial(
        drift,
        runs=of_attack(ATTACK_2, balanced=True, model="poisoned"),
        note=f"The paper's are of one run. {ORDER}",
    ),
    "table-15": PaperTable(
        [Number("text_length", "words"), *hit_numbers(HITS)],
        of_attack(ATTACK_1, study="query-length", model="poisoned"),
        query_lengths,
        names=("measured on", "said", "n"),
        absent=lambda row: (f"{row['times']}x",),
    ),
    "table-16": hit_table(
        of_attack(ATTACK_2, having="filtered"),
        DEFENDED,
        keep=("filter",),
        note="The defence: ▲ where it leaves less of the attack than the paper's.",
    ),
}
"""How each of the paper's tables is built from rows of runs, in the paper's order."""
