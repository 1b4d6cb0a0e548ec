"""Makes tables of several runs: mean, standard deviation, 95% interval and n over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from mmpoison.records.run_files import Metrics
from mmpoison.reporting.measures import (
    MEASURES,
    UTILITY,
    Value,
    drift_value,
    goal_value,
    over_seeds,
    utility_value,
)
from mmpoison.reporting.overview import overview_tables, same_runs
from mmpoison.reporting.runs import Group, RunRead, group_metrics, group_runs
from mmpoison.reporting.study import study_tables
from mmpoison.reporting.table import Cell, Column, Table, markdown
from mmpoison.reporting.terminal_tables import first_tables, terminal
from mmpoison.reporting.text import clean
from mmpoison.statistics import compare

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


def group_tables(groups: Sequence[Group]) -> list[Table]:
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
    group: Group, title: str, measures: Mapping[str, tuple[Column, Value]], note: str
) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for model in group.models:
        cells = [over_seeds(group, value, model.key) for _, value in measures.values()]
        known = [cell for cell in cells if cell is not None]
        if known:
            rows.append((model.name, max(cell.n for cell in known), *cells))
    columns = (Column("Model"), Column("n"), *(column for column, _ in measures.values()))
    return Table(title, columns, tuple(rows), note)


def _drift_table(group: Group, goals: str) -> list[Table]:
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


def summary_table(runs: Sequence[Path], *, whole: bool = False) -> RenderableType:
    """Draw `seed_tables` for the terminal.

    Args:
        runs: Finished run folders, or folders of them.
        whole: Draw every table and column, and intervals too.
    """
    tables = seed_tables(runs)
    return terminal(tables if whole else first_tables(tables), whole=whole)


def summary_markdown(runs: Sequence[Path]) -> str:
    """Write `seed_tables` as Markdown."""
    return markdown(seed_tables(runs))


def summary_json(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """Return `seed_tables` as plain JSON values."""
    return [table.to_json() for table in seed_tables(runs)]
