"""The common part of attacks II and III: captions of one class get training images of another."""

from __future__ import annotations

from collections import Counter
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

    With the carrier `own`, each goal gets as many images of its target class as images whose captions it uses; see
    `images_without_honest_captions`. No image is used by two goals, neither for its captions nor as a carrier.

    Raises:
        InputError: If the set is poisoned already, a target class has no train or no test image, or the data have
            fewer captions, or for `own` fewer images, than the amount needs.
    """
    require_clean_set(pairs)
    images = [target_images(pairs, goal) for goal in goals]
    train = pairs.select(split="train")
    lost = 0
    while True:
        rngs: list[np.random.Generator] = [generator(seed, f"{STREAM}/{goal}") for goal in goals]
        rows = choose_captions(
            train, goals, settings.amount, settings.mode, rngs, lost, settings.words
        )
        if settings.carrier == "existing":
            break
        carriers = _own_images(train, goals, rows, images, rngs)
        honest = int(np.isin(train.source, np.concatenate(carriers)).sum())
        if settings.amount.kind != "rate" or honest <= lost:
            images = carriers
            break
        # the set shrinks by these captions, so fewer pairs make the rate: draw again, the same images but fewer
        lost = honest
    entries: list[PoisonedPair] = []
    for goal, own, targets, rng in zip(goals, rows, images, rngs, strict=True):
        image = spread_evenly(train.source[own], targets, settings.spread, rng)
        entries += poisoned_pairs(train, own, image, goal)
    return entries


def images_without_honest_captions(
    entries: Sequence[PoisonedPair], settings: Settings
) -> list[str]:
    """List the images that lose their honest training pairs, sorted: with the carrier `own`, all that carry poison."""
    own = settings.carrier == "own"
    return sorted({entry.poisoned_image for entry in entries}) if own else []


def require_clean_set(pairs: PairDataset) -> None:
    """Refuse a set that carries poison.

    Raises:
        InputError: If it has a manifest.
    """
    if pairs.manifest is not None:
        raise InputError("the pairs are poisoned already: attack a clean set")


def target_images(pairs: PairDataset, goal: Goal) -> IntArray:
    """Return the training images of the target class, in table order, shape `(n,)`.

    Raises:
        InputError: If there are none, or the class has no test image.
    """
    targets = pairs.images.indices(split="train", label=goal.target)
    if not len(targets):
        raise InputError(f"goal {goal}: class {goal.target!r} has no train image to misuse")
    if not len(pairs.images.indices(split="test", label=goal.target)):
        raise InputError(
            f"goal {goal}: class {goal.target!r} has no test image, so nothing can be measured"
        )
    return targets


def _own_images(
    train: PairDataset,
    goals: Sequence[Goal],
    rows: Sequence[IntArray],
    images: Sequence[IntArray],
    rngs: Sequence[np.random.Generator],
) -> list[IntArray]:
    """Draw for each goal as many images of its target class as it uses images of its original class.

    Args:
        train: The clean training pairs.
        goals: The goals.
        rows: The misused captions of each goal, rows of `train`.
        images: The training images of the target class of each goal.
        rngs: A generator for each goal.
    """
    # an image is in one class, and each goal that names the class uses as many of its images
    uses = Counter(name for goal in goals for name in (goal.original, goal.target))
    taken = np.unique(train.source[np.concatenate(rows)])
    carriers: list[IntArray] = []
    for goal, own, targets, rng in zip(goals, rows, images, rngs, strict=True):
        needed = len(np.unique(train.source[own]))
        free = targets[~np.isin(targets, taken)]
        if needed > len(free):
            raise InputError(
                f"goal {goal}: carrier 'own' needs {needed} train images of class {goal.target!r} to carry the "
                f"captions of as many images, {len(free)} are free: at most samples="
                f"{len(targets) // uses[goal.target]}"
            )
        carriers.append(rng.permutation(free)[:needed])
        taken = np.concatenate([taken, carriers[-1]])
    return carriers
