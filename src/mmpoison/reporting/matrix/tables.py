"""Makes the tables of a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmpoison.records.matrix import CLEAN_MODEL, UNDEFENDED
from mmpoison.reporting import text as _text
from mmpoison.reporting.matrix.published import compare_claims, interval, probability
from mmpoison.reporting.matrix.summary import CellSummary, FilterSummary, MatrixSummary, RowSummary
from mmpoison.reporting.table import Cell, Column, Link, Table
from mmpoison.statistics import Estimate

ATTACK_FAILED = "attack failed"
NOT_POSSIBLE = "not possible"

_FILTER_COLUMNS = (
    ("AUROC", "auroc"),
    ("AP", "average_precision"),
    ("at 0.1%", "recall_01"),
    ("at 1%", "recall_1"),
    ("at 2%", "recall_2"),
    ("at 5%", "recall_5"),
    ("own cut", "caught"),
    ("clean lost", "clean_lost"),
    ("goals found", "alarms"),
)


def matrix_tables(summary: MatrixSummary, *, short: bool = False) -> list[Table]:
    """Make the tables of a matrix.

    Args:
        summary: Of the pieces.
        short: Only attack success, utility, and the effect of each defence over all attacks.
    """
    tables = [success_table(summary), utility_table(summary)]
    if summary.effects:
        tables.append(_effect_table("All attacks that count", summary.effects))
    if short:
        return tables
    if claims := _claim_table(summary):
        tables.append(claims)
    tables += [_attack_table(summary), _column_table(summary)]
    if summary.filters:
        tables.append(_filter_table(summary))
    if summary.scans:
        tables.append(_scan_table(summary))
    for row in summary.rows:
        tables += [_effect_table(row.name, row.cells), _piece_table(row, summary)]
    return tables


def success_table(summary: MatrixSummary) -> Table:
    """Make the table of attack success, attacks against defences."""
    columns = [column.name for column in summary.defended]
    return Table(
        "Attack success after each defence",
        (Column("Attack"), *(Column(name, 2) for name in columns)),
        tuple(
            (row.name, *(Link(_success(row, name), _pieces_of(row)) for name in columns))
            for row in summary.rows
            if not row.clean
        ),
        "Share of the attacker's queries that find a target image among the first 10, or find it with the trigger. "
        f"`{UNDEFENDED}` is the poisoned model without a defence.",
    )


def _success(row: RowSummary, column: str) -> str:
    found = row.cells.get(column)
    if found is None or not found.pieces:
        return NOT_POSSIBLE if found is not None and found.notes else _text.ABSENT
    if not row.counts and column not in (UNDEFENDED, CLEAN_MODEL):
        return ATTACK_FAILED
    return _text.ABSENT if found.success is None else f"{found.success.value:.2f}"


def _pieces_of(row: RowSummary) -> str:
    """Return the address of the pieces of an attack."""
    return f"#pieces-{slug(row.name)}"


def utility_table(summary: MatrixSummary) -> Table:
    """Make the table of the utility lost, attacks against defences."""
    columns = [c.name for c in summary.defended if c.name != UNDEFENDED]
    return Table(
        "Utility lost by each defence",
        (Column("Attack"), *(Column(name) for name in columns)),
        tuple(
            (
                row.name,
                *(Link(_signed(lost(row, name)), _pieces_of(row)) for name in columns),
            )
            for row in summary.rows
        ),
        "Mean Hit@10 of image and text retrieval: the undefended model less the defended one, by the same goals and "
        "seeds.",
    )


def lost(row: RowSummary, column: str) -> Estimate | None:
    """Return the utility lost by a defence; None where it has no number."""
    found = row.cells.get(column)
    return found.lost if found is not None else None


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
            Column("succeeds"),
            Column("counts"),
        ),
        tuple(
            (
                row.name,
                row.attack,
                row.carrier,
                row.surrogate,
                _span(row.poisoned_pairs),
                _share(row),
                interval(row.cells[UNDEFENDED].success, share=True)
                if UNDEFENDED in row.cells
                else None,
                "yes" if row.counts else f"no: {ATTACK_FAILED}",
            )
            for row in summary.rows
            if not row.clean
        ),
        "Undefended, with the 95% interval over goals. The surrogate is the model that the attacker knows.",
    )


def _share(row: RowSummary) -> str | None:
    if row.poisoned_pairs is None or row.training_pairs is None:
        return None
    return _text.percent(row.poisoned_pairs[1] / row.training_pairs[1])


def _column_table(summary: MatrixSummary) -> Table:
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
                column.needs or "nothing",
                column.seconds,
                interval(column.lost, 3),
                interval(column.lost_clean, 3),
                len(column.pieces),
                column.goals,
                ", ".join(map(str, column.seeds)),
            )
            for column in summary.columns
        ),
        "Seconds of the defence and its training, means over pieces; compare them within one machine only. None of "
        "them knows the goal or the trigger. Every trained model has as many optimiser steps as the undefended one: "
        "the places of dropped pairs are filled with pairs that stayed. Repairs share their clean pairs and steps.",
    )


def _filter_table(summary: MatrixSummary) -> Table:
    return Table(
        "Filters",
        (
            Column("Filter"),
            Column("Attack"),
            *(Column(name, 2 if key != "clean_lost" else 4) for name, key in _FILTER_COLUMNS),
        ),
        _means(summary, summary.filters, [key for _, key in _FILTER_COLUMNS]),
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
        _means(summary, summary.scans, ("alarms", "named", "p_value")),
    )


def _means(
    summary: MatrixSummary, means: Sequence[FilterSummary], keys: Sequence[str]
) -> tuple[tuple[Cell, ...], ...]:
    """Return the rows of a table of means: defence, attack, and the numbers with these keys."""
    return tuple(
        (
            one.column,
            f"{one.row} (no poison)" if one.row in summary.unpoisoned else one.row,
            *(one.numbers[key] for key in keys),
        )
        for one in means
    )


def _effect_table(what: str, cells: Mapping[str, CellSummary]) -> Table:
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
        tuple(
            (
                name,
                None if name == UNDEFENDED else interval(cell.change),
                probability(cell.change) if cell.change and name != UNDEFENDED else None,
                interval(cell.success, share=True),
                None if name == UNDEFENDED else interval(cell.lost, 3),
                cell.pieces,
                _notes(cell),
            )
            for name, cell in cells.items()
        ),
        "Means with 95% intervals, goals as clusters. Change: of success against the undefended model, by the same "
        f"goals and seeds. Beats {UNDEFENDED}: the probability that the change is below 0, by the distribution of its "
        "interval.",
    )


def _notes(cell: CellSummary) -> str:
    more = f" (and {len(cell.notes) - 1} others)" if len(cell.notes) > 1 else ""
    return f"{cell.notes[0][:160]}{more}" if cell.notes else ""


def _piece_table(row: RowSummary, summary: MatrixSummary) -> Table:
    names = [column.name for column in summary.defended]
    rows: list[tuple[Cell, ...]] = []
    for place, ((goal, seed), cells) in enumerate(row.pieces.items()):
        shown = [cells[name] for name in names if name in cells]
        goals = next((cell.goals for cell in shown if cell.goals), goal) or "no goal"
        anchor = "" if place else _pieces_of(row)[1:]
        found = [cells[name].success if name in cells else None for name in names]
        if row.clean:
            found = [cells[name].utility if name in cells else None for name in names]
        rows.append((Link(goals, anchor=anchor), seed, *found))
    what = "utility" if row.clean else "attack success"
    return Table(
        f"{row.name}: {what} of each piece",
        (Column("Goal"), Column("Seed"), *(Column(name, 3) for name in names)),
        tuple(rows),
    )


def _signed(estimate: Estimate | None) -> str:
    """Write a difference with its sign."""
    return _text.ABSENT if estimate is None else f"{estimate.value:+.3f}"


def _span(ends: tuple[int, int] | None) -> str | None:
    if ends is None:
        return None
    low, high = map(_text.count, ends)
    return low if low == high else f"{low} to {high}"


def slug(name: str) -> str:
    """Make a name of an anchor.

    >>> slug('II own "x"')
    'ii-own-x'
    """
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
