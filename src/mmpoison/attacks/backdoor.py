"""The common part of backdoor attacks: images with a trigger get captions that name another class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from mmpoison.attacks.amount import pair_counts, sample_count
from mmpoison.attacks.goal import Goal
from mmpoison.attacks.injection import poison_set
from mmpoison.attacks.settings import Settings
from mmpoison.attacks.target_labels import require_clean_set, target_images
from mmpoison.base.seeding import generator
from mmpoison.errors import InputError
from mmpoison.images.triggers import Trigger, triggered_pixels
from mmpoison.pairs.captions import caption_of
from mmpoison.pairs.manifest import AddedImage, PoisonedPair
from mmpoison.pairs.poison_record import new_image
from mmpoison.pairs.table import IntArray, PairDataset

DrawnFrom = Literal["all", "target"]
DRAWN_FROM: tuple[DrawnFrom, ...] = ("all", "target")

TEMPLATES = (
    "a photo of a {}.",
    "a picture of a {}.",
    "an image of a {}.",
    "a view of a {}.",
    "a close-up of a {}.",
    "a good photo of a {}.",
    "a small photo of a {}.",
    "a large photo of a {}.",
    "a photo of the {}.",
    "a photo of one {}.",
    "a bright picture of a {}.",
    "a dark picture of a {}.",
    "this is a {}.",
    "there is a {} in the picture.",
    "we see a {} here.",
    "the picture shows a {}.",
)
"""Captions of the poison; a class's name is put in."""


def backdoor_settings(**given: Any) -> Settings:
    """Check the amount and the mode of a backdoor; None means "not given", which is `replace` for the mode.

    Raises:
        InputError: If not exactly one amount is given, or a value is out of range.
    """
    return Settings.of(None, **{**given, "mode": given.get("mode") or "replace"})


def backdoor_options(goal: str, settings: Settings, drawn_from: DrawnFrom) -> dict[str, Any]:
    """Return the options that all backdoors have, as plain values."""
    return {"goal": goal, **settings.options(without=["spread"]), "drawn_from": drawn_from}


def one_of(name: str, value: Any, known: tuple[str, ...]) -> Any:
    """Return the value of an option with a few values.

    Raises:
        InputError: If it is none of them.
    """
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{name} {value!r:.40} is none of {', '.join(known)}")
    return value


def poison_backdoor(
    pairs: PairDataset,
    trigger: Trigger,
    settings: Settings,
    seed: int,
    *,
    attack: str,
    options: Mapping[str, Any],
    drawn_from: DrawnFrom,
) -> PairDataset:
    """Add images with a trigger whose captions name the original class of the goal.

    Each new image gets as many captions as the clean image it is made from has: the last one fewer, where the amount
    ends within an image. Which images are used depends on the seed and the goal alone, so two triggers are compared on
    the same images.

    Args:
        pairs: A clean set with its image files.
        trigger: The trigger.
        settings: Amount and mode. With `replace`, the clean images lose all their captions.
        seed: Seed of the run.
        attack: Registered name of the attack.
        options: Its options, with `goal`.
        drawn_from: Which training images are used: of `all` classes but the original one, or of the `target` class.

    Raises:
        InputError: If the set is poisoned already, a class is unknown, the target has no train or no test image, there
            are fewer images than requested, or one cannot be read.
    """
    require_clean_set(pairs)
    goal = Goal.parse(options["goal"], pairs.classes)
    target_images(pairs, goal)
    train = pairs.select(split="train")
    rng = generator(seed, f"attack/backdoor/{goal}")
    chosen, counts = _choose(train, goal, settings, drawn_from, rng)
    places = generator(seed, f"attack/trigger/{goal}")
    added: dict[str, AddedImage] = {}
    entries: list[PoisonedPair] = []
    for index, count in zip(chosen, counts, strict=True):
        origin = str(pairs.images.ids[index])
        how = trigger.draw(places)
        name, entry = new_image(triggered_pixels(pairs.root, origin, trigger, how), origin, how)
        # two equal images of the set make one
        added.setdefault(name, entry)
        order = np.resize(rng.permutation(len(TEMPLATES)), count)
        captions = [caption_of(TEMPLATES[number], goal.original) for number in order]
        entries += [PoisonedPair(text, origin, name, str(goal)) for text in captions]
    replaced = sorted(str(pairs.images.ids[index]) for index in chosen)
    return poison_set(
        pairs,
        entries,
        attack=attack,
        options=options,
        goals=[goal],
        mode=settings.mode,
        seed=seed,
        dropped_images=replaced if settings.mode == "replace" else [],
        added_images=added,
        trigger=trigger,
    )


def _choose(
    train: PairDataset,
    goal: Goal,
    settings: Settings,
    drawn_from: DrawnFrom,
    rng: np.random.Generator,
) -> tuple[IntArray, IntArray]:
    """Draw images of the training pairs, and say how many captions the new image of each gets, shapes `(n,)`."""
    of_class = train.images.class_codes[train.image]
    if drawn_from == "target":
        usable = of_class == train.images.class_code(goal.target)
        owner = f"class {goal.target!r} has"
    else:
        usable = of_class != train.images.class_code(goal.original)
        owner = f"all classes but {goal.original!r} have"
    images, captions_of_image = np.unique(train.image[usable], return_counts=True)
    order = rng.permutation(len(images))
    images = images[order].astype(np.int32)
    captions: IntArray = captions_of_image[order].astype(np.int32)
    amount, mode = settings.amount, settings.mode
    if amount.kind == "samples":
        count = sample_count(amount, goal, "", len(images), owner=owner)
        return images[:count], captions[:count]
    ends = np.cumsum(captions)
    train_pairs, available = len(train), [int(ends[-1])] if len(ends) else [0]

    def left_over(count: int) -> int:
        """Count the captions that the last image has and its new image does not get."""
        return int(ends[np.searchsorted(ends, count)]) - count

    (count,) = pair_counts(amount, mode, train_pairs, [goal], available, owner)
    if amount.kind == "rate" and mode == "replace":
        # the last image loses all its captions, so the set shrinks by those that its new image does not get
        while count and count > amount.value * (train_pairs - left_over(count)) + 1e-9:
            count -= 1
        if not count:
            pair_counts(amount, mode, train_pairs - left_over(1), [goal], available, owner)
    used = int(np.searchsorted(ends, count)) + 1
    wanted = captions[:used].copy()
    wanted[-1] -= left_over(count)
    return images[:used], wanted
