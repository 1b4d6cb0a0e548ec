"""Makes tables of several runs: mean, standard deviation, 95% interval and n over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mmpoison.base.text import as_number, clean
from mmpoison.errors import InputError
from mmpoison.records.run_files import Metrics
from mmpoison.reporting.results import (
    MAIN,
    NO_SETTING,
    Bounds,
    Measured,
    Results,
    Row,
    RunRead,
    bounds_of,
    difference,
    leave_out,
    paired,
    read_runs,
)
from mmpoison.reporting.summary import MODELS, Model, classes, named_models
from mmpoison.reporting.table import Cell, Column, Table
from mmpoison.statistics import FEWEST_SEEDS, Summary, summarize

# -- Groups runs that differ only in their seed.


SHOWN_OTHERWISE = (
    *NO_SETTING,
    "attack.name",
    "attack.goal",
    "attack.goals",
    "attack.mode",
    "training.trainable",
)
"""Parameters that do not distinguish settings, or that a title says in other words."""

USUAL_ATTACK, USUAL_TRAINING = "single-target-label", "trained: both"


def distinguishing_keys(rows: Sequence[Row]) -> list[str]:
    """Find the first keys, in the order of the rows, that distinguish all rows that differ.

    Of keys that change together one is enough.

    >>> distinguishing_keys([{"a": 1, "b": 1, "c": 2}, {"a": 1, "b": 3, "c": 4}, {"a": 1, "b": 3, "c": 4, "d": 0}])
    ['b', 'd']
    """
    keys: list[str] = []
    seen = 1
    for key in dict.fromkeys(key for row in rows for key in row):
        # repr: a list is no key of a set
        found = len({tuple(repr(row.get(k)) for k in (*keys, key)) for row in rows})
        if found > seen:
            keys, seen = [*keys, key], found
    return keys


@dataclass
class RunGroup:
    """Runs that differ only in their seed, for one of their goals.

    Attributes:
        recipe: Name of the recipe; empty for an evaluation without one.
        goal: The goal.
        mode: `add` or `replace`; empty where it is not known.
        setting: The attack, what was trained and the parameters, as text.
        parameters: Those of the recipe that distinguish it from other groups.
        runs: By seed.
        goals: All goals of these runs, where a row is of all of them.
    """

    recipe: str
    goal: str
    mode: str
    setting: str
    parameters: Row = field(default_factory=dict)
    runs: dict[int, RunRead] = field(default_factory=dict)
    goals: str = ""

    @property
    def seeds(self) -> list[int]:
        """The seeds in order."""
        return sorted(self.runs)

    @cached_property
    def results(self) -> Results:
        """What its runs measured for the goal, in the order of the seeds."""
        every = Results.of([self.runs[seed] for seed in self.seeds])
        return every.only(
            row
            for row in every.rows
            # other data have goals of their own
            if row["goal"] in (self.goal, None) or row["study"] == "transfer"
        )

    @property
    def title(self) -> str:
        """The title of its block."""
        return ", ".join([*self.parts, f"seeds {', '.join(map(str, self.seeds))}"])

    @property
    def parts(self) -> list[str]:
        """What its runs have in common, in words; the usual attack and training are left out."""
        return [part for part in self.every_part if part not in (USUAL_ATTACK, USUAL_TRAINING)]

    @property
    def every_part(self) -> list[str]:
        """All that its runs have in common, in words."""
        first = next(iter(self.runs.values())).run
        pairs = {one.run.poisoned_pairs for one in self.runs.values()} - {None}
        numbers = "/".join(sorted(map(str, pairs)))
        parts = [
            self.recipe,
            first.attack or USUAL_ATTACK,
            self.goals or self.goal,
            self.mode and f"mode {self.mode}",
            numbers and f"{numbers} poisoned pairs",
            f"trained: {first.trainable}" if first.trainable else USUAL_TRAINING,
            *(f"{key} {_as_text(value)}" for key, value in self.parameters.items()),
        ]
        # an evaluation of a model has no recipe, mode and poison
        return [part for part in parts if part]

    @property
    def models(self) -> list[Model]:
        """The rows of its tables, with the names that they have in its runs."""
        return named_models(next(iter(self.runs.values())).run)


def group_runs(folders: Sequence[Path]) -> list[RunGroup]:
    """Read finished runs and group those that differ only in their seed.

    Raises:
        InputError: If a folder holds no metrics, or one seed occurs twice in a group.
    """
    return group_metrics(read_runs(folders))


def group_metrics(runs: Sequence[RunRead]) -> list[RunGroup]:
    """Group runs that were read.

    Raises:
        InputError: If one seed occurs twice in a group.
    """
    of_recipe: dict[str | None, list[Row]] = {}
    for one in runs:
        own = leave_out(one.parameters, SHOWN_OTHERWISE)
        of_recipe.setdefault(one.run.recipe, []).append(own)
    differ = {recipe: distinguishing_keys(rows) for recipe, rows in of_recipe.items()}
    groups: dict[tuple[str, ...], RunGroup] = {}
    for one in runs:
        run, seed = one.run, one.run.seed or 0
        recipe, mode = run.recipe or "", run.mode or ""
        own = {key: one.parameters.get(key) for key in differ[run.recipe]}
        setting = json.dumps([run.attack, run.trainable, own], default=str)
        goals = [*run.goals, *(row["goal"] for row in one.measured if row["study"] == MAIN)]
        for goal in filter(None, dict.fromkeys(goals)):
            new = RunGroup(recipe, goal, mode, setting, own)
            group = groups.setdefault((recipe, goal, mode, setting), new)
            if seed in group.runs:
                raise InputError(
                    f"{one.name}: seed {seed} of {recipe}, {goal}, {mode} was given twice"
                )
            group.runs[seed] = one
    return sorted(groups.values(), key=_in_order)


def _in_order(group: RunGroup) -> tuple[Any, ...]:
    """Sort by name, then by the parameters: numbers by size before words."""
    numbers = [(as_number(value), _as_text(value)) for value in group.parameters.values()]
    order = [(math.inf, word) if number is None else (number, "") for number, word in numbers]
    return group.recipe, group.goal, group.mode, order, group.setting


def _as_text(value: object) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, default=str)


MEASURES: Mapping[str, tuple[Column, str]] = {
    **{f"Hit@{k}": (Column(f"Hit@{k}", 3, k <= 10), f"hit@{k}") for k in (1, 5, 10, 20, 30, 50)},
    "MinRank": (Column("MinRank", 2), "min_rank"),
    "median rank": (Column("median rank", 1, narrow=False), "median_rank"),
    "IR Hit@10": (Column("IR Hit@10"), "utility.image_retrieval.hit@10"),
    "TR Hit@10": (Column("TR Hit@10"), "utility.text_retrieval.hit@10"),
}
"""What tables show of a model: the column, and that of the long table."""

UTILITY = {"IR": "image", "TR": "text"}


# -- Makes the table of all settings, a row each: where does an attack or a defence work?


COMPARED = ("clean_model", "poisoned", "filtered", "robust", "sterilized")
NAMES = {model.key: model.name for model in MODELS}
UTILITY_NOTE = (
    "IR, TR: change of Hit@10 of image and text retrieval against the clean model of the same seed."
)
FILTER_NOTE = "AUROC, caught, lost: of the filter; the shares of the poisoned and of the clean pairs that it dropped."
DRIFT_NOTE = (
    "Drift: mean cosine distance between the embeddings of the clean and of the poisoned model."
)


@dataclass(frozen=True)
class _Measure:
    column: Column
    of: Callable[[Results], Measured]
    bounds: Bounds
    note: str


def overview_tables(groups: Sequence[RunGroup]) -> list[Table]:
    """Make tables of what the search finds and what it costs, one row per setting; none for one setting.

    Where settings differ in their goal alone, a last row has the mean over the goals.

    Args:
        groups: The settings.
    """
    if len(groups) < 2:
        return []
    tables = [
        _table(
            groups,
            "All settings: queries that find a target image",
            _found(),
            "Mean ± standard deviation over n seeds; a mean of goals is over the goals' means. MinRank counts from 0.",
        ),
    ]
    # what it costs does not depend on the goal: one row for all goals of the same runs
    models = [replace(groups[place], goals=goals) for place, goals in same_runs(groups)]
    if len(models) > 1:
        tables.append(_table(models, "All settings: what it costs", _costs()))
    return [table for table in tables if len(table.columns) > 2]


def same_runs(groups: Sequence[RunGroup]) -> list[tuple[int, str]]:
    """List the first setting of each set of runs, and the goals that were measured on these runs.

    Args:
        groups: Settings; those of the goals of one run hold the same runs.

    Returns:
        Place in `groups`, and goals with commas.
    """
    found: dict[tuple[str, ...], list[int]] = {}
    for place, group in enumerate(groups):
        names = tuple(group.runs[seed].name for seed in group.seeds)
        found.setdefault(names, []).append(place)
    return [
        (places[0], ", ".join(groups[place].goal for place in places)) for places in found.values()
    ]


def _found() -> list[_Measure]:
    return [
        _measure(f"{NAMES[model]} {name}", MEASURES[name][1], model, digits=digits, narrow=narrow)
        for name, digits, narrow in (("Hit@10", 3, True), ("MinRank", 1, False))
        for model in COMPARED
    ]


def _costs() -> list[_Measure]:
    return [
        *(_utility_lost(model, short) for model in COMPARED[1:] for short in UTILITY),
        _measure("AUROC", "run.filter.auroc", note=FILTER_NOTE),
        _measure("caught", "run.filter.caught_share", note=FILTER_NOTE),
        _measure("lost", "run.filter.clean_dropped_share", note=FILTER_NOTE, digits=4),
        *(
            _measure(f"drift of {kind}s", f"drift.{kind}", note=DRIFT_NOTE)
            for kind in ("text", "image")
        ),
    ]


def _measure(
    name: str,
    column: str,
    model: str = "poisoned",
    note: str = "",
    *,
    digits: int = 3,
    narrow: bool = False,
) -> _Measure:
    shown = Column(name, digits, narrow, interval=False)
    return _Measure(
        shown, lambda of: of.where(model=model).measured(column), bounds_of(column), note
    )


def _utility_lost(model: str, short: str) -> _Measure:
    column, bounds = MEASURES[f"{short} Hit@10"][1], (-1.0, 1.0)  # a share less a share

    def lost(of: Results) -> Measured:
        return difference(of.where(model="clean_model"), of.where(model=model), column, bounds)

    shown = Column(f"{NAMES[model]} {short}", narrow=short == "IR", interval=False)
    return _Measure(shown, lost, bounds, UTILITY_NOTE)


def _table(
    groups: Sequence[RunGroup], title: str, measures: Sequence[_Measure], note: str = ""
) -> Table:
    cells = [[one.of(group.results).summary for one in measures] for group in groups]
    kept = [n for n in range(len(measures)) if any(row[n] is not None for row in cells)]
    common = set.intersection(*(set(group.every_part) for group in groups))
    rows: list[tuple[Cell, ...]] = [
        (_label(group.every_part, common) or group.title, len(group.runs), *(row[n] for n in kept))
        for group, row in zip(groups, cells, strict=True)
    ]
    for alike in _alike(groups):
        means = [
            _over_settings([cells[number][n] for number in alike], measures[n].bounds) for n in kept
        ]
        parts = [part for part in groups[alike[0]].every_part if part != groups[alike[0]].goal]
        shared = set.intersection(*(set(groups[number].every_part) for number in alike))
        label = _label([part for part in parts if part in shared], common)
        rows.append((", ".join(filter(None, ["mean of goals", label])), len(alike), *means))
    return Table(
        title,
        (Column("Setting"), Column("n"), *(measures[n].column for n in kept)),
        tuple(rows),
        " ".join(filter(None, dict.fromkeys([note, *(measures[n].note for n in kept)]))),
        of_all=True,
    )


def _label(parts: Sequence[str], common: set[str]) -> str:
    return ", ".join(part for part in parts if part not in common)


def _alike(groups: Sequence[RunGroup]) -> list[list[int]]:
    """List the groups that differ only in their goal, if there are several."""
    found: dict[tuple[object, ...], list[int]] = {}
    for number, group in enumerate(groups):
        key = (group.recipe, group.mode, group.setting)
        found.setdefault(key, []).append(number)
    return [numbers for numbers in found.values() if len(numbers) > 1]


def _over_settings(cells: Sequence[Summary | None], bounds: Bounds) -> Summary | None:
    known = [cell.mean for cell in cells if cell is not None]
    return summarize(known, bounds=bounds) if known else None


# -- Makes tables of the optional parts of an evaluation, over seeds.


QUERIES = {
    "test": "test captions",
    "misused": "captions of the poison",
    "train": "other train captions",
    "random": "captions of other classes",
}
_ROW = (
    ("Hit@1", "hit@1", 3),
    ("Hit@5", "hit@5", 3),
    ("Hit@10", "hit@10", 3),
    ("MinRank", "min_rank", 2),
)


def study_tables(group: RunGroup) -> Iterator[Table]:
    """Make the tables of the studies that the runs of a group hold."""
    yield from _rows_table(
        group, "queries", "case", "where the queries come from", "queries", QUERIES.get
    )
    yield from _rows_table(
        group,
        "query-length",
        "x",
        "each caption once or several times in a row",
        "repeats",
        lambda times, _: f"{times:g}x",
        (("words", "words", 1), ("context full", "full_context", 2)),
    )
    yield from _collateral(group)
    yield from _distribution(group)
    yield from _transfer(group)


def _cells(results: Results, columns: Iterable[str]) -> tuple[Cell, ...]:
    """Return n of the first column, and each column over seeds."""
    cells = [results.measured(column).summary for column in columns]
    return cells[0].n if cells[0] else None, *cells


def _rows_table(
    group: RunGroup,
    study: str,
    key: str,
    title: str,
    what: str,
    name: Callable[[Any, Any], Any],
    more: Sequence[tuple[str, str, int]] = (),
) -> Iterator[Table]:
    shown = (*_ROW, *more)
    names = {model.key: model.name for model in group.models}
    rows: list[tuple[Cell, ...]] = [
        (f"{names.get(model, model)}, {name(kind, kind)}", *_cells(found, [k for _, k, _ in shown]))
        for model, of_model in group.results.where(study=study).by("model")
        for kind, found in of_model.by(key)
    ]
    if rows:
        columns = (
            Column(f"Model, {what}"),
            Column("n"),
            *(Column(title, digits) for title, _, digits in shown),
        )
        yield Table(f"{group.goal}: {title}", columns, tuple(rows))


def _collateral(group: RunGroup) -> Iterator[Table]:
    whens = {"clean": "clean_model", "poisoned": "poisoned", "change": "change"}
    columns = [f"{kind}.{when}" for kind in ("own", "target") for when in whens.values()]
    rows: list[tuple[Cell, ...]] = [
        (str(label), *_cells(found, columns))
        for label, found in group.results.where(study="collateral").by("case")
    ]
    if rows:
        shown = (
            Column("Captions of"),
            Column("n"),
            *(
                Column(f"{kind} {when}", 2, narrow=when == "change" or kind == "target")
                for kind in ("own", "target")
                for when in whens
            ),
        )
        pair = classes(group.goal)
        note = (
            "Mean rank of the best image of the caption's own class, and of the best target image, under the clean and "
            "the poisoned model; a negative change is nearer to the top."
        )
        if pair:
            note += f" The attack is on {pair[0]}; every other class is a bystander."
        yield Table(f"{group.goal}: rank changes of all classes", shown, tuple(rows), note)


def _distribution(group: RunGroup) -> Iterator[Table]:
    names = {model.key: model.name for model in group.models}
    rows: list[tuple[Cell, ...]] = [
        (names.get(model, model), *cells)
        for model, found in group.results.where(study="distribution").by("model")
        if (cells := _cells(found, ("text_silhouette", "image_silhouette")))[0] is not None
    ]
    if rows:
        yield Table(
            "silhouette by class",
            (Column("Model"), Column("n"), Column("texts"), Column("images")),
            tuple(rows),
            "From -1 to 1, cosine distance; higher: the classes lie further apart.",
        )


def _transfer(group: RunGroup) -> Iterator[Table]:
    columns = (Column("Model"), Column("n"), *(Column(title, digits) for title, _, digits in _ROW))
    for data, there in group.results.where(study="transfer").by("case"):
        for tested, of_goal in there.by("goal"):
            rows: list[tuple[Cell, ...]] = [
                (model.name, *cells)
                for model in group.models
                if (
                    cells := _cells(
                        of_goal.where(study="transfer", model=model.key), [k for _, k, _ in _ROW]
                    )
                )[0]
                is not None
            ]
            title = f"trained for {group.goal}, tested on {data}: {tested}"
            yield Table(title, columns, tuple(rows))


NOTE = (
    "Mean ± standard deviation [95 % interval of the mean, Student's t] over n seeds. MinRank counts from 0. IR, TR: "
    "utility, image and text retrieval on the whole test set."
)

_EQUAL_TEXTS: Mapping[str, tuple[Column, str]] = {
    f"{short} Hit@{k}": (
        Column(f"{short} Hit@{k}"),
        f"utility_equal_texts.{part}_retrieval.hit@{k}",
    )
    for short, part in UTILITY.items()
    for k in (1, 5, 10)
}

_WITH_TRIGGER: Mapping[str, tuple[Column, str]] = {
    name: (MEASURES[name][0], f"with_trigger.{MEASURES[name][1]}")
    for name in ("Hit@1", "Hit@5", "Hit@10", "MinRank")
}


def seed_tables(runs: Sequence[Path]) -> list[Table]:
    """Make all tables of several runs: each setting's models, its utility where captions repeat, drift and studies.

    Several settings stand side by side first.

    Args:
        runs: Finished run folders, or folders of them.

    Raises:
        InputError: If a folder holds no finished run, or one seed of a setting occurs twice.
    """
    return group_tables(group_runs(runs))


def metrics_tables(metrics: Metrics | Mapping[str, object]) -> list[Table]:
    """Make the same tables for one run's metrics.

    Args:
        metrics: What metrics.json holds.

    Raises:
        InputError: If it is not that.
    """
    value = metrics.to_json() if isinstance(metrics, Metrics) else metrics
    read = RunRead.of_metrics("metrics.json", Metrics.of(clean(value), "metrics.json"))
    return group_tables(group_metrics([read]))


def group_tables(groups: Sequence[RunGroup]) -> list[Table]:
    """Make the same tables for given settings.

    Args:
        groups: The settings.
    """
    tables = overview_tables(groups)
    shared = dict(same_runs(groups))
    for place, group in enumerate(groups):
        main = _models_table(group, group.title, MEASURES, NOTE)
        tables += [replace(table, of_models=True) for table in main]
        tables += _models_table(
            group,
            f"{group.goal}: with the trigger on the target images",
            _WITH_TRIGGER,
            "The main table is of the gallery as it is. A clean model shows what the trigger does by itself.",
        )
        # utility and drift are of the models and not of a goal: once for all goals of the same runs
        if goals := shared.get(place):
            more = _models_table(
                group,
                f"{goals}: utility where an equal caption of another image counts as right",
                _EQUAL_TEXTS,
                "Utility in the other tables counts only a caption's own image and an image's own captions.",
            )
            tables += [replace(table, detail=True) for table in more]
            tables.extend(_drift_table(group, goals))
        tables.extend(study_tables(group))
    return tables


def _models_table(
    group: RunGroup, title: str, measures: Mapping[str, tuple[Column, str]], note: str
) -> list[Table]:
    """Make the table of the models that have one of the measures; none where no model has."""
    rows: list[tuple[Cell, ...]] = []
    for model in group.models:
        found = group.results.where(model=model.key)
        cells = [found.measured(column).summary for _, column in measures.values()]
        known = [cell for cell in cells if cell is not None]
        if known:
            rows.append((model.name, max(cell.n for cell in known), *cells))
    columns = (Column("Model"), Column("n"), *(column for column, _ in measures.values()))
    return [Table(title, columns, tuple(rows), note)] if rows else []


def _drift_table(group: RunGroup, goals: str) -> list[Table]:
    found = group.results.where(model="poisoned")
    kinds = {"texts": "drift.text", "images": "drift.image"}
    rows: list[tuple[Cell, ...]] = [(name, *_cells(found, [key])) for name, key in kinds.items()]
    if not any(n for _, n, _ in rows):
        return []
    note = "Mean cosine distance between the embeddings of the clean and of the poisoned model over the test set."
    test = paired(found, found, "drift.image", "drift.text")
    if test is not None and 1 < test.n < FEWEST_SEEDS:
        note += f" Too few seeds to say which moved more (n = {test.n}, at least {FEWEST_SEEDS} are needed)."
    elif test is not None and test.t_p is not None:
        more = "texts" if test.mean > 0 else "images"
        note += (
            f" The {more} moved more: difference {abs(test.mean):.4f}, paired t-test, two-tailed, "
            f"p = {test.t_p:.2g} (d = {abs(test.cohen_d or 0):.2f}, Wilcoxon p = {test.wilcoxon_p:.2g}, "
            f"n = {test.n})."
        )
    columns = (Column("Embeddings of"), Column("n"), Column("drift", 4))
    return [Table(f"{goals}: drift", columns, tuple(rows), note, of_drift=True, detail=True)]
