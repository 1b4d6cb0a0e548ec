"""Several settings side by side: one row each, for those who want to see at once where an attack or defence works."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mmpoison.reporting._runs import Group, Metrics, number_at
from mmpoison.reporting._summary import MODELS
from mmpoison.reporting._table import Cell, Column, Table
from mmpoison.statistics import Summary, summarize

COMPARED = ("clean_model", "poisoned", "filtered", "sterilized")
CHANGED = COMPARED[1:]
UTILITY = {"IR": "image_retrieval", "TR": "text_retrieval"}
UTILITY_NOTE = (
    "IR, TR: Hit@10 of image and text retrieval less that of the clean model of the same seed."
)
FILTER_NOTE = "AUROC, caught, lost: of the filter; the shares of the poisoned and of the clean pairs that it dropped."
DRIFT_NOTE = (
    "Drift: mean cosine distance between the embeddings of the clean and of the poisoned model."
)

Value = Callable[[Metrics, str], float | None]


@dataclass(frozen=True)
class _Measure:
    column: Column
    value: Value
    note: str = ""


def overview_tables(groups: Sequence[Group]) -> list[Table]:
    """What the search finds and what it costs, a row a setting; nothing for one setting.

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
        _table(groups, "All settings: what it costs", _costs()),
    ]
    return [table for table in tables if len(table.columns) > 2]


def _found() -> list[_Measure]:
    names = {model.key: model.name for model in MODELS}
    return [
        _Measure(
            Column(f"{names[model]} {label}", digits, narrow, interval=False),
            lambda run, goal, model=model, key=key: number_at(run, "goal", goal, model, key),  # type: ignore[misc]
        )
        for label, key, digits, narrow in (("Hit@10", "hit@10", 3, True), ("MinRank", "min_rank", 1, False))
        for model in COMPARED
    ]  # fmt: skip


def _costs() -> list[_Measure]:
    names = {model.key: model.name for model in MODELS}
    measures = [
        _Measure(
            Column(f"{names[model]} {short}", 3, narrow=short == "IR", interval=False),
            lambda run, _, model=model, part=part: _change(run, model, part),  # type: ignore[misc]
            UTILITY_NOTE,
        )
        for model in CHANGED
        for short, part in UTILITY.items()
    ]
    return [
        *measures,
        _Measure(
            Column("AUROC", 3, narrow=False, interval=False),
            lambda run, _: number_at(run, "run", "filter", "auroc"),
            FILTER_NOTE,
        ),
        _Measure(Column("caught", 3, narrow=False, interval=False), _caught, FILTER_NOTE),
        _Measure(
            Column("lost", 4, narrow=False, interval=False),
            lambda run, _: number_at(run, "run", "filter", "clean_dropped_share"),
            FILTER_NOTE,
        ),
        *(
            _Measure(
                Column(f"drift of {kind}s", 3, narrow=False, interval=False),
                lambda run, _, kind=kind: number_at(run, "drift", kind),  # type: ignore[misc]
                DRIFT_NOTE,
            )
            for kind in ("text", "image")
        ),
    ]


def _change(run: Metrics, model: str, part: str) -> float | None:
    before, after = (
        number_at(run, "utility", which, part, "hit@10") for which in ("clean_model", model)
    )
    return None if before is None or after is None else after - before


def _caught(run: Metrics, _: str) -> float | None:
    caught, total = (
        number_at(run, "run", "filter", key) for key in ("poisoned_caught", "poisoned_total")
    )
    return caught / total if caught is not None and total else None


def _table(
    groups: Sequence[Group], title: str, measures: Sequence[_Measure], note: str = ""
) -> Table:
    cells = [[_over_seeds(group, measure.value) for measure in measures] for group in groups]
    kept = [n for n in range(len(measures)) if any(row[n] is not None for row in cells)]
    common = set.intersection(*(set(group.every_part) for group in groups))
    rows: list[tuple[Cell, ...]] = [
        (_label(group.every_part, common) or group.title, len(group.runs), *(row[n] for n in kept))
        for group, row in zip(groups, cells, strict=True)
    ]
    for alike in _alike(groups):
        means = [_over_settings([cells[number][n] for number in alike]) for n in kept]
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
    """Numbers of the groups that differ in their goal alone, where there are several."""
    found: dict[tuple[object, ...], list[int]] = {}
    for number, group in enumerate(groups):
        key = (group.recipe, group.mode, group.setting, group.knobs)
        found.setdefault(key, []).append(number)
    return [numbers for numbers in found.values() if len(numbers) > 1]


def _over_seeds(group: Group, value: Value) -> Summary | None:
    return group.over_seeds(lambda run: value(run, group.goal))


def _over_settings(cells: Sequence[Summary | None]) -> Summary | None:
    known = [cell.mean for cell in cells if cell is not None]
    return summarize(known) if known else None
