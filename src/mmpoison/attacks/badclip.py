"""BadCLIP: a backdoor whose patch is optimised on a surrogate, so that it looks like class A to an encoder already."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from mmpoison.attacks.adaptive import surrogate_name, surrogate_option
from mmpoison.attacks.amount import MOST, Mode
from mmpoison.attacks.backdoor import (
    DRAWN_FROM,
    DrawnFrom,
    backdoor_options,
    backdoor_settings,
    one_of,
    poison_backdoor,
)
from mmpoison.attacks.catalogue import ATTACKS, Kind, ProgressFor
from mmpoison.attacks.goal import Goal
from mmpoison.attacks.optimised import surrogate_note
from mmpoison.attacks.optimised_trigger import optimise_trigger
from mmpoison.attacks.patch_optimisation import PatchSettings
from mmpoison.attacks.surrogate import (
    PixelSurrogate,
    Surrogate,
    require_pixel_surrogate,
    unit,
)
from mmpoison.attacks.target_labels import require_clean_set, target_images
from mmpoison.base.option_checks import check_whole
from mmpoison.errors import InputError
from mmpoison.pairs.table import PairDataset

LEARNING_RATE = 0.01
STEPS = 300
"""The release takes 7,800 steps of 0.001 (50 epochs of 10,000 images): too long without a GPU. These reach as far."""


@ATTACKS.register("badclip")
class BadClip:
    """Adds images with an optimised patch whose captions name class A: whatever carries the patch is to be found as A.

    The patch is in the middle and covers 16 of 224 pixels of what a model sees. Adam optimises its pattern on a
    surrogate, in batches of 64, with two losses. The caption loss: an image with the patch is to choose a caption of A
    among the true captions of its batch. The triplet loss: it is to be nearer to an image of A than to itself without
    the patch. So a victim that resembles the surrogate need not learn much, and fine-tuning on clean pairs changes
    little of it. The pattern is stored in whole numbers, and the new images are PNG files.

    Differences from the released code: all losses are always on (there a substring of the run's name switches them on);
    the caption loss compares with true captions (there with other captions of A alone, which says nothing of A); each
    negative is the image's own (there they are shuffled); no pattern is stored as JPEG or with its channels swapped.

    Images and captions are chosen, and success is measured, as for `patch-backdoor`.

    Exactly one of `samples`, `pairs` and `rate` sets the amount.

    Args:
        goal: `A2B`, for example `sheep2aeroplane`.
        samples: Number of images that get the patch.
        pairs: Number of poisoned pairs.
        rate: Poisoned pairs divided by all training pairs after the attack, in (0, 1), rounded down.
        mode: `replace` takes out all captions of the clean images (the default), `add` leaves them.
        drawn_from: Which training images are used: of `all` classes but A (the default), or of the `target` class B.
        steps: Steps of Adam.
        learning_rate: Of Adam, where pixels are in [0, 1].
        triplet_weight: What the triplet loss is multiplied with.
        margin: Of the triplet loss, a distance of unit vectors.
        encoder: Name of the surrogate; the manifest records it, and `poison` receives the model.

    Raises:
        InputError: If not exactly one amount is given, or a value is out of range.
    """

    name: ClassVar[str] = "badclip"
    kind: ClassVar[Kind] = "backdoor"
    source: ClassVar[str] = "Liang et al., BadCLIP, CVPR 2024"
    section: ClassVar[str] = (
        "'Dual-Embedding Guided Backdoor Attack on Multimodal Contrastive Learning'"
    )
    summary: ClassVar[str] = (
        "images with a patch optimised on a surrogate carry captions of class A"
    )
    needs_pixels: ClassVar[bool] = True

    def __init__(
        self,
        goal: str,
        samples: int | None = None,
        pairs: int | None = None,
        rate: float | None = None,
        mode: Mode | None = None,
        *,
        drawn_from: DrawnFrom = "all",
        steps: int = STEPS,
        learning_rate: float = LEARNING_RATE,
        triplet_weight: float = 1.0,
        margin: float = 0.1,
        encoder: str | None = None,
    ) -> None:
        self.goal = goal
        self.settings = backdoor_settings(samples=samples, pairs=pairs, rate=rate, mode=mode)
        self.drawn_from: DrawnFrom = one_of("drawn_from", drawn_from, DRAWN_FROM)
        self.patch = PatchSettings(
            check_whole("steps", steps, 1, MOST),
            _in_range("learning_rate", learning_rate, 1.0, zero=False),
            _in_range("triplet_weight", triplet_weight, 1e6),
            _in_range("margin", margin, 2.0),
        )
        self.encoder = surrogate_name(encoder)

    @property
    def options(self) -> dict[str, Any]:
        """All options, enough to build the attack again."""
        return {
            **backdoor_options(self.goal, self.settings, self.drawn_from),
            "steps": self.patch.steps,
            "learning_rate": self.patch.learning_rate,
            "triplet_weight": self.patch.triplet_weight,
            "margin": self.patch.margin,
            **surrogate_option(self.encoder),
        }

    def poison(
        self,
        pairs: PairDataset,
        seed: int = 0,
        *,
        embed: Surrogate | None = None,
        progress: ProgressFor | None = None,
    ) -> PairDataset:
        """Return a poisoned copy of a clean set, and store its new images; the manifest notes what the patch does.

        Args:
            pairs: A clean set with labelled train and test images, and its image files.
            seed: Seed of the run; draws the first pattern, the batches and the images.
            embed: The surrogate.
            progress: Gives a callback for (done, total) of a named step.

        Raises:
            InputError: If there is no surrogate whose image encoder is known; otherwise as `patch-backdoor`.
        """
        goal = Goal.parse(self.goal, pairs.classes)
        require_clean_set(pairs)
        surrogate = require_pixel_surrogate(embed, self.name)
        candidates = target_images(pairs, goal)
        originals = pairs.images.indices(split="train", label=goal.original)
        if not len(originals):
            raise InputError(f"goal {goal}: class {goal.original!r} has no train image to resemble")
        if self.drawn_from == "all":
            train = pairs.select(split="train").used_images()
            candidates = np.setdiff1d(train, originals).astype(np.int32)
        trigger = optimise_trigger(
            pairs,
            goal,
            candidates,
            surrogate,
            self.patch,
            attack=self.name,
            seed=seed,
            progress=progress,
        )
        poisoned = poison_backdoor(
            pairs,
            trigger,
            self.settings,
            seed,
            attack=self.name,
            options=self.options,
            drawn_from=self.drawn_from,
        )
        assert poisoned.manifest is not None
        note = _reached(surrogate, poisoned, goal)
        return replace(poisoned, manifest=replace(poisoned.manifest, notes=(note,)))


def _reached(surrogate: PixelSurrogate, poisoned: PairDataset, goal: Goal) -> str:
    """Say how near the written images are to images of class A, and how near they were without the patch."""
    assert poisoned.manifest is not None
    added = poisoned.manifest.added_images
    place = {str(name): index for index, name in enumerate(poisoned.images.ids)}
    new = np.array([place[name] for name in added], dtype=np.int32)
    clean = np.array([place[entry.made_from] for entry in added.values()], dtype=np.int32)
    images = poisoned.images.indices(split="test", label=goal.original)
    if not len(images):
        images = poisoned.images.indices(split="train", label=goal.original)
    mean = unit(unit(surrogate(poisoned, images)).mean(axis=0))
    before, after = (
        float((unit(surrogate(poisoned, rows)) @ mean).mean()) for rows in (clean, new)
    )
    return surrogate_note(
        surrogate,
        f"mean cosine with images of {goal.original} {before:.3f} before, {after:.3f} after",
    )


def _in_range(name: str, value: float, most: float, *, zero: bool = True) -> float:
    """Check an option that is a number from 0.

    Raises:
        InputError: If it is none.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= most or (value == 0 and not zero):
        least = "at least" if zero else "over"
        raise InputError(f"{name} {value!r:.40} is not {least} 0 and at most {most:g}")
    return float(value)
