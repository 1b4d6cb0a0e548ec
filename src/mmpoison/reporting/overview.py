"""Makes the table of all settings, a row each: where does an attack or a defence work?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmpoison.records.run_files import FilterFacts, Metrics
from mmpoison.reporting.measures import (
    MEASURES,
    SHARE,
    UTILITY,
    Bounds,
    Retrieval,
    Value,
    drift_value,
    filter_value,
    over_seeds,
    utility_value,
)
from mmpoison.reporting.runs import Group
from mmpoison.reporting.summary import MODELS
from mmpoison.reporting.table import Cell, Column, Table
from mmpoison.statistics import Summary, summarize

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


def overview_tables(groups: Sequence[Group]) -> list[Table]:
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


def same_runs(groups: Sequence[Group]) -> list[tuple[int, str]]:
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
    groups: Sequence[Group], title: str, measures: Sequence[_Measure], note: str = ""
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


def _alike(groups: Sequence[Group]) -> list[list[int]]:
    """List the groups that differ in their goal alone, where there are several."""
    found: dict[tuple[object, ...], list[int]] = {}
    for number, group in enumerate(groups):
        key = (group.recipe, group.mode, group.setting, repr(group.parameters))
        found.setdefault(key, []).append(number)
    return [numbers for numbers in found.values() if len(numbers) > 1]


def _over_settings(cells: Sequence[Summary | None], bounds: Bounds) -> Summary | None:
    known = [cell.mean for cell in cells if cell is not None]
    return summarize(known, bounds=bounds) if known else None
