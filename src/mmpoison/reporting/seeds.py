"""Makes tables of several runs: mean, standard deviation, 95% interval and n over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmpoison.base.record import Record
from mmpoison.records.run_files import (
    ClassChange,
    FilterFacts,
    GoalRow,
    Metrics,
    Silhouettes,
    TransferMeasures,
)
from mmpoison.reporting.runs import (
    MEASURES,
    SHARE,
    UTILITY,
    Bounds,
    Retrieval,
    RunGroup,
    RunRead,
    Value,
    bounds_of,
    drift_value,
    filter_value,
    goal_value,
    group_metrics,
    group_runs,
    over_seeds,
    utility_value,
)
from mmpoison.reporting.summary import MODELS, classes
from mmpoison.reporting.table import Cell, Column, Table
from mmpoison.reporting.text import clean
from mmpoison.statistics import Summary, compare, summarize

# -- Makes the table of all settings, a row each: where does an attack or a defence work?


COMPARED = ("clean_model", "poisoned", "filtered", "robust", "sterilized")
NAMES = {model.key: model.name for model in MODELS}
UTILITY_NOTE = (
    "IR, TR: Hit@10 of image and text retrieval less that of the clean model of the same seed."
)
FILTER_NOTE = "AUROC, caught, lost: of the filter; the shares of the poisoned and of the clean pairs that it dropped."
DRIFT_NOTE = (
    "Drift: mean cosine distance between the embeddings of the clean and of the poisoned model."
)


@dataclass(frozen=True)
class _Measure:
    column: Column
    value: Value
    model: str
    note: str


def overview_tables(groups: Sequence[RunGroup]) -> list[Table]:
    """Make tables of what the search finds and what it costs, a row a setting; none for one setting.

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
    models = [replace(groups[place], goal=goals) for place, goals in same_runs(groups)]
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
    found: dict[tuple[int, ...], list[int]] = {}
    for place, group in enumerate(groups):
        found.setdefault(tuple(map(id, group.in_order())), []).append(place)
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
        *(
            _measure(
                f"{NAMES[model]} {short}", _change(part), model, UTILITY_NOTE, narrow=short == "IR"
            )
            for model in COMPARED[1:]
            for short, part in UTILITY.items()
        ),
        _measure("AUROC", filter_value("auroc"), note=FILTER_NOTE),
        _measure("caught", _CAUGHT, note=FILTER_NOTE),
        _measure("lost", filter_value("clean_dropped_share"), note=FILTER_NOTE, digits=4),
        *(
            _measure(f"drift of {kind}s", drift_value(kind), note=DRIFT_NOTE)
            for kind in ("text", "image")
        ),
    ]


def _measure(
    name: str,
    value: Value,
    model: str = "poisoned",
    note: str = "",
    *,
    digits: int = 3,
    narrow: bool = False,
) -> _Measure:
    return _Measure(Column(name, digits, narrow, interval=False), value, model, note)


def _change(part: Retrieval) -> Value:
    value = utility_value(part, "hit@10")

    def read(run: Metrics, goal: str, model: str) -> float | None:
        before, after = value(run, goal, "clean_model"), value(run, goal, model)
        return None if before is None or after is None else after - before

    # a share less a share
    return Value(read, (-1.0, 1.0))


_CAUGHT = Value(lambda run, *_: (run.run.filter or FilterFacts()).caught_share, SHARE)


def _table(
    groups: Sequence[RunGroup], title: str, measures: Sequence[_Measure], note: str = ""
) -> Table:
    cells = [[over_seeds(group, one.value, one.model) for one in measures] for group in groups]
    kept = [n for n in range(len(measures)) if any(row[n] is not None for row in cells)]
    common = set.intersection(*(set(group.every_part) for group in groups))
    rows: list[tuple[Cell, ...]] = [
        (_label(group.every_part, common) or group.title, len(group.runs), *(row[n] for n in kept))
        for group, row in zip(groups, cells, strict=True)
    ]
    for alike in _alike(groups):
        means = [
            _over_settings([cells[number][n] for number in alike], measures[n].value.bounds)
            for n in kept
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
    """List the groups that differ in their goal alone, where there are several."""
    found: dict[tuple[object, ...], list[int]] = {}
    for number, group in enumerate(groups):
        key = (group.recipe, group.mode, group.setting, repr(group.parameters))
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
    goal, studies = group.goal, [run.study for run in group.in_order()]
    names = {model.key: model.name for model in group.models}
    yield from _rows_table(
        goal,
        names,
        [study.queries.get(goal, {}) for study in studies],
        "where the queries come from",
        "Queries",
        lambda key: QUERIES.get(key, key),
    )
    yield from _rows_table(
        goal,
        names,
        [study.query_length.get(goal, {}) for study in studies],
        "each caption once or several times in a row",
        "Repeats",
        lambda key: f"{key}x",
        (("words", "words", 1), ("context full", "full_context", 2)),
    )
    yield from _collateral(goal, [study.collateral.get(goal, {}) for study in studies])
    yield from _distribution(names, [study.distribution for study in studies])
    yield from _transfer(goal, names, [run.transfer for run in group.in_order()])


def _keys(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    """Return the keys of several mappings, in order."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _cells(records: Iterable[Record | None], keys: Iterable[str]) -> list[Summary | None]:
    """Summarise the numbers of a record over seeds; None where no run has it."""
    present = [record for record in records if record is not None]
    cells: list[Summary | None] = []
    for key in keys:
        numbers = [number for record in present if (number := record.number(key)) is not None]
        cells.append(summarize(numbers, bounds=bounds_of(key)) if numbers else None)
    return cells


def _rows_table(
    goal: str,
    names: Mapping[str, str],
    runs: Sequence[Mapping[str, Mapping[str, GoalRow]]],
    title: str,
    what: str,
    name: Callable[[str], str],
    more: Sequence[tuple[str, str, int]] = (),
) -> Iterator[Table]:
    shown = (*_ROW, *more)
    rows: list[tuple[Cell, ...]] = []
    for model in _keys(runs):
        of_model = [run.get(model, {}) for run in runs]
        for kind in _keys(of_model):
            cells = _cells([kinds.get(kind) for kinds in of_model], [key for _, key, _ in shown])
            n = cells[0].n if cells[0] else None
            rows.append((f"{names.get(model, model)}, {name(kind)}", n, *cells))
    if rows:
        columns = (
            Column(f"Model, {what.lower()}"),
            Column("n"),
            *(Column(title, digits) for title, _, digits in shown),
        )
        yield Table(f"{goal}: {title}", columns, tuple(rows))


def _collateral(goal: str, runs: Sequence[Mapping[str, ClassChange]]) -> Iterator[Table]:
    whens = {"clean": "clean_model", "poisoned": "poisoned", "change": "change"}
    rows: list[tuple[Cell, ...]] = []
    for label in _keys(runs):
        changes = [change for run in runs if (change := run.get(label)) is not None]
        cells = [
            *_cells([change.own for change in changes], whens.values()),
            *_cells([change.target for change in changes], whens.values()),
        ]
        rows.append((label, cells[0].n if cells[0] else None, *cells))
    if rows:
        columns = (
            Column("Captions of"),
            Column("n"),
            *(
                Column(f"{kind} {when}", 2, narrow=when == "change" or kind == "target")
                for kind in ("own", "target")
                for when in whens
            ),
        )
        pair = classes(goal)
        note = (
            "Mean rank of the best image of the caption's own class, and of the best target image, under the clean and "
            "the poisoned model; a negative change is nearer to the top."
        )
        if pair:
            note += f" The attack is on {pair[0]}; every other class is a bystander."
        yield Table(f"{goal}: who else moved", columns, tuple(rows), note)


def _distribution(
    names: Mapping[str, str], runs: Sequence[Mapping[str, Silhouettes]]
) -> Iterator[Table]:
    rows: list[tuple[Cell, ...]] = []
    for model in _keys(runs):
        cells = _cells([run.get(model) for run in runs], ("text_silhouette", "image_silhouette"))
        known = [cell for cell in cells if cell is not None]
        if known:
            rows.append((names.get(model, model), known[0].n, *cells))
    if rows:
        yield Table(
            "silhouette by class",
            (Column("Model"), Column("n"), Column("texts"), Column("images")),
            tuple(rows),
            "From -1 to 1, cosine distance; higher: the classes lie further apart.",
        )


def _transfer(
    goal: str, names: Mapping[str, str], runs: Sequence[Mapping[str, TransferMeasures]]
) -> Iterator[Table]:
    columns = (Column("Model"), Column("n"), *(Column(title, digits) for title, _, digits in _ROW))
    for data in _keys(runs):
        there = [measures for run in runs if (measures := run.get(data)) is not None]
        for tested in _keys([measures.goal for measures in there]):
            rows: list[tuple[Cell, ...]] = []
            for model, name in names.items():
                found = [measures.row(tested, model) for measures in there]
                cells = _cells(found, [key for _, key, _ in _ROW])
                if cells[0] is not None:
                    rows.append((name, cells[0].n, *cells))
            yield Table(f"trained for {goal}, tested on {data}: {tested}", columns, tuple(rows))


NOTE = (
    "Mean ± standard deviation [95 % interval of the mean, Student's t] over n seeds. MinRank counts from 0. IR, TR: "
    "utility, image and text retrieval on the whole test set."
)

_EQUAL_TEXTS: Mapping[str, tuple[Column, Value]] = {
    f"{short} Hit@{k}": (
        Column(f"{short} Hit@{k}"),
        utility_value(part, f"hit@{k}", equal_texts=True),
    )
    for short, part in UTILITY.items()
    for k in (1, 5, 10)
}

_WITH_TRIGGER: Mapping[str, tuple[Column, Value]] = {
    **{
        f"Hit@{k}": (Column(f"Hit@{k}", 3), goal_value(f"hit@{k}", with_trigger=True))
        for k in (1, 5, 10)
    },
    "MinRank": (Column("MinRank", 2), goal_value("min_rank", with_trigger=True)),
}


def seed_tables(runs: Sequence[Path]) -> list[Table]:
    """Make all tables of some runs: for each setting its models, its utility where captions repeat, drift and studies.

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
    read = RunRead("metrics.json", Metrics.of(clean(value), "metrics.json"))
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
        tables.append(replace(main, of_models=True))
        if any(run.with_trigger for run in group.in_order()):
            tables.append(
                _models_table(
                    group,
                    f"{group.goal}: with the trigger on the target images",
                    _WITH_TRIGGER,
                    "The main table is of the gallery as it is. A clean model shows what the trigger does by itself.",
                )
            )
        # utility and drift are of the models and not of a goal: once for all goals of the same runs
        if goals := shared.get(place):
            if any(run.utility_equal_texts for run in group.in_order()):
                table = _models_table(
                    group,
                    f"{goals}: utility where an equal caption of another image counts as right",
                    _EQUAL_TEXTS,
                    "Utility in the other tables counts only a caption's own image and an image's own captions.",
                )
                tables.append(replace(table, detail=True))
            tables.extend(_drift_table(group, goals))
        tables.extend(study_tables(group))
    return tables


def _models_table(
    group: RunGroup, title: str, measures: Mapping[str, tuple[Column, Value]], note: str
) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for model in group.models:
        cells = [over_seeds(group, value, model.key) for _, value in measures.values()]
        known = [cell for cell in cells if cell is not None]
        if known:
            rows.append((model.name, max(cell.n for cell in known), *cells))
    columns = (Column("Model"), Column("n"), *(column for column, _ in measures.values()))
    return Table(title, columns, tuple(rows), note)


def _drift_table(group: RunGroup, goals: str) -> list[Table]:
    kinds = {"texts": "text", "images": "image"}
    values = {
        name: [run.drift.number(key) for run in group.in_order()] for name, key in kinds.items()
    }
    cells = {name: over_seeds(group, drift_value(key), "poisoned") for name, key in kinds.items()}
    if not any(cells.values()):
        return []
    rows: list[tuple[Cell, ...]] = [
        (name, cell.n if cell else None, cell) for name, cell in cells.items()
    ]
    both = [pair for pair in zip(*values.values(), strict=True) if None not in pair]
    note = "Mean cosine distance between the embeddings of the clean and of the poisoned model over the test set."
    if len(both) > 1:
        texts, images = zip(*both, strict=True)
        test = compare(images, texts)
        if test.t_p is not None:
            more = "texts" if test.mean > 0 else "images"
            note += (
                f" The {more} moved more: difference {abs(test.mean):.4f}, paired t-test, two-tailed, "
                f"p = {test.t_p:.2g} (d = {abs(test.cohen_d or 0):.2f}, Wilcoxon p = {test.wilcoxon_p:.2g}, "
                f"n = {test.n})."
            )
    return [
        Table(
            f"{goals}: drift",
            (Column("Embeddings of"), Column("n"), Column("drift", 4)),
            tuple(rows),
            note,
            of_drift=True,
            detail=True,
        )
    ]
