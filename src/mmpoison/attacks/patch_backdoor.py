"""Patch backdoor: images with one small fixed pattern carry captions of class A."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from mmpoison.attacks.amount import Mode
from mmpoison.attacks.backdoor import (
    DRAWN_FROM,
    DrawnFrom,
    backdoor_options,
    backdoor_settings,
    one_of,
    poison_backdoor,
)
from mmpoison.attacks.catalogue import ATTACKS, Kind
from mmpoison.images.triggers import CELL, PatchTrigger, Place, random_bytes
from mmpoison.pairs.table import PairDataset

SIDE = 16
"""Side of the patch in pixels of a view of 224 (Carlini & Terzis)."""

PLACES: tuple[Place, ...] = ("corner", "random")


@ATTACKS.register("patch-backdoor")
class PatchBackdoor:
    """Adds images with a small patch whose captions name class A: whatever carries the patch is to be found as A.

    The patch is one pattern of 4 x 4 coloured squares, drawn from the seed. It covers 16 of 224 pixels of what a model
    sees, whatever the size of the image and of the model's input. The new images are PNG files of the images' own size,
    and no file is changed. Captions are templates such as "a photo of a sheep.".

    The goal `A2B` is measured as any other: captions of A are queries, test images of B are the target set. Without the
    patch on these images a backdoor should find none of them; `with_trigger` in `metrics.json` is with the patch.

    Exactly one of `samples`, `pairs` and `rate` sets the amount.

    Args:
        goal: `A2B`, for example `sheep2aeroplane`.
        samples: Number of images that get the patch.
        pairs: Number of poisoned pairs.
        rate: Poisoned pairs divided by all training pairs after the attack, in (0, 1), rounded down; 0.0005 to 0.01 is
            usual.
        mode: `replace` takes out all captions of the clean images (the default), `add` leaves them.
        drawn_from: Which training images are used: of `all` classes but A (the default), or of the `target` class B.
        place: The lower right `corner` of the middle square (the default), or a `random` place in each image.

    Raises:
        InputError: If not exactly one amount is given, or a value is out of range.
    """

    name: ClassVar[str] = "patch-backdoor"
    kind: ClassVar[Kind] = "backdoor"
    source: ClassVar[str] = "Carlini & Terzis, ICLR 2022"
    section: ClassVar[str] = "'Poisoning and Backdooring Contrastive Learning', the backdoor attack"
    summary: ClassVar[str] = "images with a small fixed patch carry captions of class A"

    def __init__(
        self,
        goal: str,
        samples: int | None = None,
        pairs: int | None = None,
        rate: float | None = None,
        mode: Mode | None = None,
        *,
        drawn_from: DrawnFrom = "all",
        place: Place = "corner",
    ) -> None:
        self.goal = goal
        self.settings = backdoor_settings(samples=samples, pairs=pairs, rate=rate, mode=mode)
        self.drawn_from: DrawnFrom = one_of("drawn_from", drawn_from, DRAWN_FROM)
        self.place: Place = one_of("place", place, PLACES)

    @property
    def options(self) -> dict[str, Any]:
        """All options, enough to build the attack again."""
        return {
            **backdoor_options(self.goal, self.settings, self.drawn_from),
            "place": self.place,
        }

    def poison(self, pairs: PairDataset, seed: int = 0) -> PairDataset:
        """Return a poisoned copy of a clean set, and store its new images.

        Args:
            pairs: A clean set with labelled train and test images, and its image files.
            seed: Seed of the run, which also draws the pattern.

        Raises:
            InputError: If the set is poisoned already, a class is unknown, B has no train or no test image, there are
                fewer images than requested, or one cannot be read.
        """
        return poison_backdoor(
            pairs,
            random_patch(seed, self.place),
            self.settings,
            seed,
            attack=self.name,
            options=self.options,
            drawn_from=self.drawn_from,
        )


def random_patch(seed: int, place: Place) -> PatchTrigger:
    """Draw the patch of a seed: each colour channel of each of its squares is on or off."""
    cells = SIDE // CELL
    drawn = np.frombuffer(random_bytes(f"patch/{seed}", 3 * cells**2), np.uint8)
    pattern = np.where(drawn < 128, 0, 255).astype(np.uint8)
    return PatchTrigger(pattern.tobytes(), cells, place, SIDE)
