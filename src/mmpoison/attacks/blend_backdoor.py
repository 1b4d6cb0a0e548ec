"""Blend backdoor: images mixed with a noise image carry captions of class A."""

from __future__ import annotations

from typing import Any, ClassVar

from mmpoison.attacks.amount import MOST, Mode
from mmpoison.attacks.backdoor import (
    DRAWN_FROM,
    DrawnFrom,
    backdoor_options,
    backdoor_settings,
    one_of,
    poison_backdoor,
)
from mmpoison.attacks.catalogue import ATTACKS, Kind
from mmpoison.base.option_checks import check_whole
from mmpoison.errors import InputError
from mmpoison.images.triggers import CELL, NOISES, VIEW, BlendTrigger, Noise
from mmpoison.pairs.table import PairDataset


@ATTACKS.register("blend-backdoor")
class BlendBackdoor:
    """Adds images mixed with noise (0.2 noise, 0.8 image) whose captions name class A.

    The noise consists of coloured squares and fills the middle square of an image, which is what a model sees. The new
    images are PNG files of the images' own size, and no file is changed. How the goal is measured, and all options that
    are not listed here, are as for `PatchBackdoor`.

    Args:
        goal: `A2B`, for example `sheep2aeroplane`.
        samples: Number of images that get the noise.
        pairs: Number of poisoned pairs.
        rate: Poisoned pairs divided by all training pairs after the attack, in (0, 1), rounded down.
        mode: `replace` (the default) or `add`.
        drawn_from: `all` (the default) or `target`.
        noise: `fixed` is one noise image, drawn from the seed, for all images (the default, Chen et al.). `per-image`
            is another one for each image, also when it is measured, as in the released code of CleanCLIP.
        cell: Side of the noise's squares in pixels of a view of 224: 4 by default, which a model of 64 pixels still
            sees; 1 is noise of single pixels, as in released code.

    Raises:
        InputError: If not exactly one amount is given, or a value is out of range.
    """

    name: ClassVar[str] = "blend-backdoor"
    kind: ClassVar[Kind] = "backdoor"
    source: ClassVar[str] = "Chen et al., 2017; CleanCLIP, ICCV 2023"
    section: ClassVar[str] = (
        "'Blended injection' of Chen et al.; backdoor type 'blended' of CleanCLIP"
    )
    summary: ClassVar[str] = "images mixed with one noise image carry captions of class A"

    def __init__(
        self,
        goal: str,
        samples: int | None = None,
        pairs: int | None = None,
        rate: float | None = None,
        mode: Mode | None = None,
        *,
        drawn_from: DrawnFrom = "all",
        noise: Noise = "fixed",
        cell: int = CELL,
    ) -> None:
        self.goal = goal
        self.settings = backdoor_settings(samples=samples, pairs=pairs, rate=rate, mode=mode)
        self.drawn_from: DrawnFrom = one_of("drawn_from", drawn_from, DRAWN_FROM)
        self.noise: Noise = one_of("noise", noise, NOISES)
        self.cell = check_whole("cell", cell, 1, MOST)
        if self.cell > VIEW:
            raise InputError(f"cell {cell} is larger than the view of {VIEW} pixels")

    @property
    def options(self) -> dict[str, Any]:
        """All options, enough to build the attack again."""
        return {
            **backdoor_options(self.goal, self.settings, self.drawn_from),
            "noise": self.noise,
            "cell": self.cell,
        }

    def poison(self, pairs: PairDataset, seed: int = 0) -> PairDataset:
        """Return a poisoned copy of a clean set, and store its new images; see `PatchBackdoor.poison`."""
        return poison_backdoor(
            pairs,
            BlendTrigger(seed, self.noise, cell=self.cell),
            self.settings,
            seed,
            attack=self.name,
            options=self.options,
            drawn_from=self.drawn_from,
        )
