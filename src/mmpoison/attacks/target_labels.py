"""What attacks II and III share: captions of one class get training images of another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmpoison.attacks.amount import choose_captions
from mmpoison.attacks.goal import Goal
from mmpoison.attacks.injection import poisoned_pairs
from mmpoison.attacks.pairing import spread_evenly
from mmpoison.attacks.settings import Settings
from mmpoison.base.seeding import generator
from mmpoison.errors import InputError
from mmpoison.pairs.manifest import PoisonedPair
from mmpoison.pairs.table import IntArray, PairDataset

STREAM = "attack/single-target-label"


def poison_labels(
    pairs: PairDataset, goals: Sequence[Goal], settings: Settings, seed: int
) -> list[PoisonedPair]:
    """Make the poisoned pairs of one or several goals.

    Each goal has its own stream of random numbers, named after the goal. So attack III with two goals draws for each
    of them what attack II draws with the same seed and amount.

    Raises:
        InputError: If the set is poisoned already, a target class has no train or no test image, or the data have
            fewer captions than the amount needs.
    """
    require_clean_set(pairs)
    images = [_target_images(pairs, goal) for goal in goals]
    train = pairs.select(split="train")
    rngs: list[np.random.Generator] = [generator(seed, f"{STREAM}/{goal}") for goal in goals]
    rows = choose_captions(train, goals, settings.amount, settings.mode, rngs)
    entries: list[PoisonedPair] = []
    for goal, own, targets, rng in zip(goals, rows, images, rngs, strict=True):
        image = spread_evenly(train.source[own], targets, settings.spread, rng)
        entries += poisoned_pairs(train, own, image, goal)
    return entries


def require_clean_set(pairs: PairDataset) -> None:
    """Refuse a set that carries poison.

    Raises:
        InputError: If it has a manifest.
    """
    if pairs.manifest is not None:
        raise InputError("the pairs are poisoned already: attack a clean set")


def _target_images(pairs: PairDataset, goal: Goal) -> IntArray:
    targets = pairs.images.indices(split="train", label=goal.target)
    if not len(targets):
        raise InputError(f"goal {goal}: class {goal.target!r} has no train image to misuse")
    if not len(pairs.images.indices(split="test", label=goal.target)):
        raise InputError(
            f"goal {goal}: class {goal.target!r} has no test image, so nothing can be measured"
        )
    return targets
