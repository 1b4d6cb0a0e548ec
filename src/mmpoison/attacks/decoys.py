"""Decoys: attack II hidden among small false groups between other classes."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from mmpoison.attacks.adaptive import (
    SECTION,
    SOURCE,
    adaptive_options,
    adaptive_settings,
)
from mmpoison.attacks.amount import MOST
from mmpoison.attacks.catalogue import ATTACKS, Kind
from mmpoison.attacks.goal import Goal
from mmpoison.attacks.injection import poison_set, poisoned_pairs
from mmpoison.attacks.pairing import Carrier, Spread
from mmpoison.attacks.settings import Settings
from mmpoison.attacks.target_labels import images_without_honest_captions, poison_labels
from mmpoison.base.option_checks import check_whole
from mmpoison.base.seeding import generator
from mmpoison.errors import InputError
from mmpoison.pairs.manifest import PoisonedPair
from mmpoison.pairs.table import PairDataset


@ATTACKS.register("decoys")
class Decoys:
    """Attack II, and small groups of false pairs between other classes that hide it.

    Against filters that ask how unusual a group of conflicting pairs is: the decoys raise what is usual. Each decoy
    puts all captions of a few images of a class C onto as many images of a class D. C is not A and D is not B, no two
    decoys have the same C and D, and no image is used twice. The manifest lists their pairs with the goal `C2D`, but
    only the attack's own goal among its goals, so decoys are not measured.

    Exactly one of `samples`, `pairs` and `share` sets the amount of the attack's own goal; the decoys are added to it.

    Args:
        goal: `A2B`, for example `sheep2aeroplane`.
        samples: Number of class-A training images whose captions are used (all captions of each).
        pairs: Number of poisoned pairs.
        share: Class-A training images whose captions are used, divided by all of them, in (0, 1].
        decoys: Number of decoys, from 1.
        decoy_samples: Images of C, and of D, in each decoy, from 1.
        spread: As for attack II; a decoy always keeps the captions of an image together.
        carrier: `own` (the default) or `existing`, as for attack II; also for the decoys.

    Raises:
        InputError: If not exactly one amount is given or a value is out of range.
    """

    name: ClassVar[str] = "decoys"
    kind: ClassVar[Kind] = "targeted"
    source: ClassVar[str] = SOURCE
    section: ClassVar[str] = SECTION
    summary: ClassVar[str] = "attack II among small false groups between other classes"

    def __init__(
        self,
        goal: str,
        samples: int | None = None,
        pairs: int | None = None,
        *,
        share: float | None = None,
        decoys: int = 20,
        decoy_samples: int = 3,
        spread: Spread | None = None,
        carrier: Carrier | None = None,
    ) -> None:
        self.goal = goal
        self.settings: Settings = adaptive_settings(
            samples=samples, pairs=pairs, share=share, spread=spread, carrier=carrier
        )
        self.decoys = check_whole("decoys", decoys, 1, MOST)
        self.decoy_samples = check_whole("decoy_samples", decoy_samples, 1, MOST)

    @property
    def options(self) -> dict[str, Any]:
        """All options, enough to build the attack again."""
        return {
            "goal": self.goal,
            **adaptive_options(self.settings),
            "decoys": self.decoys,
            "decoy_samples": self.decoy_samples,
        }

    def poison(self, pairs: PairDataset, seed: int = 0) -> PairDataset:
        """Return a poisoned copy of a clean set; its pairs of the goal are those of attack II with the same seed.

        Args:
            pairs: A clean set with labelled train and test images.
            seed: Seed of the run.

        Raises:
            InputError: As for attack II, or if the classes have too few images for so many decoys.
        """
        goal = Goal.parse(self.goal, pairs.classes)
        entries = poison_labels(pairs, [goal], self.settings, seed)
        entries += self._decoys(pairs, goal, entries, seed)
        return poison_set(
            pairs,
            entries,
            attack=self.name,
            options=self.options,
            goals=[goal],
            mode="add",
            seed=seed,
            dropped_images=images_without_honest_captions(entries, self.settings),
        )

    def _decoys(
        self, pairs: PairDataset, goal: Goal, main: list[PoisonedPair], seed: int
    ) -> list[PoisonedPair]:
        rng = generator(seed, f"attack/{self.name}/{goal}")
        train = pairs.select(split="train")
        taken = {entry.clean_image for entry in main} | {entry.poisoned_image for entry in main}
        free = {
            name: [
                int(image)
                for image in rng.permutation(pairs.images.indices(split="train", label=name))
                if pairs.images.ids[image] not in taken
            ]
            for name in pairs.classes
        }
        captioned = set(train.used_images().tolist())
        every = [
            Goal(c, d)
            for c in pairs.classes
            for d in pairs.classes
            if c != d and c != goal.original and d != goal.target
        ]
        entries: list[PoisonedPair] = []
        made = 0
        for place in rng.permutation(len(every)):
            decoy = every[place]
            sources = [image for image in free[decoy.original] if image in captioned]
            sources = sources[: self.decoy_samples]
            carriers = free[decoy.target][: self.decoy_samples]
            if made == self.decoys or min(len(sources), len(carriers)) < self.decoy_samples:
                continue
            for source, carrier in zip(sources, carriers, strict=True):
                rows = np.flatnonzero(train.source == source).astype(np.int32)
                entries += poisoned_pairs(train, rows, np.full(len(rows), carrier), decoy)
            free[decoy.original] = [i for i in free[decoy.original] if i not in sources]
            free[decoy.target] = [i for i in free[decoy.target] if i not in carriers]
            made += 1
        if made < self.decoys:
            raise InputError(
                f"goal {goal}: {self.decoys} decoys of {self.decoy_samples} images asked for, the other classes have "
                f"images for {made}: give fewer decoys or decoy_samples"
            )
        return entries
