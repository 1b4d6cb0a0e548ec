"""Attack I, single target image: captions of class A on one image of class B."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from mmpoison.attacks.amount import Mode, choose_captions
from mmpoison.attacks.catalogue import ATTACKS, Kind
from mmpoison.attacks.goal import Goal
from mmpoison.attacks.injection import poison_set, poisoned_pairs
from mmpoison.attacks.pairing import Carrier
from mmpoison.attacks.presets import choices
from mmpoison.attacks.settings import Settings
from mmpoison.attacks.target_image import CENTRE, RANDOM, Embed, choose_target_image
from mmpoison.attacks.target_labels import require_clean_set
from mmpoison.base.seeding import generator
from mmpoison.errors import InputError
from mmpoison.pairs.table import PairDataset


@ATTACKS.register("single-target-image")
class SingleTargetImage:
    """Pairs captions of the original class with one image of the target class (the paper's Attack I).

    The target image is one of the gallery (split `test`), because the captions are to retrieve it. The poisoned pairs
    are training pairs nevertheless; the image's own captions stay test captions.

    Exactly one of `samples`, `pairs`, `rate` and `share` sets the amount.

    Args:
        goal: `A2B`, for example `sheep2aeroplane`.
        samples: Number of class-A training images whose captions are used (all captions of each).
        pairs: Number of poisoned pairs.
        rate: Poisoned pairs divided by all training pairs after the attack, in (0, 1); rounded down.
        share: Class-A training images whose captions are used, divided by all of them, in (0, 1].
        mode: `add` leaves the clean pairs in place (the default), `replace` removes them.
        target_image: `random` draws it from the class (the default); `centre` takes the one nearest to the mean
            embedding of the class's gallery images, under an encoder; or the id of an image.
        encoder: Name of the encoder for `centre`; the manifest records it, and `poison` receives the embeddings.
        carrier: Only `existing`. The target image is in the gallery and has no training pair of its own, so training
            sees it with the attacker's captions only, as `own` would have it. `own` is refused: it would give the same
            pairs under another name, and count as a second result.
        preset: `reference-release` means the choices of the authors' released code.

    Raises:
        InputError: If not exactly one amount is given, a value is out of range, the carrier is `own`, or the preset
            fixes another value.
    """

    name: ClassVar[str] = "single-target-image"
    kind: ClassVar[Kind] = "targeted"
    source: ClassVar[str] = "Yang et al., ICML 2023, Attack I"
    section: ClassVar[str] = "Attack Methodology, 'Attack I: single target image'; table 2"
    summary: ClassVar[str] = "captions of class A are paired with one image of class B"

    def __init__(
        self,
        goal: str,
        samples: int | None = None,
        pairs: int | None = None,
        rate: float | None = None,
        mode: Mode | None = None,
        *,
        share: float | None = None,
        target_image: str | None = None,
        encoder: str | None = None,
        carrier: Carrier | None = None,
        preset: str | None = None,
    ) -> None:
        self.goal = goal
        self.settings = Settings.of(
            preset, samples=samples, pairs=pairs, rate=rate, share=share, mode=mode, carrier=carrier
        )
        if self.settings.carrier != "existing":
            raise InputError(
                f"attack {self.name!r}: carrier {carrier!r} changes nothing here, because no training pair shows the "
                "target image with an honest caption: leave it out, or take attack 'single-target-label'"
            )
        chosen = choices(preset, {"target_image": RANDOM}, {"target_image": target_image})
        self.target_image: str = chosen["target_image"]
        if not isinstance(self.target_image, str) or not self.target_image:
            raise InputError(
                f"target_image {target_image!r} is neither random, nor centre, nor the id of an image"
            )
        if encoder is not None and self.target_image != CENTRE:
            raise InputError(
                f"encoder {encoder!r} is for target_image 'centre', not {self.target_image!r}"
            )
        self.encoder = encoder

    @property
    def options(self) -> dict[str, Any]:
        """All options, enough to build the attack again."""
        return {
            "goal": self.goal,
            **self.settings.options(without=["spread"]),
            "target_image": self.target_image,
            **({"encoder": self.encoder} if self.encoder is not None else {}),
        }

    @property
    def needs_embeddings(self) -> bool:
        """Whether `poison` must be given embeddings."""
        return self.target_image == CENTRE

    def poison(
        self, pairs: PairDataset, seed: int = 0, *, embed: Embed | None = None
    ) -> PairDataset:
        """Return a poisoned copy of a clean set.

        Args:
            pairs: A clean set with labelled train and test images.
            seed: Seed of the run; draws the captions and the target image from streams of their own.
            embed: For `centre`: gives embeddings `(n, d)` of images, called with the pairs and indices `(n,)`.

        Returns:
            The poisoned set. `manifest.target_images` names the target image.

        Raises:
            InputError: If the set is poisoned already, a class is unknown, A has no train image or B no test image, the
                target image is not one of B in the gallery, embeddings are needed and missing, or there are fewer
                captions than requested; the message says the largest possible amount.
        """
        goal = Goal.parse(self.goal, pairs.classes)
        require_clean_set(pairs)
        stream = f"attack/{self.name}/{goal}"
        target = choose_target_image(
            pairs, goal, self.target_image, generator(seed, f"{stream}/target"), embed
        )
        train = pairs.select(split="train")
        (rows,) = choose_captions(
            train,
            [goal],
            self.settings.amount,
            self.settings.mode,
            # the captions that attack II draws with the same seed and amount
            [generator(seed, f"attack/single-target-label/{goal}")],
        )
        return poison_set(
            pairs,
            poisoned_pairs(train, rows, np.full(len(rows), target, dtype=np.int32), goal),
            attack=self.name,
            options=self.options,
            goals=[goal],
            mode=self.settings.mode,
            seed=seed,
            target_images={str(goal): str(pairs.images.ids[target])},
        )
