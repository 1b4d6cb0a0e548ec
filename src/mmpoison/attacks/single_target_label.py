"""Attack II, single target label: captions of class A on the images of class B."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from mmpoison.attacks.amount import Mode
from mmpoison.attacks.catalogue import ATTACKS, Kind
from mmpoison.attacks.goal import Goal
from mmpoison.attacks.injection import poison_set
from mmpoison.attacks.pairing import Carrier, Spread
from mmpoison.attacks.settings import Settings
from mmpoison.attacks.target_labels import images_without_honest_captions, poison_labels
from mmpoison.pairs.table import PairDataset


@ATTACKS.register("single-target-label")
class SingleTargetLabel:
    """Pairs captions of the original class with training images of the target class, evenly (the paper's Attack II).

    Exactly one of `samples`, `pairs`, `rate` and `share` sets the amount.

    Args:
        goal: `A2B`, for example `sheep2aeroplane`.
        samples: Number of class-A training images whose captions are used (all captions of each).
        pairs: Number of poisoned pairs.
        rate: Poisoned pairs divided by all training pairs after the attack, in (0, 1). The number of pairs is rounded
            down, so that the rate is never above the requested one.
        share: Class-A training images whose captions are used, divided by all of them, in (0, 1]; a half is rounded to
            the nearest even number of images.
        mode: `add` leaves the clean pairs in place (the paper's prose, the default), `replace` removes them (its
            released code).
        spread: What is distributed over the target images, each used equally often: single `captions` (the default),
            or whole `samples`, where all captions of an image go to the same target image (the released code; the
            default of carrier `own`).
        carrier: Whose images carry the captions. `existing` images of class B keep their honest captions (the default,
            the paper's). `own` stands for images that the attacker posts himself: as many training images of B as
            images of A are used lose their honest captions and carry the captions of one image of A each. With
            `spread="captions"`, the captions are mixed evenly over the same images.
        words: Only captions with one of these words are misused (in any case, plural too, as `label_by_keyword`). For
            classes that come from a keyword in one of an image's captions, as in Visual Genome; by default all captions
            of a class are misused.
        preset: `reference-release` means the choices of the authors' released code.

    Raises:
        InputError: If not exactly one amount is given, a value is out of range, or the preset fixes another value.
    """

    name: ClassVar[str] = "single-target-label"
    kind: ClassVar[Kind] = "targeted"
    source: ClassVar[str] = "Yang et al., ICML 2023, Attack II"
    section: ClassVar[str] = "Attack Methodology, 'Attack II: single target label'; table 3"
    summary: ClassVar[str] = "captions of class A are paired with the images of class B"

    def __init__(
        self,
        goal: str,
        samples: int | None = None,
        pairs: int | None = None,
        rate: float | None = None,
        mode: Mode | None = None,
        *,
        share: float | None = None,
        spread: Spread | None = None,
        carrier: Carrier | None = None,
        words: Sequence[str] | None = None,
        preset: str | None = None,
    ) -> None:
        self.goal = goal
        self.settings = Settings.of(
            preset,
            samples=samples,
            pairs=pairs,
            rate=rate,
            share=share,
            mode=mode,
            spread=spread,
            carrier=carrier,
            words=words,
        )

    @property
    def options(self) -> dict[str, Any]:
        """All options, enough to build the attack again."""
        return {"goal": self.goal, **self.settings.options()}

    def poison(self, pairs: PairDataset, seed: int = 0) -> PairDataset:
        """Return a poisoned copy of a clean set.

        Which images of A are used, and which image of B each caption gets, comes from the seed: every B image is used
        equally often, the remainder at random without repetition.

        Args:
            pairs: A clean set with labelled train and test images.
            seed: Seed of the run.

        Raises:
            InputError: If the set is poisoned already, a class is unknown or has no train image, the target has no test
                image (the attack could not be measured), or there are fewer captions (or images for carrier `own`)
                than requested; the message says the largest possible amount.
        """
        goal = Goal.parse(self.goal, pairs.classes)
        entries = poison_labels(pairs, [goal], self.settings, seed)
        return poison_set(
            pairs,
            entries,
            attack=self.name,
            options=self.options,
            goals=[goal],
            mode=self.settings.mode,
            seed=seed,
            dropped_images=images_without_honest_captions(entries, self.settings),
        )
