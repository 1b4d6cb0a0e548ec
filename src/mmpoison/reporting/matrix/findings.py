"""Says in sentences what a matrix shows; every sentence has its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mmpoison.base.phrasing import count_of
from mmpoison.records.matrix import CLEAN_MODEL, UNDEFENDED
from mmpoison.reporting.matrix.pooled import (
    Pooled,
    above,
    at_most,
    below,
    counted,
    defences,
    interval,
    probability,
    share,
    utility,
)
from mmpoison.reporting.matrix.summary import ColumnSummary, MatrixSummary, RowSummary
from mmpoison.statistics import Estimate

CLOSE = 0.05
"""An attack is stopped where its success is above that of the clean model by less than this, at the interval's end."""

COST = 0.005
"""Smaller losses of utility are not named."""

OURS = "suspicious-groups"


def findings(summary: MatrixSummary) -> list[str]:
    """Write what a matrix shows: which defences stop what, what they cost, and which attacks get through.

    Args:
        summary: Of the pieces.

    Returns:
        Up to ten sentences; none where no attack takes.
    """
    plain, triggers = (counted(summary, with_trigger=shown) for shown in (False, True))
    chosen = defences(summary)
    if not (plain or triggers) or not chosen:
        return []
    every = Pooled.of([*plain, *triggers])
    said = [
        _takes(plain, "without a trigger"),
        _takes(triggers, "with a trigger"),
        _stopped(plain, chosen, "Without a trigger"),
        _not_shown(plain, chosen, "Without a trigger"),
        _stopped(triggers, chosen, "With a trigger"),
        _not_shown(triggers, chosen, "With a trigger"),
        _costs(every, chosen),
        _ours(every, chosen),
        _gets_through([*plain, *triggers], chosen),
        _false_alarms(summary),
    ]
    return [sentence for sentence in said if sentence]


def _takes(rows: Sequence[RowSummary], kind: str) -> str:
    if not rows:
        return f"No attack {kind} takes here."
    pooled = Pooled.of(rows)
    before, clean = pooled.mean(UNDEFENDED), pooled.mean(CLEAN_MODEL)
    attacks = count_of(len(rows), "attack")
    verb = "takes" if len(rows) == 1 else "take"
    return (
        f"{attacks} {kind} {verb}: undefended, {share(before)} of the attacker's queries succeed; "
        f"under the clean model, {share(clean)}."
    )


def _stopped(rows: Sequence[RowSummary], chosen: Sequence[ColumnSummary], what: str) -> str:
    if not rows:
        return ""
    pooled = Pooled.of(rows)
    excess = _differences(pooled, CLEAN_MODEL, chosen)
    names = _listed(
        f"{name} ({share(pooled.mean(name))})" for name, e in excess.items() if at_most(e, CLOSE)
    )
    if not names:
        return f"{what}, no defence comes within {CLOSE} of the clean model (at the end of its 95% interval)."
    return f"{what}, these come within {CLOSE} of the clean model (at the end of the 95% interval): {names}."


def _not_shown(rows: Sequence[RowSummary], chosen: Sequence[ColumnSummary], what: str) -> str:
    """Name the defences whose change has an interval with 0 in it: what they do is open, not nothing."""
    changes = _differences(Pooled.of(rows), UNDEFENDED, chosen)
    names = _listed(
        f"{name} {interval(change)} ({probability(change)})"
        for name, change in changes.items()
        if not below(change, 0)
    )
    said = f"{what}, it is open whether these beat `{UNDEFENDED}` (change of success, probability that it is below 0)"
    return f"{said}: {names}." if names else ""


def _costs(pooled: Pooled, chosen: Sequence[ColumnSummary]) -> str:
    costly: list[str] = []
    more: list[str] = []
    for column in chosen:
        lost = pooled.difference(column.name, UNDEFENDED, utility)
        if lost is None or lost.value < COST or not above(lost, 0):
            continue
        costly.append(f"{column.name} {interval(lost, 3)}")
        saved = pooled.difference(column.name, UNDEFENDED)
        if saved is not None and saved.value < lost.value:
            more.append(column.name)
    if not costly:
        return f"No defence costs {COST} of utility or more."
    last = f"; it is more than the attack loses for {_listed(more)}" if more else ""
    return f"Utility is lost by {_listed(costly)}{last}."


def _ours(pooled: Pooled, chosen: Sequence[ColumnSummary]) -> str:
    own = next((column.name for column in chosen if column.method == OURS), None)
    if own is None:
        return ""
    changes = _differences(pooled, own, [column for column in chosen if column.name != own])
    less = _listed(f"{name} ({probability(d)})" for name, d in changes.items() if d.value < 0)
    left = f"{own} leaves {share(pooled.mean(own))}"
    return (
        f"{left}; less is left, with this probability, by {less}."
        if less
        else f"{left}, the least."
    )


def _gets_through(rows: Sequence[RowSummary], chosen: Sequence[ColumnSummary]) -> str:
    found: list[tuple[float, str]] = []
    for row in rows:
        pooled = Pooled.of([row])
        left = [(mean.value, c.name) for c in chosen if (mean := pooled.mean(c.name)) is not None]
        clean = pooled.mean(CLEAN_MODEL)
        if left and clean is not None:
            least, name = min(left)
            text = (
                f"{row.name}, which keeps {least:.2f} after {name} (clean model: {clean.value:.2f})"
            )
            found.append((least - clean.value, text))
    if not found:
        return ""
    most, text = max(found)
    if most < CLOSE:
        return f"For every attack some defence comes within {CLOSE} of the clean model on average."
    return f"The attack that gets through most is {text}."


def _false_alarms(summary: MatrixSummary) -> str:
    chosen = {column.name for column in defences(summary)}
    lost = {
        one.column: value
        for one in summary.filters
        if one.row in summary.unpoisoned
        and one.column in chosen
        and (value := one.numbers.get("clean_lost")) is not None
    }
    if not lost:
        return ""
    drops = _listed(f"{name} {value:.1%}" for name, value in lost.items())
    return f"Without any poison, the filters drop at their own cut: {drops}."


def _differences(
    pooled: Pooled, first: str, columns: Sequence[ColumnSummary]
) -> dict[str, Estimate]:
    """Return how much more success each column leaves than the first, where they have pieces in common."""
    found = {column.name: pooled.difference(first, column.name) for column in columns}
    return {name: difference for name, difference in found.items() if difference is not None}


def _listed(names: Iterable[str]) -> str:
    *first, last = [*names] or [""]
    return f"{', '.join(first)} and {last}" if first else last
