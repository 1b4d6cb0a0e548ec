"""The attackers that `suspected_goals.py` measures: the paper's, with either carrier, and those who know the filter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Attacker:
    """One attacker.

    Attributes:
        name: As in the table.
        attack: Its registered name.
        options: Of the attack, but its goals.
        goals: How many goals it has at once, to one target class.
        near: Whether its target is one of the classes nearest to the original one.
        single: Whether the set has one caption an image.
    """

    name: str
    attack: str
    options: Mapping[str, Any]
    goals: int = 1
    near: bool = False
    single: bool = False


IMAGE, LABEL, LABELS = "single-target-image", "single-target-label", "multiple-target-labels"
GRID = "under-the-grid"
CARRIERS = ("existing", "own")
MANY = {"samples": 25}
ONE_EACH = ", one caption an image"

ATTACKERS = (
    *(Attacker(f"I {mode}", IMAGE, {**MANY, "mode": mode}) for mode in ("add", "replace")),
    *(
        Attacker(f"II {carrier} {samples}", LABEL, {"samples": samples, "carrier": carrier})
        for carrier in CARRIERS
        for samples in (25, 10, 5)
    ),
    Attacker("II existing 25, samples", LABEL, {**MANY, "spread": "samples"}),
    *(
        Attacker(
            f"II {carrier} 25, replace", LABEL, {**MANY, "mode": "replace", "carrier": carrier}
        )
        for carrier in CARRIERS
    ),
    *(
        Attacker(f"III {carrier} 2 x 25", LABELS, {**MANY, "carrier": carrier}, goals=2)
        for carrier in CARRIERS
    ),
    *(
        Attacker(f"II {carrier} 25{ONE_EACH}", LABEL, {**MANY, "carrier": carrier}, single=True)
        for carrier in CARRIERS
    ),
    *(
        Attacker(f"self-vouched {share:.0%}", "self-vouched", {"share": share})
        for share in (0.1, 0.25, 0.5)
    ),
    Attacker("nearest-assigned", "nearest-assigned", MANY, near=True),
    Attacker("nearest-assigned, all seen", "nearest-assigned", {**MANY, "unseen": 1}, near=True),
    *(
        Attacker(f"{GRID}, {cell} a cell", GRID, {"samples": 5, "per_cell": cell}, goals=8)
        for cell in (1, 2, 3)
    ),
    *(Attacker(name, name, MANY) for name in ("nearest-goal", "both-names", "decoys", "orphan")),
)
