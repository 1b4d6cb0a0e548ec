"""The result of a model check: findings, and the facts behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class Finding(Protocol):
    """One sign of poison. Its text names the sign and how certain it is."""

    @property
    def p_value(self) -> float:
        """Probability that a clean model shows anything this unusual, in [0, 1]."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a file and for a table, the names first."""
        ...


@dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    Attributes:
        findings: All findings, the most unusual first, including insignificant ones.
        facts: Further content of the file, as plain values: what was compared with what.
        notes: Notes on how to read the findings, one line each.
    """

    findings: tuple[Finding, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def flagged(self, false_alarms: float) -> tuple[Finding, ...]:
        """Return the findings whose p-value is at most `false_alarms`."""
        return tuple(found for found in self.findings if found.p_value <= false_alarms)
