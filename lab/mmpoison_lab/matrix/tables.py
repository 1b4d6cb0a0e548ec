"""Creates the tables of a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from textwrap import shorten
from typing import TYPE_CHECKING

from mmpoison.base import text as _text
from mmpoison.reporting import Cell, Column, Link, Table
from mmpoison.statistics import Estimate
from mmpoison_lab.matrix.published import compare_claims, interval, probability
from mmpoison_lab.matrix.records import CLEAN_MODEL, UNDEFENDED
from mmpoison_lab.matrix.summary import (
    MatrixSummary,
    RowSummary,
    difference,
    distinct,
    mean,
    mean_of,
    measured,
    of_column,
    utility_lost,
)

if TYPE_CHECKING:
    import pandas as pd

ATTACK_FAILED = "attack failed"
NOT_POSSIBLE = "not possible"

_FILTER_COLUMNS = (
    ("AUROC", "auroc"),
    ("AP", "average_precision"),
    ("at 0.1%", "recall.0.001"),
    ("at 1%", "recall.0.01"),
    ("at 2%", "recall.0.02"),
    ("at 5%", "recall.0.05"),
    ("own cut", "caught"),
    ("clean lost", "clean_lost"),
    ("goals found", "alarms"),
)


def matrix_tables(summary: MatrixSummary, *, short: bool = False) -> list[Table]:
    """Create the tables of a matrix.

    Args:
        summary: Summary of the pieces.
        short: Only attack success and each defence's effect over all attacks, to fit a terminal.

    Returns:
        First `compared_tables`, then attack success and utility.
    """
    tables = [*compared_tables(summary), success_table(summary)]
    every = summary.pooled(summary.counted())
    if not (short and len(every)):
        tables.append(utility_table(summary))
    if len(every):
        names = [c.name for c in summary.columns if mean(every, c.name) is not None]
        effects = _effect_table("All attacks that count", every, names)
        tables.append(_without_notes(effects) if short else effects)
    if short:
        return tables
    if claims := _claim_table(summary):
        tables.append(claims)
    tables += [_attack_table(summary), _column_table(summary)]
    tables += [table for table in (_filter_table(summary), _scan_table(summary)) if table.rows]
    names = [column.name for column in summary.columns]
    for row in summary.rows:
        tables += [_effect_table(row.name, row.cells, names), _piece_table(row, summary)]
    return tables


def compared_tables(summary: MatrixSummary) -> list[Table]:
    """Create the table of attack success on common goals and seeds; none if it equals `success_table`."""
    if not summary.differs or not (rows := summary.comparable):
        return []
    return [
        replace(
            success_table(summary, rows),
            title="Attack success on the same goals and seeds",
            note="On the pieces that all attacks have, the strongest attack first.",
        )
    ]


def success_table(summary: MatrixSummary, rows: Sequence[RowSummary] | None = None) -> Table:
    """Create the table of attack success, attacks against defences.

    Args:
        summary: Summary of the pieces.
        rows: Its attacks; all by default.
    """
    columns = [column.name for column in summary.defended]
    return Table(
        "Attack success after each defence",
        (Column("Attack"), Column("n"), *(Column(name, 2) for name in columns)),
        tuple(
            (
                row.name,
                len(row.measured),
                *(Link(_success(row, name), _pieces_of(row)) for name in columns),
            )
            for row in (summary.rows if rows is None else rows)
            if not row.clean
        ),
        "Share of the attacker's queries that find a target image among the first 10, or find it with the trigger. "
        f"`{UNDEFENDED}` is the poisoned model without a defence; n: its pieces (goals and seeds)."
        + (
            " The attacks were not measured on the same goals and seeds, so their means are not comparable."
            if summary.differs
            else ""
        ),
    )


def _success(row: RowSummary, column: str) -> str:
    found = of_column(row.cells, column)
    if not len(measured(found)):
        return NOT_POSSIBLE if found["note"].any() else _text.ABSENT
    if not row.counts and column not in (UNDEFENDED, CLEAN_MODEL):
        return ATTACK_FAILED
    success = mean(row.cells, column)
    return _text.ABSENT if success is None else f"{success.value:.2f}"


def _pieces_of(row: RowSummary) -> str:
    """Return the address of an attack's pieces."""
    return f"#pieces-{slug(row.name)}"


def utility_table(summary: MatrixSummary) -> Table:
    """Create the table of utility loss, attacks against defences."""
    columns = [c.name for c in summary.defended if c.name != UNDEFENDED]
    return Table(
        "Utility lost by each defence",
        (Column("Attack"), Column("n"), *(Column(name) for name in columns)),
        tuple(
            (
                row.name,
                len(row.measured),
                *(
                    Link(_signed(utility_lost(row.cells, name)), _pieces_of(row))
                    for name in columns
                ),
            )
            for row in summary.rows
        ),
        "Mean Hit@10 of image and text retrieval: the undefended model minus the defended one, by the same goals and "
        "seeds; n: pieces of the undefended one. –: not measured, or every query is a hit in both models, which cannot "
        "show a loss.",
    )


def _claim_table(summary: MatrixSummary) -> Table | None:
    compared = compare_claims(summary)
    if not compared:
        return None
    return Table(
        "What the papers of the defences claim",
        (Column("Paper"), Column("claim"), Column("here"), Column("measured"), Column("agrees if")),
        tuple(
            (
                one.source,
                one.claim,
                f"{one.verdict}: {one.reason}" if one.reason else one.verdict,
                one.measured,
                one.rule,
            )
            for one in compared
        ),
        "By the 95% interval, goals as clusters; undecided where the interval holds both answers.",
    )


def _attack_table(summary: MatrixSummary) -> Table:
    return Table(
        "The attacks",
        (
            Column("Attack"),
            Column("registered as"),
            Column("carrier"),
            Column("surrogate"),
            Column("poisoned pairs"),
            Column("of the set"),
            Column("n"),
            Column("succeeds"),
            Column("counts"),
        ),
        tuple(
            (
                row.name,
                row.attack,
                next(iter(distinct(row.cells, "carrier")), None),
                next(iter(distinct(row.cells, "surrogate")), None),
                _span(distinct(row.cells, "poisoned_pairs")),
                _share(row),
                len(row.measured),
                interval(mean(row.cells, UNDEFENDED), share=True),
                "yes" if row.counts else f"no: {ATTACK_FAILED}",
            )
            for row in summary.rows
            if not row.clean
        ),
        "Undefended, with the 95% interval over goals. The surrogate is the model that the attacker knows.",
    )


def _share(row: RowSummary) -> str | None:
    poisoned, every = (distinct(row.cells, name) for name in ("poisoned_pairs", "training_pairs"))
    return _text.percent(max(poisoned) / max(every)) if poisoned and every else None


def _column_table(summary: MatrixSummary) -> Table:
    clean, poisoned = (
        summary.pooled(row for row in summary.rows if row.clean == of_clean)
        for of_clean in (True, False)
    )
    return Table(
        "The defences",
        (
            Column("Defence"),
            Column("registered as"),
            Column("acts"),
            Column("needs"),
            Column("seconds", 1),
            Column("utility lost"),
            Column("without poison"),
            Column("pieces"),
            Column("goals"),
            Column("seeds"),
        ),
        tuple(
            (
                column.name,
                column.method,
                column.kind,
                column.cells["needs"].iloc[0] or "nothing",
                column.seconds,
                interval(utility_lost(poisoned, column.name), 3),
                interval(utility_lost(clean, column.name), 3),
                len(column.pieces),
                column.goals,
                ", ".join(map(str, column.seeds)),
            )
            for column in summary.columns
        ),
        "Seconds of the defence and its training, means over pieces; compare them within one machine only. None of "
        "them knows the goal or the trigger. Every trained model has as many optimiser steps as the undefended one: "
        "the places of dropped pairs are filled with remaining pairs. Repairs share their clean pairs and steps.",
    )


def _filter_table(summary: MatrixSummary) -> Table:
    return Table(
        "Filters",
        (
            Column("Filter"),
            Column("Attack"),
            *(Column(name, 2 if key != "clean_lost" else 4) for name, key in _FILTER_COLUMNS),
        ),
        _means(summary, "pre-training", [key for _, key in _FILTER_COLUMNS]),
        "Share of the poisoned pairs caught where a given share of the clean pairs is lost, and at the defence's own "
        "cut, with what that loses. Without poison, what is lost and found are false alarms.",
    )


def _scan_table(summary: MatrixSummary) -> Table:
    return Table(
        "Scans of the undefended model",
        (
            Column("Scan"),
            Column("Attack"),
            Column("findings at 1%", 2),
            Column("goal first", 2),
            Column("smallest p", 4),
        ),
        _means(summary, "check", ("alarms", "named", "p_value")),
    )


def _means(summary: MatrixSummary, kind: str, names: Sequence[str]) -> tuple[tuple[Cell, ...], ...]:
    """Return the rows of a table of means: defence, attack, and the given attributes."""
    lines: list[tuple[Cell, ...]] = []
    for column in summary.columns:
        for row in summary.rows if column.kind == kind else ():
            found = of_column(row.cells, column.name)
            means = [mean_of(found, name) for name in names]
            if any(mean is not None for mean in means):
                lines.append(
                    (column.name, f"{row.name} (no poison)" if row.clean else row.name, *means)
                )
    return tuple(lines)


def _effect_table(what: str, cells: pd.DataFrame, names: Sequence[str]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name in names:
        change = None if name == UNDEFENDED else difference(cells, UNDEFENDED, name)
        cost = None if name == UNDEFENDED else utility_lost(cells, name)
        rows.append(
            (
                name,
                interval(change),
                probability(change) if change else None,
                interval(mean(cells, name), share=True),
                interval(cost, 3),
                len(measured(of_column(cells, name))),
                _notes(distinct(of_column(cells, name), "note")),
            )
        )
    return Table(
        f"{what}: each defence",
        (
            Column("Defence"),
            Column("change"),
            Column(f"beats {UNDEFENDED}"),
            Column("success"),
            Column("utility lost"),
            Column("pieces"),
            Column("notes"),
        ),
        tuple(rows),
        "Means with 95% intervals, goals as clusters. Change: of success against the undefended model, by the same "
        f"goals and seeds. Beats {UNDEFENDED}: the probability that the change is below 0, by the distribution of its "
        "interval.",
    )


def _notes(notes: Sequence[str]) -> str:
    more = f" (and {len(notes) - 1} others)" if len(notes) > 1 else ""
    return shorten(notes[0], 200, placeholder=" ...") + more if notes else ""


def _without_notes(effects: Table) -> Table:
    """Say below the table, once, what its last column says of each defence."""
    notes = dict.fromkeys(str(row[-1]) for row in effects.rows if row[-1])
    rows = tuple(row[:-1] for row in effects.rows)
    return replace(effects, columns=effects.columns[:-1], rows=rows, note="\n".join(notes))


def _piece_table(row: RowSummary, summary: MatrixSummary) -> Table:
    names = [column.name for column in summary.defended]
    rows: list[tuple[Cell, ...]] = []
    for place, ((goal, seed), cells) in enumerate(row.cells.groupby(["goal", "seed"])):
        shown = cells.set_index("column").reindex(names)
        goals = next(iter(distinct(shown, "goals")), goal) or "no goal"
        anchor = "" if place else _pieces_of(row)[1:]
        found = shown["utility" if row.clean else "success"]
        numbers = [None if math.isnan(value) else value for value in found.tolist()]
        rows.append((Link(goals, anchor=anchor), int(seed), *numbers))
    what = "utility" if row.clean else "attack success"
    return Table(
        f"{row.name}: {what} of each piece",
        (Column("Goal"), Column("Seed"), *(Column(name, 3) for name in names)),
        tuple(rows),
    )


def _signed(estimate: Estimate | None) -> str:
    """Format a difference with its sign."""
    return _text.ABSENT if estimate is None else f"{estimate.value:+.3f}"


def _span(values: Sequence[int]) -> str | None:
    if not values:
        return None
    low, high = _text.count(min(values)), _text.count(max(values))
    return low if low == high else f"{low} to {high}"


def slug(name: str) -> str:
    """Convert a text to an anchor name.

    >>> slug('II own "x"')
    'ii-own-x'
    """
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
