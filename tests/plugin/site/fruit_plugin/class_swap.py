"""Swaps two classes: captions of A on images of B, and captions of B on images of A."""

from __future__ import annotations

from typing import Any, ClassVar

from mmpoison.attacks.catalogue import ATTACKS, Kind
from mmpoison.attacks.goal import Goal
from mmpoison.attacks.injection import poison_set
from mmpoison.attacks.settings import Settings
from mmpoison.attacks.target_labels import poison_labels
from mmpoison.pairs.table import PairDataset


@ATTACKS.register("class-swap")
class ClassSwap:
    """Put captions of two classes on images of the other.

    Args:
        goal: `A2B`; `B2A` is the second goal.
        samples: Images of each class whose captions are used; or one of the other amounts.
        pairs: Poisoned pairs of each goal.
        rate: Of the whole set.
        share: Of the images of each class.
        mode: `add` or `replace`.

    Raises:
        InputError: If not exactly one amount is given or a value is out of range.
    """

    name: ClassVar[str] = "class-swap"
    kind: ClassVar[Kind] = "targeted"
    source: ClassVar[str] = "the documentation of mmpoison"
    section: ClassVar[str] = "Write an attack"
    summary: ClassVar[str] = "captions of two classes are paired with images of the other"

    def __init__(
        self,
        goal: str,
        samples: int | None = None,
        pairs: int | None = None,
        rate: float | None = None,
        share: float | None = None,
        mode: str | None = None,
    ) -> None:
        self.goal = goal
        self.settings = Settings.of(
            None, samples=samples, pairs=pairs, rate=rate, share=share, mode=mode
        )

    @property
    def options(self) -> dict[str, Any]:
        """All options, enough to build the attack again."""
        return {"goal": self.goal, **self.settings.options(without=["spread"])}

    def poison(self, pairs: PairDataset, seed: int = 0) -> PairDataset:
        """Return a poisoned copy of a clean set."""
        first = Goal.parse(self.goal, pairs.classes)  # refuses an unknown class, with a suggestion
        goals = [first, Goal(first.target, first.original)]
        return poison_set(
            pairs,
            poison_labels(pairs, goals, self.settings, seed),
            attack=self.name,
            options=self.options,
            goals=goals,
            mode=self.settings.mode,
            seed=seed,
        )
