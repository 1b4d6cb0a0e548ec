"""The control of every attack: none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mmpoison.attacks import ATTACKS, AttackKind, poison_set
from mmpoison.errors import InputError
from mmpoison.pairs import PairDataset

NO_POISON = "no-poison"


@ATTACKS.register(NO_POISON)
@dataclass
class NoPoison:
    """Poisons nothing, to measure the costs and false alarms of defences.

    Args:
        goals: An empty list: the attack has no goals.

    Raises:
        InputError: If a goal is given.
    """

    name: ClassVar[str] = NO_POISON
    kind: ClassVar[AttackKind] = "untargeted"
    source: ClassVar[str] = "a control"
    section: ClassVar[str] = "-"
    summary: ClassVar[str] = "no poison, as a control of what defences cost"

    goals: Sequence[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.goals:
            raise InputError(f"attack {self.name!r} takes no goal, got {', '.join(self.goals)}")

    @property
    def options(self) -> dict[str, Any]:
        """Its options."""
        return {"goals": list(self.goals)}

    def poison(self, pairs: PairDataset, seed: int = 0) -> PairDataset:
        """Return the set unchanged, with the manifest of an attack that chose no pair."""
        return poison_set(
            pairs, [], attack=self.name, options=self.options, goals=[], mode="add", seed=seed
        )
