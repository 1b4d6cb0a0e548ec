"""Self-vouched images: a large share of class B carries captions of A and nothing else."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from mmpoison.attacks.adaptive import SECTION, SOURCE, adaptive_settings
from mmpoison.attacks.amount import captions_of, sample_count
from mmpoison.attacks.catalogue import ATTACKS, Kind
from mmpoison.attacks.goal import Goal
from mmpoison.attacks.injection import poison_set, poisoned_pairs
from mmpoison.attacks.target_labels import (
    images_without_honest_captions,
    require_clean_set,
    target_images,
)
from mmpoison.base.seeding import generator
from mmpoison.pairs.table import PairDataset


@ATTACKS.register("self-vouched")
class SelfVouched:
    """Gives a share of the images of class B all captions of one image of class A each, and nothing else.

    Against filters that ask the other captions of an image, or images of its kind: the false captions of an image agree
    with each other, and many images of B carry them. The images stand for the attacker's own (carrier `own`). The
    images of A are used in turn if they are fewer.

    Exactly one of `samples` and `share` sets the amount.

    Args:
        goal: `A2B`, for example `sheep2aeroplane`.
        samples: Number of training images of B that carry captions of A.
        share: Training images of B that carry captions of A, divided by all of them, in (0, 1], for example 0.25.

    Raises:
        InputError: If not exactly one amount is given or it is out of range.
    """

    name: ClassVar[str] = "self-vouched"
    kind: ClassVar[Kind] = "targeted"
    source: ClassVar[str] = SOURCE
    section: ClassVar[str] = SECTION
    summary: ClassVar[str] = "a share of the images of class B carries captions of class A only"

    def __init__(self, goal: str, samples: int | None = None, *, share: float | None = None):
        self.goal = goal
        self.settings = adaptive_settings(samples=samples, share=share)

    @property
    def options(self) -> dict[str, Any]:
        """All options, enough to build the attack again."""
        return {"goal": self.goal, **self.settings.amount.option}

    def poison(self, pairs: PairDataset, seed: int = 0) -> PairDataset:
        """Return a poisoned copy of a clean set.

        Args:
            pairs: A clean set with labelled train and test images.
            seed: Seed of the run; draws the images of both classes.

        Raises:
            InputError: If the set is poisoned already, a class is unknown or has no train image, the target has no test
                image, or it has fewer train images than requested.
        """
        goal = Goal.parse(self.goal, pairs.classes)
        require_clean_set(pairs)
        targets = target_images(pairs, goal)
        train = pairs.select(split="train")
        count = sample_count(self.settings.amount, goal, goal.target, len(targets))
        rng = generator(seed, f"attack/{self.name}/{goal}")
        carriers = rng.permutation(targets)[:count]
        rows = captions_of(train, goal)
        sources = np.resize(rng.permutation(np.unique(train.source[rows])), len(carriers))
        own = [rows[train.source[rows] == source] for source in sources]
        image = np.repeat(carriers, [len(captions) for captions in own])
        entries = poisoned_pairs(train, np.concatenate(own), image, goal)
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
