"""Creates the tables of a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mmpoison.reporting import Cell, Column, Link, Table
from mmpoison.reporting import text as _text
from mmpoison.statistics import Estimate
from mmpoison_lab.matrix.published import compare_claims, interval, probability
from mmpoison_lab.matrix.records import CLEAN_MODEL, UNDEFENDED, MatrixCell
from mmpoison_lab.matrix.summary import MatrixSummary, Pieces, RowSummary, has_numbers

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
    if not (short and every.cells):
        tables.append(utility_table(summary))
    if every.cells:
        names = [c.name for c in summary.columns if every.mean(c.name) is not None]
        effects = _effect_table("All attacks that count", every, names)
        tables.append(replace(effects, note="") if short else effects)
    if short:
        return tables
    if claims := _claim_table(summary):
        tables.append(claims)
    tables += [_attack_table(summary), _column_table(summary)]
    tables += [table for table in (_filter_table(summary), _scan_table(summary)) if table.rows]
    names = [column.name for column in summary.columns]
    for row in summary.rows:
        tables += [_effect_table(row.name, row.pieces, names), _piece_table(row, summary)]
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
    found = row.pieces.every(column)
    if not any(map(has_numbers, found)):
        return NOT_POSSIBLE if any(cell.note for cell in found) else _text.ABSENT
    if not row.counts and column not in (UNDEFENDED, CLEAN_MODEL):
        return ATTACK_FAILED
    mean = row.pieces.mean(column)
    return _text.ABSENT if mean is None else f"{mean.value:.2f}"


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
                    Link(_signed(row.pieces.utility_lost(name)), _pieces_of(row))
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
                next(iter(row.pieces.values("carrier")), None),
                next(iter(row.pieces.values("surrogate")), None),
                _span(row.pieces.values("poisoned_pairs")),
                _share(row),
                len(row.measured),
                interval(row.pieces.mean(UNDEFENDED), share=True),
                "yes" if row.counts else f"no: {ATTACK_FAILED}",
            )
            for row in summary.rows
            if not row.clean
        ),
        "Undefended, with the 95% interval over goals. The surrogate is the model that the attacker knows.",
    )


def _share(row: RowSummary) -> str | None:
    poisoned, every = (row.pieces.values(name) for name in ("poisoned_pairs", "training_pairs"))
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
                column.cells[0].needs or "nothing",
                column.seconds,
                interval(poisoned.utility_lost(column.name), 3),
                interval(clean.utility_lost(column.name), 3),
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
    found: list[tuple[Cell, ...]] = []
    for column in summary.columns:
        for row in summary.rows if column.kind == kind else ():
            means = [mean_of(row.pieces.every(column.name), name) for name in names]
            if any(mean is not None for mean in means):
                found.append(
                    (column.name, f"{row.name} (no poison)" if row.clean else row.name, *means)
                )
    return tuple(found)


def mean_of(cells: Sequence[MatrixCell], name: str) -> float | None:
    """Return the mean of an attribute or one of its keys (`recall.0.01`); None if all lack it."""
    name, _, loss = name.partition(".")
    found = (getattr(cell, name) for cell in cells)
    if loss:
        found = (None if recall is None else recall.get(loss) for recall in found)
    known = [float(value) for value in found if value is not None]
    return sum(known) / len(known) if known else None


def _effect_table(what: str, pieces: Pieces, names: Sequence[str]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name in names:
        change = None if name == UNDEFENDED else pieces.difference(UNDEFENDED, name)
        cost = None if name == UNDEFENDED else pieces.utility_lost(name)
        rows.append(
            (
                name,
                interval(change),
                probability(change) if change else None,
                interval(pieces.mean(name), share=True),
                interval(cost, 3),
                sum(map(has_numbers, pieces.every(name))),
                _notes(pieces.values("note", name)),
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
    return f"{notes[0][:160]}{more}" if notes else ""


def _piece_table(row: RowSummary, summary: MatrixSummary) -> Table:
    names = [column.name for column in summary.defended]
    rows: list[tuple[Cell, ...]] = []
    for place, ((_, goal, seed), cells) in enumerate(sorted(row.pieces.cells.items())):
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
