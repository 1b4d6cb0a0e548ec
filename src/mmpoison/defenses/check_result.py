"""The result of a check of a model: findings, and what they are based on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class Finding(Protocol):
    """One sign of poison; its text says what it is and how sure it is."""

    @property
    def p_value(self) -> float:
        """Chance that a clean model shows anything as unusual, in [0, 1]."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a file and for a table, the names first."""
        ...


@dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    Attributes:
        findings: The most unusual first, also those that are usual enough.
        facts: What else the file says, as plain values: what was compared with what.
        notes: What a person must know to read them, a line each.
    """

    findings: tuple[Finding, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def flagged(self, false_alarms: float) -> tuple[Finding, ...]:
        """Return the findings that clean models show at most that often."""
        return tuple(found for found in self.findings if found.p_value <= false_alarms)
