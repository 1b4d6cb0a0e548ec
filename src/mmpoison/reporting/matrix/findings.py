"""Says in sentences what a matrix shows; every sentence has its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

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
    share,
    utility,
)
from mmpoison.reporting.matrix.summary import ColumnSummary, MatrixSummary, RowSummary

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
        _no_effect(plain, chosen, "Without a trigger"),
        _stopped(triggers, chosen, "With a trigger"),
        _triggers_only(plain, triggers, chosen),
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
    names = _with_mean(
        pooled, chosen, lambda name: at_most(pooled.difference(CLEAN_MODEL, name), CLOSE)
    )
    if not names:
        return f"{what}, no defence comes within {CLOSE} of the clean model (at the end of its 95% interval)."
    return f"{what}, these come within {CLOSE} of the clean model (at the end of the 95% interval): {names}."


def _no_effect(rows: Sequence[RowSummary], chosen: Sequence[ColumnSummary], what: str) -> str:
    if not rows:
        return ""
    pooled = Pooled.of(rows)
    names = _with_mean(pooled, chosen, lambda name: not _helps(pooled, name))
    return (
        f"{what}, no effect is certain of: {names}." if names else f"{what}, every defence helps."
    )


def _triggers_only(
    plain: Sequence[RowSummary], triggers: Sequence[RowSummary], chosen: Sequence[ColumnSummary]
) -> str:
    if not plain or not triggers:
        return ""
    one, other = Pooled.of(plain), Pooled.of(triggers)
    names = _with_mean(other, chosen, lambda name: _helps(other, name) and not _helps(one, name))
    if not names:
        return "No defence helps against triggers alone."
    return f"Only against triggers help: {names}."


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
    others = [column for column in chosen if column.name != own]
    better = _with_mean(pooled, others, lambda name: below(pooled.difference(own, name), 0))
    worse = sum(above(pooled.difference(own, column.name), 0) for column in others)
    beaten = f"it is beaten by {better}" if better else "no defence beats it"
    return (
        f"{own} leaves {share(pooled.mean(own))}: {beaten}, and it beats {worse} of {len(others)} "
        "(paired differences)."
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


def _helps(pooled: Pooled, name: str) -> bool:
    return below(pooled.difference(UNDEFENDED, name), 0)


def _with_mean(
    pooled: Pooled, columns: Sequence[ColumnSummary], chosen: Callable[[str], bool]
) -> str:
    """List the chosen columns that have numbers, with the attack's success, the smallest first."""
    known = [
        (mean.value, column.name)
        for column in columns
        if (mean := pooled.mean(column.name)) is not None and chosen(column.name)
    ]
    return _listed(f"{name} ({value:.2f})" for value, name in sorted(known))


def _listed(names: Iterable[str]) -> str:
    *first, last = [*names] or [""]
    return f"{', '.join(first)} and {last}" if first else last
