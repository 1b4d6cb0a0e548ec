"""The three attacks of the paper (Yang et al., ICML 2023): single target image, single and multiple target labels."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from mmpoison.attacks.catalogue import ATTACKS, AttackJob, BaseAttack, RateAttack
from mmpoison.attacks.settings import (
    GOAL,
    CarrierOption,
    Encoder,
    ModeOption,
    Pairs,
    PresetOption,
    Rate,
    Samples,
    Share,
    SpreadOption,
    TargetImage,
    WordsOption,
    choices,
)
from mmpoison.attacks.target_labels import (
    CENTRE,
    RANDOM,
    STREAM,
    choose_captions,
    choose_target_image,
    images_without_honest_captions,
    poison_labels,
    poisoned_pairs,
)
from mmpoison.base.options import Listed, options
from mmpoison.base.seeding import generator
from mmpoison.errors import InputError
from mmpoison.pairs.table import PairDataset


@ATTACKS.register("single-target-image")
@options
class SingleTargetImage(RateAttack):
    """Pairs captions of the original class with one image of the target class (the paper's Attack I).

    The target image is in the gallery (split `test`), because the captions are meant to retrieve it. The poisoned pairs
    are training pairs nevertheless, and the image's own captions remain test captions. The manifest's `target_images`
    names the target image. Captions and target image use separate random streams.

    The carrier is `existing`. The target image has no training pair of its own, so training sees it only with the
    attacker's captions, exactly as with `own`. `own` is therefore refused: it would count the same pairs twice.

    Raises:
        InputError: If not exactly one amount is given, a value is out of range, the carrier is `own`, or the preset
            fixes a different value.
    """

    name = "single-target-image"
    source = "Yang et al., ICML 2023, Attack I"
    section = "Attack Methodology, 'Attack I: single target image'; table 2"
    summary = "captions of class A are paired with one image of class B"

    mode: ModeOption = Field(default=None, kw_only=False)
    share: Share = None
    target_image: TargetImage = None
    encoder: Encoder = None
    carrier: CarrierOption = None
    preset: PresetOption = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.settings.carrier != "existing":
            raise InputError(
                f"attack {self.name!r}: carrier {self.carrier!r} has no effect, because no training pair shows the "
                "target image with an honest caption: omit it, or choose attack 'single-target-label'"
            )
        given = {"target_image": self.target_image}
        chosen = choices(self.preset, {"target_image": RANDOM}, given)["target_image"]
        if self.encoder is not None and chosen != CENTRE:
            raise InputError(
                f"encoder {self.encoder!r} applies to target_image 'centre' only, not to {chosen!r}"
            )
        self.target_image = chosen

    @property
    def needs_embeddings(self) -> bool:
        """Whether `poison` needs embeddings."""
        return self.target_image == CENTRE

    def _poisoned(self, job: AttackJob) -> PairDataset:
        images = job.pairs.images
        choice = self.target_image or RANDOM
        rng = job.generator("/target")
        target = choose_target_image(job.pairs, job.goal, choice, rng, job.embed)
        # the same captions as attack II with the same seed and amount
        rngs = [generator(job.seed, f"{STREAM}/{job.goal}")]
        (rows,) = choose_captions(job.train, [job.goal], self.settings, rngs)
        image = np.full(len(rows), target, dtype=np.int32)
        entries = poisoned_pairs(job.train, rows, image, job.goal)
        return job.inject(entries, target_images={str(job.goal): str(images.ids[target])})


@ATTACKS.register("single-target-label")
@options
class SingleTargetLabel(RateAttack):
    """Pairs captions of the original class with training images of the target class, evenly (the paper's Attack II).

    The seed determines which images of A are used, and which image of B each caption gets. Every B image is used
    equally often; the remainder is drawn without repetition.

    A rate is rounded down, so it never exceeds the requested rate. A share is rounded to a whole number of images,
    halves to the even number.

    With the carrier `existing` (the paper's), images of class B keep their true captions. The carrier `own` models
    images posted by the attacker: for each image of A, one training image of B loses its true captions and carries the
    captions of that image instead. With `spread="captions"`, the captions are spread evenly over the same images.

    `words` is for classes derived from a keyword in one of an image's captions, as in Visual Genome.

    Raises:
        InputError: If not exactly one amount is given, a value is out of range, or the preset fixes a different value.
    """

    name = "single-target-label"
    source = "Yang et al., ICML 2023, Attack II"
    section = "Attack Methodology, 'Attack II: single target label'; table 3"
    summary = "captions of class A are paired with the images of class B"

    mode: ModeOption = Field(default=None, kw_only=False)
    share: Share = None
    spread: SpreadOption = None
    carrier: CarrierOption = None
    words: WordsOption = None
    preset: PresetOption = None

    def _poisoned(self, job: AttackJob) -> PairDataset:
        return job.inject(poison_labels(job.pairs, job.goals, self.settings, job.seed))


@ATTACKS.register("multiple-target-labels")
@options
class MultipleTargetLabels(BaseAttack):
    """Attack II for several goals at once, in one injection (the paper's Attack III).

    Each goal gets the pairs that attack II draws for it with the same seed and amount.

    `samples`, `pairs` and `share` apply to each goal, as in the paper (25 samples for each of two goals on
    Flickr-PASCAL). `rate` applies to the whole set; its pairs are divided evenly among the goals. With the carrier
    `own`, each goal has its own images, and no image is used twice.

    The preset leaves out a defect of the released code, which `drop_last_targets` reproduces: the code removes the
    clean pairs of the second goal's images. The model then sees these images only with false captions, and the last
    goal looks easier than it is. This is not part of the protocol.

    Raises:
        InputError: If there are fewer than two goals, a goal is repeated, not exactly one amount is given, a value is
            out of range, or the preset fixes a different value.
    """

    name = "multiple-target-labels"
    source = "Yang et al., ICML 2023, Attack III"
    section = "Attack Methodology, 'Attack III: multiple target labels'; table 4"
    summary = "several goals at once, each as in attack II"

    goals: Listed[list[str]] = Field(
        kw_only=False, description=f"two or more goals, with different original classes. {GOAL}"
    )
    samples: Samples = Field(default=None, kw_only=False)
    pairs: Pairs = Field(default=None, kw_only=False)
    rate: Rate = Field(default=None, kw_only=False)
    mode: ModeOption = Field(default=None, kw_only=False)
    share: Share = None
    spread: SpreadOption = None
    carrier: CarrierOption = None
    preset: PresetOption = None
    drop_last_targets: Annotated[
        bool,
        Field(
            description="remove the clean training pairs of the last goal's target images (a defect of the release)"
        ),
    ] = False

    def __post_init__(self) -> None:
        if len(self.goals) < 2:
            raise InputError(
                f"{self.name} needs at least two goals, got {', '.join(self.goals) or 'none'}: for one goal use "
                "single-target-label"
            )
        super().__post_init__()

    def _poisoned(self, job: AttackJob) -> PairDataset:
        entries = poison_labels(job.pairs, job.goals, self.settings, job.seed)
        dropped = set(images_without_honest_captions(entries, self.settings))
        if self.drop_last_targets:
            last = str(job.goals[-1])
            dropped |= {entry.poisoned_image for entry in entries if entry.goal == last}
        return job.inject(entries, dropped_images=sorted(dropped))
