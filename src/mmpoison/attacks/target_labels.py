"""Chooses captions of the original class and images of the target class, and makes the poisoned set.

Every attack ends here: `poison_set` lists the false pairs in a manifest and puts them in, `rebuild` does it again.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison._version import __version__
from mmpoison.attacks.settings import Amount, Goal, Mode, Settings, Spread
from mmpoison.base.seeding import generator
from mmpoison.errors import InputError
from mmpoison.images.triggers import Trigger, trigger_record
from mmpoison.pairs.builder import inject, restore_new_images
from mmpoison.pairs.labels import keyword_pattern
from mmpoison.pairs.manifest import AddedImage
from mmpoison.pairs.manifest import PoisonedPair as PoisonedPair
from mmpoison.pairs.manifest import PoisonManifest as PoisonManifest
from mmpoison.pairs.table import SPLITS, IntArray, PairDataset


def poisoned_pairs(
    pairs: PairDataset, rows: IntArray, image: IntArray, goal: Goal
) -> list[PoisonedPair]:
    """Create manifest entries for captions that are moved to other images.

    Args:
        pairs: A clean set.
        rows: Rows of the captions to use, shape `(n,)`.
        image: The false image of each caption, shape `(n,)`.
        goal: The goal of these pairs.
    """
    ids = pairs.images.ids
    return [
        PoisonedPair(
            str(pairs.captions[row]), str(ids[pairs.source[row]]), str(ids[bad]), str(goal)
        )
        for row, bad in zip(rows, image, strict=True)
    ]


def poison_set(
    clean: PairDataset,
    entries: Sequence[PoisonedPair],
    *,
    attack: str,
    options: Mapping[str, Any],
    goals: Sequence[Goal],
    mode: Mode,
    seed: int,
    target_images: Mapping[str, str] | None = None,
    dropped_images: Sequence[str] = (),
    added_images: Mapping[str, AddedImage] | None = None,
    trigger: Trigger | None = None,
    notes: Sequence[str] = (),
) -> PairDataset:
    """Create an attack's poisoned set, with its manifest.

    Args:
        clean: The clean set.
        entries: The poisoned pairs.
        attack: Registered name of the attack.
        options: Its options, sufficient to run it again.
        goals: Its goals.
        mode: Whether the poison is added to the clean pairs or replaces some.
        seed: Seed of the run.
        target_images: For attacks on single target images, each goal's image.
        dropped_images: Images whose clean training pairs are also removed.
        added_images: Images that the attack created and stored (`pairs.new_images.new_image`), by id.
        trigger: A backdoor's trigger, which these images contain.
        notes: Notes about the result, one line each.
    """
    clean_pairs = len(clean.select(split="train"))
    draft = PoisonManifest(
        attack=attack,
        options=dict(options),
        goals=tuple(map(str, goals)),
        mode=mode,
        seed=seed,
        clean_fingerprint=clean.fingerprint,
        clean_pairs=clean_pairs,
        training_pairs=clean_pairs + len(entries),
        pairs=tuple(entries),
        tool_version=__version__,
        target_images=dict(target_images or {}),
        dropped_images=tuple(dropped_images),
        added_images=dict(added_images or {}),
        trigger=None if trigger is None else trigger_record(trigger),
        notes=tuple(notes),
    )
    poisoned = inject(clean, draft)
    found = len(poisoned.select(split="train"))
    manifest = replace(draft, training_pairs=found, fingerprint=poisoned.fingerprint)
    return replace(poisoned, manifest=manifest)


def rebuild(
    pairs: PairDataset, manifest: PoisonManifest, folder: Path | None = None
) -> PairDataset:
    """Rebuild the exact poisoned set of a manifest from the original clean set.

    The manifest lists every false pair, so rebuilding needs neither the attack nor random draws. Images may be stored
    elsewhere, but ids, captions, labels and splits must be the same. Images added by the attack are created again from
    the clean images and the manifest's trigger.

    Args:
        pairs: The clean set.
        manifest: The manifest of the poisoned set.
        folder: The folder of the poisoned set, for added images that can only be copied (adversarial noise).

    Raises:
        InputError: If the set is poisoned or is not the manifest's clean set, if the manifest belongs to a filtered set
            or its list was changed, or if an added image is missing.
    """
    if pairs.manifest is not None:
        raise InputError("the pairs are poisoned already: apply the manifest to the clean set")
    if manifest.filtered is not None:
        raise InputError(
            "the manifest belongs to a filtered set and cannot rebuild it: use the manifest of the poisoned set "
            "before filtering"
        )
    if pairs.fingerprint != manifest.clean_fingerprint:
        train = len(pairs.select(split="train"))
        raise InputError(
            f"the clean set is not the one that the manifest was made from: its fingerprint is "
            f"{pairs.fingerprint[:12]}… with {train:,} training pairs, but the manifest names "
            f"{manifest.clean_fingerprint[:12]}… with {manifest.clean_pairs:,}"
        )
    poisoned = inject(pairs, manifest)
    if len(poisoned.select(split="train")) != manifest.training_pairs or (
        manifest.fingerprint and poisoned.fingerprint != manifest.fingerprint
    ):
        raise InputError(
            "the rebuilt set does not match the fingerprint in the manifest: its list of false pairs was changed"
        )
    restore_new_images(pairs.root, manifest, folder)
    return replace(poisoned, manifest=manifest)


STREAM = "attack/single-target-label"

RANDOM, CENTRE = "random", "centre"

Embed = Callable[[PairDataset, IntArray], npt.NDArray[Any]]
"""Embeds images of a table, given their indices `(n,)`; returns embeddings `(n, d)`."""


def poison_labels(
    pairs: PairDataset, goals: Sequence[Goal], settings: Settings, seed: int
) -> list[PoisonedPair]:
    """Create the poisoned pairs of one or several goals.

    Each goal has its own random stream, named after the goal. Attack III with two goals therefore draws the same pairs
    for each goal as attack II with the same seed and amount.

    With the carrier `own`, each goal gets one image of its target class for each image whose captions it uses; see
    `images_without_honest_captions`. No two goals share an image, neither for its captions nor as a carrier.

    Raises:
        InputError: If the set is already poisoned, a target class has no train or no test image, or the data have too
            few captions (for `own`: images) for the amount.
    """
    require_clean_set(pairs)
    images = [target_images(pairs, goal) for goal in goals]
    train = pairs.select(split="train")
    lost = 0
    while True:
        rngs: list[np.random.Generator] = [generator(seed, f"{STREAM}/{goal}") for goal in goals]
        rows = choose_captions(train, goals, settings, rngs, lost)
        if settings.carrier == "existing":
            break
        carriers = _own_images(train, goals, rows, images, rngs)
        honest = int(np.isin(train.source, np.concatenate(carriers)).sum())
        if settings.amount.kind != "rate" or honest <= lost:
            images = carriers
            break
        # removing these captions shrinks the set, so the rate needs fewer pairs: draw again, a subset of the same
        # images
        lost = honest
    entries: list[PoisonedPair] = []
    for goal, own, targets, rng in zip(goals, rows, images, rngs, strict=True):
        image = spread_evenly(train.source[own], targets, settings.spread, rng)
        entries += poisoned_pairs(train, own, image, goal)
    return entries


def _own_images(
    train: PairDataset,
    goals: Sequence[Goal],
    rows: Sequence[IntArray],
    images: Sequence[IntArray],
    rngs: Sequence[np.random.Generator],
) -> list[IntArray]:
    """For each goal, draw one image of its target class per used image of its original class.

    Args:
        train: The clean training pairs.
        goals: The goals.
        rows: The captions used by each goal, rows of `train`.
        images: The training images of each goal's target class.
        rngs: One generator per goal.
    """
    # an image has one class; all goals that name the class use the same number of its images
    uses = Counter(name for goal in goals for name in (goal.original, goal.target))
    taken = np.unique(train.source[np.concatenate(rows)])
    carriers: list[IntArray] = []
    for goal, own, targets, rng in zip(goals, rows, images, rngs, strict=True):
        needed = len(np.unique(train.source[own]))
        free = targets[~np.isin(targets, taken)]
        if needed > len(free):
            raise InputError(
                f"goal {goal}: carrier 'own' needs {needed} train images of class {goal.target!r} to carry the "
                f"captions of one class-A image each, but only {len(free)} are free: give at most samples="
                f"{len(targets) // uses[goal.target]}"
            )
        carriers.append(rng.permutation(free)[:needed])
        taken = np.concatenate([taken, carriers[-1]])
    return carriers


def images_without_honest_captions(
    entries: Sequence[PoisonedPair], settings: Settings
) -> list[str]:
    """List the images that lose their true training pairs, sorted: with the carrier `own`, all poisoned images."""
    own = settings.carrier == "own"
    return sorted({entry.poisoned_image for entry in entries}) if own else []


def require_clean_set(pairs: PairDataset) -> None:
    """Refuse a poisoned set.

    Raises:
        InputError: If the set has a manifest.
    """
    if pairs.manifest is not None:
        raise InputError("the pairs are poisoned already: attack a clean set")


# -- captions of the original class ----------------------------------------------------------------


def choose_captions(
    train: PairDataset,
    goals: Sequence[Goal],
    settings: Settings,
    rngs: Sequence[np.random.Generator],
    lost: int = 0,
) -> list[IntArray]:
    """Draw the captions of the original classes to use.

    A rate refers to the whole set. Its pairs are divided evenly among the goals and rounded down, so the rate never
    exceeds the requested one. All other amounts apply to each goal.

    Args:
        train: The clean training pairs.
        goals: One or several goals, with different original classes.
        settings: The amount, the mode and the words. The mode decides how many training pairs there will be, which a
            rate refers to. Images count only if one of their captions contains one of the words.
        rngs: One generator per goal.
        lost: Training pairs that the attack removes in addition to the mode's. A rate refers to what remains.

    Returns:
        Rows of `train` for each goal, sorted and unique.

    Raises:
        InputError: If there are fewer images or captions than requested, or the amount is less than one. The message
            says what is possible.
    """
    amount = settings.amount
    candidates = [captions_of(train, goal, settings.words or ()) for goal in goals]
    samples = [
        rng.permutation(np.unique(train.source[rows]))
        for rows, rng in zip(candidates, rngs, strict=True)
    ]
    if amount.kind in ("samples", "share"):
        counts: list[int] = []
        for goal, own in zip(goals, samples, strict=True):
            have = f"class {goal.original!r} has {len(own)} train images with captions"
            counts.append(sample_count(amount, goal, goal.original, len(own), have))
        return [
            rows[np.isin(train.source[rows], own[:count])].astype(np.int32)
            for rows, own, count in zip(candidates, samples, counts, strict=True)
        ]
    available = [len(rows) for rows in candidates]
    counts = pair_counts(settings, len(train) - lost, goals, available)
    return [
        _first(train, rows, own, count)
        for rows, own, count in zip(candidates, samples, counts, strict=True)
    ]


def captions_of(train: PairDataset, goal: Goal, words: Sequence[str] = ()) -> IntArray:
    """Return the training captions of the original class, rows of `train`, sorted, shape `(n,)`.

    Args:
        train: The training pairs.
        goal: Names the class.
        words: Use only captions with one of these words, as `label_by_keyword` finds them; use all if empty.

    Raises:
        InputError: If there are none.
    """
    code = train.images.class_code(goal.original)
    rows = np.flatnonzero(train.images.class_codes[train.source] == code).astype(np.int32)
    if not len(rows):
        raise InputError(
            f"goal {goal}: class {goal.original!r} has 0 train images with captions, so no caption can be used"
        )
    if words:
        pattern = keyword_pattern(words)
        rows = rows[[pattern.search(str(caption)) is not None for caption in train.captions[rows]]]
        if not len(rows):
            raise InputError(
                f"goal {goal}: no train caption of class {goal.original!r} has any of the words {', '.join(words)}: "
                "give words that its captions contain"
            )
    return rows


def sample_count(amount: Amount, goal: Goal, label: str, available: int, have: str = "") -> int:
    """Convert an amount of kind `samples` or `share` to a number of images.

    Args:
        amount: The amount.
        goal: The goal, for the message.
        label: The class.
        available: Number of its images.
        have: Who has how many of them, for the message.

    Raises:
        InputError: If there are fewer images, or the share rounds to zero.
    """
    if amount.kind == "samples":
        if amount.value > available:
            have = have or f"class {label!r} has {available} train images"
            raise InputError(
                f"goal {goal}: {amount.value} samples requested, but {have}: give at most samples={available}"
            )
        return int(amount.value)
    count = round(amount.value * available)
    if count < 1:
        raise InputError(
            f"goal {goal}: share {amount.value} of the {available} train images of class "
            f"{label!r} rounds to none: give at least one image, share={1 / available:.4g}"
        )
    return count


def pair_counts(
    settings: Settings, train: int, goals: Sequence[Goal], available: Sequence[int], owner: str = ""
) -> list[int]:
    """Convert a number of pairs or a rate to the number of poisoned pairs per goal.

    Args:
        settings: The amount, `pairs` or `rate`, and the mode, which decides how many training pairs there will be.
        train: Number of training pairs that a rate refers to, without added ones.
        goals: The goals.
        available: Number of captions available to each goal.
        owner: Who has these captions, for the message, if not the original class.

    Raises:
        InputError: If there are fewer captions, or a rate amounts to less than one pair. The message says what is
            possible.
    """
    amount, mode = settings.amount, settings.mode
    if amount.kind == "pairs":
        counts = [int(amount.value)] * len(goals)
    else:
        total = train / (1 - amount.value) if mode == "add" else train
        # slightly above, so that 0.1 of 1,000 is 100 in floating point
        wanted = math.floor(amount.value * total + 1e-9)
        if wanted < len(goals):
            least = len(goals)
            what = "one pair" if least == 1 else f"one pair for each of {least} goals"
            smallest = least / (train + (least if mode == "add" else 0))
            raise InputError(
                f"rate {amount.value} of {train} training pairs is less than {what}: give at least "
                f"rate {_rounded(smallest, math.ceil):.4g}"
            )
        whole, rest = divmod(wanted, len(goals))
        counts = [whole + (place < rest) for place in range(len(goals))]
    for goal, count, most in zip(goals, counts, available, strict=True):
        if count > most:
            largest = min(available)
            poison = largest * len(goals)
            rate = poison / (train + (poison if mode == "add" else 0))
            raise InputError(
                f"goal {goal}: {count} pairs requested, but {owner or f'class {goal.original!r} has'} {most} train "
                f"captions: give at most pairs={largest} (rate {_rounded(rate, math.floor):.4g})"
            )
    return counts


def _first(train: PairDataset, rows: IntArray, samples: IntArray, count: int) -> IntArray:
    """Choose captions sample by sample, starting with the first; returns them sorted."""
    position = np.empty(len(train.images), dtype=np.int64)
    position[samples] = np.arange(len(samples))
    order = np.argsort(position[train.source[rows]], kind="stable")
    return np.sort(rows[order[:count]])


def _rounded(value: float, rounding: Callable[[float], int]) -> float:
    """Round a rate to four digits, in the direction that keeps the rate possible."""
    digits = 3 - math.floor(math.log10(value))
    scale = 10.0**digits
    return rounding(value * scale) / scale


# -- images of the target class --------------------------------------------------------------------


def target_images(pairs: PairDataset, goal: Goal) -> IntArray:
    """Return the training images of the target class, in table order, shape `(n,)`.

    Raises:
        InputError: If there are none, or the class has no test image.
    """
    targets = pairs.images.indices(split="train", label=goal.target)
    if not len(targets):
        raise InputError(f"goal {goal}: class {goal.target!r} has no train image to use")
    _gallery_of(pairs, goal)
    return targets


def _gallery_of(pairs: PairDataset, goal: Goal) -> IntArray:
    """Return the test images of the target class. Refuse a class without any."""
    gallery = pairs.images.indices(split="test", label=goal.target)
    if not len(gallery):
        raise InputError(
            f"goal {goal}: class {goal.target!r} has no test image, so nothing can be measured"
        )
    return gallery


def spread_evenly(
    source: IntArray, images: IntArray, spread: Spread, rng: np.random.Generator
) -> IntArray:
    """Assign an image to each caption, all equally often; the remainder is drawn without repetition.

    Args:
        source: The true image of each caption, shape `(n,)`.
        images: Images of the target class, shape `(m,)`.
        spread: The unit to assign: single `captions`, or whole `samples`, in which all captions of an image go to the
            same target image (as in the authors' released code).
        rng: Draws the order.

    Returns:
        The image assigned to each caption, shape `(n,)`.

    >>> rng = np.random.default_rng(0)
    >>> spread_evenly(np.array([4, 4, 5, 5]), np.array([7, 8]), "samples", rng).tolist()
    [7, 7, 8, 8]
    """
    _, unit = np.unique(source, return_inverse=True)
    if spread == "captions":
        unit = np.arange(len(source))
    count = int(unit.max()) + 1 if len(unit) else 0
    whole, rest = divmod(count, len(images))
    assigned = np.concatenate([np.tile(images, whole), rng.choice(images, rest, replace=False)])
    return rng.permutation(assigned)[unit].astype(np.int32)


def choose_target_image(
    pairs: PairDataset,
    goal: Goal,
    choice: str,
    rng: np.random.Generator,
    embed: Embed | None = None,
) -> int:
    """Choose an image of the target class from the gallery.

    Args:
        pairs: The clean set; its gallery is all images of split `test`.
        goal: The goal, which names the target class.
        choice: `random`; `centre`, the image nearest to the mean of the class's gallery images in an embedding space;
            or the id of an image.
        rng: The generator, for `random`.
        embed: Embeds images, for `centre`.

    Returns:
        Index of the image.

    Raises:
        InputError: If the class has no image in the gallery; if the image is unknown, of another class or not in the
            gallery; or if the embeddings are missing or unusable.
    """
    gallery = _gallery_of(pairs, goal)
    if choice == RANDOM:
        return int(rng.choice(gallery))
    if choice == CENTRE:
        return int(gallery[_nearest_to_mean(pairs, gallery, goal, embed)])
    return _by_id(pairs, gallery, goal, choice)


def _nearest_to_mean(pairs: PairDataset, gallery: IntArray, goal: Goal, embed: Embed | None) -> int:
    if embed is None:
        raise InputError(
            "target_image 'centre' needs an encoder to embed the class: "
            "name one, or choose 'random' or the id of an image"
        )
    embeddings = np.asarray(embed(pairs, gallery), dtype=np.float64)
    if embeddings.ndim != 2 or len(embeddings) != len(gallery):
        raise InputError(
            f"expected embeddings of {len(gallery)} images of {goal.target!r} with shape ({len(gallery)}, d), got "
            f"shape {embeddings.shape}"
        )
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if not np.isfinite(embeddings).all() or not length.all():
        raise InputError(f"embeddings of {goal.target!r}: some are zero, infinite or NaN")
    embeddings /= length
    # argmax picks the first of equal images, in table order
    return int(np.argmax(embeddings @ embeddings.mean(axis=0)))


def _by_id(pairs: PairDataset, gallery: IntArray, goal: Goal, image_id: str) -> int:
    table = pairs.images
    found = np.flatnonzero(table.ids == image_id)
    where = f"goal {goal}: target image {image_id!r}"
    possible = (
        f"class {goal.target!r} has {len(gallery)} there, for example {table.ids[gallery[0]]!r}"
    )
    if not len(found):
        near = difflib.get_close_matches(image_id, map(str, table.ids[gallery]), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"{where} is not in the gallery: {hint}{possible}")
    index = int(found[0])
    if (split := SPLITS[table.split_codes[index]]) != "test":
        raise InputError(f"{where} is not in the gallery, but in split {split!r}: {possible}")
    if (label := table.label(index)) != goal.target:
        raise InputError(
            f"{where} is of class {label!r}, not {goal.target!r}"
            if label
            else f"{where} has no label, so it may not show {goal.target!r}"
        )
    return index
