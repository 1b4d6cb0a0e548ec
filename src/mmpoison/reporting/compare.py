"""Compares two settings or two models, paired by seed, with significance tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmpoison.base.registry import unknown_name
from mmpoison.errors import InputError
from mmpoison.reporting.results import Results, paired
from mmpoison.reporting.seeds import MEASURES, RunGroup, group_runs
from mmpoison.reporting.summary import MODELS
from mmpoison.reporting.table import Cell, Column, Table
from mmpoison.statistics import summarize

COLUMNS = (
    Column("Measure"),
    Column("n"),
    Column("first"),
    Column("second"),
    Column("difference"),
    Column("95% interval"),
    Column("t p", 4),
    Column("Wilcoxon p", 4),
    Column("d", 2, narrow=False),
    Column("r", 2, narrow=False),
)
NOTE = (
    "Difference: second minus first, paired by seed. p: two-tailed, paired t-test and Wilcoxon signed-rank test, not "
    "corrected for the number of rows; with n seeds the smallest Wilcoxon p is 2 / 2^n (0.0625 for five). d: Cohen's "
    "d_z of the differences; r: matched-pairs rank-biserial correlation."
)


def compare_runs(first: Sequence[Path], second: Sequence[Path]) -> list[Table]:
    """Compare two settings, paired by seed: one table per model, and one for drift.

    Args:
        first: Run folders of the first setting, or folders that contain them.
        second: The same for the second setting.

    Raises:
        InputError: If a side has several settings of one goal, or both share no seed or no goal.
            With one setting on each side, the goals may differ.
    """
    tables: list[Table] = []
    for one, other in _pair_groups(group_runs(first), group_runs(second)):
        if not set(one.runs) & set(other.runs):
            raise InputError(
                f"{one.title} and {other.title} have no seed in common, so they cannot be paired"
            )
        title = f"first: {one.title}; second: {other.title}"
        for model in MODELS:
            sides = [group.results.where(model=model.key) for group in (one, other)]
            if rows := _rows(sides[0], sides[1], MEASURED):
                tables.append(Table(f"{model.name}. {title}", COLUMNS, rows, NOTE))
        if drift := _rows(one.results.where(), other.results.where(), DRIFT):
            tables.append(Table(f"Drift. {title}", COLUMNS, drift, NOTE))
    return tables


def compare_models(runs: Sequence[Path], first: str, second: str) -> list[Table]:
    """Compare two models of the same runs, paired by seed: one table per setting.

    Args:
        runs: Run folders, or folders that contain them.
        first: Key of the first model in metrics.json, e.g. `clean_model`.
        second: Key of the second model.

    Raises:
        InputError: If a key is unknown, or no run measured both models.
    """
    names = {model.key: model.name for model in MODELS}
    for key in (first, second):
        if key not in names:
            raise InputError(f"--models: {unknown_name('model', key, list(names))}")
    tables: list[Table] = []
    for group in group_runs(runs):
        sides = [group.results.where(model=model) for model in (first, second)]
        if rows := _rows(sides[0], sides[1], MEASURED):
            title = f"first: {names[first]}; second: {names[second]}. {group.title}"
            tables.append(Table(title, COLUMNS, rows, NOTE))
    if not tables:
        raise InputError(f"--models: none of the runs measured both {first} and {second}")
    return tables


def _pair_groups(first: list[RunGroup], second: list[RunGroup]) -> list[tuple[RunGroup, RunGroup]]:
    if len(first) == len(second) == 1:
        return [(first[0], second[0])]
    by_goal = []
    for side, groups in (("runs", first), ("--against", second)):
        goals = [group.goal for group in groups]
        if len(set(goals)) < len(goals):
            several = ", ".join(sorted(set(goals)))
            raise InputError(
                f"{side}: several settings of one goal ({several}): give the runs of one setting"
            )
        by_goal.append({group.goal: group for group in groups})
    common = [goal for goal in by_goal[0] if goal in by_goal[1]]
    if not common:
        raise InputError("the runs and those of --against have no goal in common")
    return [(by_goal[0][goal], by_goal[1][goal]) for goal in common]


MEASURED = {name: column for name, (_, column) in MEASURES.items()}
DRIFT = {"drift of texts": "drift.text", "drift of images": "drift.image"}


def _rows(
    first: Results, second: Results, measures: Mapping[str, str]
) -> tuple[tuple[Cell, ...], ...]:
    """Return one row per measure that both sides have."""
    rows: list[tuple[Cell, ...]] = []
    for name, column in measures.items():
        test = paired(first, second, column)
        if test is None:
            continue
        sides = [side.over_seeds(column) for side in (first, second)]
        common = sides[0].keys() & sides[1].keys()
        means = (summarize([side[seed] for seed in sorted(common)]).mean for side in sides)
        ends = None if test.low is None or test.high is None else (test.low, test.high)
        effects = (test.t_p, test.wilcoxon_p, test.cohen_d, test.rank_biserial)
        rows.append((name, test.n, *means, test.mean, ends, *effects))
    return tuple(rows)
