"""Orphaned class: the captions of class A are nowhere but on images of class B."""

from __future__ import annotations

from typing import Any, ClassVar

from mmpoison.attacks.adaptive import SECTION, SOURCE, adaptive_options, adaptive_settings
from mmpoison.attacks.catalogue import ATTACKS, Kind
from mmpoison.attacks.goal import Goal
from mmpoison.attacks.injection import poison_set
from mmpoison.attacks.pairing import Carrier, Spread
from mmpoison.attacks.settings import Settings
from mmpoison.attacks.target_labels import images_without_honest_captions, poison_labels
from mmpoison.pairs.table import PairDataset


@ATTACKS.register("orphan")
class Orphan:
    """Attack II on a class A that has no clean training captions at all.

    Against filters that learn from the clean captions of A which images these go with. The attacker chooses a topic
    that the data set does not have: all clean training pairs with images of A are taken out.

    Exactly one of `samples`, `pairs` and `share` sets the amount.

    Args:
        goal: `A2B`, for example `sheep2aeroplane`.
        samples: Number of class-A training images whose captions are used (all captions of each).
        pairs: Number of poisoned pairs.
        share: Class-A training images whose captions are used, divided by all of them, in (0, 1].
        spread: As for attack II.
        carrier: `own` (the default) or `existing`, as for attack II.

    Raises:
        InputError: If not exactly one amount is given or a value is out of range.
    """

    name: ClassVar[str] = "orphan"
    kind: ClassVar[Kind] = "targeted"
    source: ClassVar[str] = SOURCE
    section: ClassVar[str] = SECTION
    summary: ClassVar[str] = "attack II where class A has no clean training captions"

    def __init__(
        self,
        goal: str,
        samples: int | None = None,
        pairs: int | None = None,
        *,
        share: float | None = None,
        spread: Spread | None = None,
        carrier: Carrier | None = None,
    ) -> None:
        self.goal = goal
        self.settings: Settings = adaptive_settings(
            samples=samples, pairs=pairs, share=share, spread=spread, carrier=carrier
        )

    @property
    def options(self) -> dict[str, Any]:
        """All options, enough to build the attack again."""
        return {"goal": self.goal, **adaptive_options(self.settings)}

    def poison(self, pairs: PairDataset, seed: int = 0) -> PairDataset:
        """Return a poisoned copy of a clean set, with the pairs that attack II makes with the same seed.

        Args:
            pairs: A clean set with labelled train and test images.
            seed: Seed of the run.

        Raises:
            InputError: As for attack II.
        """
        goal = Goal.parse(self.goal, pairs.classes)
        entries = poison_labels(pairs, [goal], self.settings, seed)
        originals = pairs.images.indices(split="train", label=goal.original)
        dropped = {str(image_id) for image_id in pairs.images.ids[originals]}
        dropped.update(images_without_honest_captions(entries, self.settings))
        return poison_set(
            pairs,
            entries,
            attack=self.name,
            options=self.options,
            goals=[goal],
            mode="add",
            seed=seed,
            dropped_images=sorted(dropped),
        )
