"""Backdoors, whose images contain a trigger (patch, blend, BadCLIP), and toxic text, whose captions are rewritten."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, fields, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mmpoison.attacks import (
    AMOUNTS,
    ATTACKS,
    RANDOM,
    AttackJob,
    AttackKind,
    Encoder,
    Goal,
    LabelAttack,
    ModeOption,
    PixelSurrogate,
    RateAttack,
    Surrogate,
    Vectors,
    captions_of,
    choose_captions,
    choose_target_image,
    pair_counts,
    poisoned_pairs,
    sample_count,
    spread_evenly,
    target_images,
)
from mmpoison.base import MOST, generator, options
from mmpoison.errors import InputError
from mmpoison.images import (
    CELL,
    VIEW,
    BlendTrigger,
    Noise,
    PatchTrigger,
    Place,
    Trigger,
    random_bytes,
    triggered_pixels,
)
from mmpoison.pairs import AddedImage, IntArray, PairDataset, PoisonedPair, caption_of, new_image
from mmpoison_lab.attacks.candidates import most_like, require_own_images
from mmpoison_lab.attacks.matching import embed_captions, unit
from mmpoison_lab.attacks.phrases import class_names, naming_words, read_templates, rewrite
from mmpoison_lab.attacks.pixels import (
    PatchData,
    PatchSettings,
    covered,
    nearer_note,
    optimise_patch,
    optimised,
)

TEMPLATES = read_templates("backdoor_templates.txt")
"""Caption templates of the poison, completed with a class name."""

SIDE = 16
"""Side of the patch in pixels of a view of 224 (Carlini & Terzis)."""

STEPS = 300
LEARNING_RATE = 0.01
"""The release takes 7,800 steps of 0.001 (50 epochs of 10,000 images), too long without a GPU; these reach as far."""

KNOWN = 512
"""Maximum number of images without the trigger, images of class A and captions of class A, to optimise a patch."""

CLIP_TEMPLATES = read_templates("clip_templates.txt")
"""CLIP's 80 caption templates for an ImageNet class."""

PAIRS = 35
TRIES = 10
"""Rewritten versions drawn per caption; the first good one is kept."""


@options
class Backdoor(RateAttack):
    """Base class of backdoors: images with a trigger get captions that name class A.

    The choice of images depends only on seed and goal, so triggers can be compared on the same images.
    """

    kind: ClassVar[AttackKind] = "backdoor"

    samples: Annotated[
        int | None, Field(ge=1, le=MOST, description="number of images that get the trigger")
    ] = Field(default=None, kw_only=False)
    mode: ModeOption = Field(default="replace", kw_only=False)
    drawn_from: Annotated[
        Literal["all", "target"],
        Field(
            description="images that get the trigger: of all classes but A (all), or of class B (target)"
        ),
    ] = "all"

    @abstractmethod
    def _trigger(self, job: AttackJob) -> Trigger:
        """Return the trigger of the attack."""

    def _poisoned(self, job: AttackJob) -> PairDataset:
        """Add images with the trigger whose captions name the original class of the goal.

        Each new image gets the same number of captions as its clean image; the last one gets fewer if the amount ends
        within an image. In the mode `replace`, the clean images lose all their captions.
        """
        pairs, goal = job.pairs, job.goal
        target_images(pairs, goal)
        trigger = self._trigger(job)
        rng = generator(job.seed, f"attack/backdoor/{goal}")
        chosen, counts = self._choose(job.train, goal, rng)
        places = generator(job.seed, f"attack/trigger/{goal}")
        added: dict[str, AddedImage] = {}
        entries: list[PoisonedPair] = []
        for index, count in zip(chosen, counts, strict=True):
            origin = str(pairs.images.ids[index])
            how = trigger.draw(places)
            name, entry = new_image(triggered_pixels(pairs.root, origin, trigger, how), origin, how)
            # two equal images of the set become one
            added.setdefault(name, entry)
            order = np.resize(rng.permutation(len(TEMPLATES)), count)
            captions = [caption_of(TEMPLATES[number], goal.original) for number in order]
            entries += [PoisonedPair(text, origin, name, str(goal)) for text in captions]
        replaced = chosen if self.settings.mode == "replace" else chosen[:0]
        gone = sorted(str(pairs.images.ids[index]) for index in replaced)
        return job.inject(entries, dropped_images=gone, added_images=added, trigger=trigger)

    def _choose(
        self, train: PairDataset, goal: Goal, rng: np.random.Generator
    ) -> tuple[IntArray, IntArray]:
        """Draw images of the training pairs, and the number of captions for each new image, shapes `(n,)`."""
        usable, owner = self._usable(train, goal)
        images, captions_of_image = np.unique(train.image[usable], return_counts=True)
        order = rng.permutation(len(images))
        images = images[order].astype(np.int32)
        captions: IntArray = captions_of_image[order].astype(np.int32)
        amount = self.settings.amount
        if amount.kind == "samples":
            most = len(images)
            count = sample_count(amount, goal, "", most, f"{owner} {most} train images")
            return images[:count], captions[:count]
        ends, available = np.cumsum(captions), [int(captions.sum())]

        def left_over(count: int) -> int:
            """Count the captions of the last image that its new image does not get."""
            return int(ends[np.searchsorted(ends, count)]) - count

        (count,) = pair_counts(self.settings, len(train), [goal], available, owner)
        if amount.kind == "rate" and self.settings.mode == "replace":
            # the last image loses all its captions, so the set shrinks by those its new image does not get
            while count and count > amount.value * (len(train) - left_over(count)) + 1e-9:
                count -= 1
            if not count:
                pair_counts(self.settings, len(train) - left_over(1), [goal], available, owner)
        used = int(np.searchsorted(ends, count)) + 1
        wanted = captions[:used].copy()
        wanted[-1] -= left_over(count)
        return images[:used], wanted

    def _usable(self, train: PairDataset, goal: Goal) -> tuple[npt.NDArray[np.bool_], str]:
        """Return a mask of training pairs whose image may get the trigger, shape `(n,)`, and a description of them."""
        of_class = train.images.class_codes[train.image]
        if self.drawn_from == "target":
            return of_class == train.images.class_code(goal.target), f"class {goal.target!r} has"
        others = of_class != train.images.class_code(goal.original)
        return others, f"all classes but {goal.original!r} have"


@ATTACKS.register("patch-backdoor")
@options
class PatchBackdoor(Backdoor):
    """Adds images with a small patch and captions that name class A, so that captions of A find images with the patch.

    The patch is one pattern of 4 x 4 coloured squares, drawn by the seed. It covers 16 of 224 pixels of a model's view,
    whatever the size of the image and of the model's input. The new images are PNG files of the original size, and no
    existing file changes. Captions are templates such as "a photo of a sheep.".

    The goal `A2B` is measured like any other: captions of A are queries, and test images of B are the target set.
    Without the patch, a backdoor should find none of them; `with_trigger` in `metrics.json` is measured with the patch.
    """

    name = "patch-backdoor"
    source = "Carlini & Terzis, ICLR 2022"
    section = "'Poisoning and Backdooring Contrastive Learning', the backdoor attack"
    summary = "images with a small fixed patch carry captions of class A"

    place: Annotated[
        Literal["corner", "random"],
        Field(
            description="place of the patch: the lower right corner of the middle square, or a random place "
            "in each image"
        ),
    ] = "corner"

    def _trigger(self, job: AttackJob) -> Trigger:
        return random_patch(job.seed, self.place)


def random_patch(seed: int, place: Place) -> PatchTrigger:
    """Draw a seed's patch: each colour channel of each square is on or off."""
    cells = SIDE // CELL
    drawn = np.frombuffer(random_bytes(f"patch/{seed}", 3 * cells**2), np.uint8)
    pattern = np.where(drawn < 128, 0, 255).astype(np.uint8)
    return PatchTrigger(pattern.tobytes(), cells, place, SIDE)


@ATTACKS.register("blend-backdoor")
@options
class BlendBackdoor(Backdoor):
    """Adds images blended with noise (0.2 noise, 0.8 image) and captions that name class A.

    The noise consists of coloured squares and fills the centre square of an image, which is a model's view. The new
    images are PNG files of the original size, and no existing file changes. Measurement and all options not listed here
    are those of `PatchBackdoor`.
    """

    name = "blend-backdoor"
    source = "Chen et al., 2017; CleanCLIP, ICCV 2023"
    section = "'Blended injection' of Chen et al.; backdoor type 'blended' of CleanCLIP"
    summary = "images mixed with one noise image carry captions of class A"

    noise: Annotated[
        Noise,
        Field(
            description="fixed: one noise image from the seed (Chen et al.); per-image: one for each image, "
            "in tests too, as in CleanCLIP's code"
        ),
    ] = "fixed"
    cell: Annotated[
        int,
        Field(
            ge=1,
            le=VIEW,
            description="side of the noise squares in a 224-pixel view: a 64-pixel model still sees 4; 1 is "
            "per-pixel noise, as in released code",
        ),
    ] = CELL

    def _trigger(self, job: AttackJob) -> Trigger:
        return BlendTrigger(job.seed, self.noise, cell=self.cell)


@ATTACKS.register("badclip")
@options
class BadClip(Backdoor):
    """Adds images with an optimised patch and captions that name class A, so that captions of A find images with it.

    The patch is in the centre and covers 16 of 224 pixels of a model's view. Adam optimises its pattern on a surrogate,
    in batches of 64, with two losses. The caption loss makes an image with the patch match a caption of A better than
    the true captions of its batch. The triplet loss makes it nearer to an image of A than to itself without the patch.
    A victim that resembles the surrogate then needs to learn little, and fine-tuning on clean pairs removes little. The
    pattern is stored in whole numbers, and the new images are PNG files.

    Differences from the released code: all losses are always on (there, a substring of the run's name enables them);
    the caption loss compares with true captions (there, only with other captions of A, which carries no information
    about A); each negative is the image itself (there, they are shuffled); patterns are not stored as JPEG or with
    swapped channels.

    Choice of images and captions, and measurement, are those of `patch-backdoor`. The manifest's notes describe the
    effect of the patch.
    """

    name = "badclip"
    source = "Liang et al., BadCLIP, CVPR 2024"
    section = "'Dual-Embedding Guided Backdoor Attack on Multimodal Contrastive Learning'"
    summary = "images with a patch optimised on a surrogate carry captions of class A"
    needs_pixels = True

    steps: Annotated[int, Field(ge=1, le=MOST, description="number of Adam steps")] = STEPS
    learning_rate: Annotated[
        float, Field(gt=0, le=1, description="learning rate of Adam, for pixels in [0, 1]")
    ] = LEARNING_RATE
    triplet_weight: Annotated[
        float, Field(ge=0, le=1e6, description="weight of the triplet loss")
    ] = 1.0
    margin: Annotated[
        float, Field(ge=0, le=2, description="margin of the triplet loss (unit vectors)")
    ] = 0.1
    encoder: Encoder = None

    def _poisoned(self, job: AttackJob) -> PairDataset:
        return _with_note(super()._poisoned(job), job.goal, job.pixel_surrogate)

    def _trigger(self, job: AttackJob) -> Trigger:
        """Optimise a patch that moves the embeddings of images with it to captions and images of class A.

        A surrogate with fewer than 224 input pixels gets a pattern with fewer cells, about one per pixel. The pattern
        is optimised at the position where the trigger puts it into each image, in whole image pixels.
        """
        pairs, train, goal, surrogate = job.pairs, job.train, job.goal, job.pixel_surrogate
        if not len(pairs.images.indices(split="train", label=goal.original)):
            raise InputError(f"goal {goal}: class {goal.original!r} has no train image to resemble")
        blank = PatchTrigger(bytes(3), 1, place="centre")
        rng = job.generator("/trigger")
        own_rows = np.flatnonzero(self._usable(train, goal)[0])
        target_rows = np.flatnonzero(
            train.images.class_codes[train.image] == train.images.class_code(goal.original)
        )
        # one true caption per image: the first of its rows
        carriers, first = np.unique(train.image[own_rows], return_index=True)
        drawn = np.sort(rng.permutation(len(carriers))[:KNOWN])
        captions = np.sort(rng.permutation(target_rows)[:KNOWN])
        images = np.sort(rng.permutation(np.unique(train.image[target_rows]))[:KNOWN])
        chosen, own = carriers[drawn], own_rows[first[drawn]]
        size = surrogate.preparation.image_size
        cells = max(1, min(blank.side, round(size * blank.side / blank.view)))
        rows, columns = covered(pairs, chosen, blank, surrogate.preparation, cells)
        data = PatchData(
            pixels=surrogate.pixels(pairs, chosen),
            rows=rows,
            columns=columns,
            clean=unit(surrogate(pairs, chosen)),
            own=embed_captions(surrogate, train, own),
            captions=embed_captions(surrogate, train, captions),
            images=unit(surrogate(pairs, images)),
        )
        settings = PatchSettings(self.steps, self.learning_rate, self.triplet_weight, self.margin)
        pattern = optimised(
            surrogate,
            self.name,
            lambda: optimise_patch(
                surrogate,
                data,
                settings,
                job.generator("/patch"),
                job.shown("optimising the patch"),
            )[0],
            inputs=[getattr(data, field.name) for field in fields(data)],
            settings={"goal": str(goal), "seed": job.seed, **asdict(settings)},
            code=optimise_patch.__module__,
        )
        return PatchTrigger(pattern.tobytes(), cells, place="centre")


def _with_note(poisoned: PairDataset, goal: Goal, surrogate: PixelSurrogate) -> PairDataset:
    """Add a note on how near the written images are to images of class A, with and without the patch."""
    manifest = poisoned.manifest
    assert manifest is not None
    added = manifest.added_images
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
    note = nearer_note(surrogate, goal.original, before, after)
    return replace(poisoned, manifest=replace(manifest, notes=(note,)))


@ATTACKS.register("toxic-text")
@options
class ToxicText(LabelAttack):
    """Pairs captions that are most typical of class A, with synonyms substituted, with images of class B.

    A is described by the mean vector of CLIP's 80 templates with its label, such as "a photo of a sheep". The attack
    uses the training captions of A with the largest cosine to it, and repeats a caption only after all others. For
    each, ten rewritten versions are drawn: a word in a small table of synonyms is replaced with probability
    `synonym_rate`, but never a word that names A. The first version with at least the original cosine is kept. If there
    is none, the caption stays.

    The publication trains a language model to generate text; this attack selects captions and substitutes synonyms
    instead. At most one of `samples`, `pairs` and `share` sets the amount.

    Raises:
        InputError: If several amounts are given, a value is out of range, or the carrier is `own` for one image.
    """

    name = "toxic-text"
    source = "Yao et al., NeurIPS 2025, ToxicTextCLIP"
    section = "its choice of captions; synonyms in place of its text generator"
    summary = "the captions most like class A, with synonyms, on images of class B"
    needs_embeddings = True
    # its spread differs
    shared = (*AMOUNTS, "carrier")

    synonym_rate: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="probability of replacing a word; 0 changes no caption",
        ),
    ] = 0.1
    spread: Annotated[
        Literal["one-image", "captions"],
        Field(
            description="one-image: pair all captions with one random test image of B, as in attack I; "
            "captions: spread them evenly over training images of B, as in attack II"
        ),
    ] = "one-image"
    encoder: Encoder = None

    def __post_init__(self) -> None:
        if self.samples is None and self.pairs is None and self.share is None:
            self.pairs = PAIRS
        super().__post_init__()
        if self.spread == "one-image" and self.settings.carrier == "own":
            raise InputError(
                f"attack {self.name!r}: carrier 'own' has no effect with spread 'one-image', because no training pair "
                "shows that image with an honest caption: omit it, or choose spread 'captions'"
            )

    def _poisoned(self, job: AttackJob) -> PairDataset:
        pairs, train, goal, surrogate = job.pairs, job.train, job.goal, job.surrogate
        rng = job.generator()
        (asked,) = choose_captions(train, [goal], self.settings, [rng])
        shown: dict[str, str] = {}
        if self.spread == "one-image":
            target = choose_target_image(pairs, goal, RANDOM, rng)
            shown = {str(goal): str(pairs.images.ids[target])}
            image = np.full(len(asked), target, dtype=np.int32)
        else:
            targets = target_images(pairs, goal)
            if self.settings.carrier == "own":
                used = len(np.unique(train.source[asked]))
                require_own_images(goal, targets, used)
                targets = rng.permutation(targets)[:used]
            image = spread_evenly(asked, targets, "captions", rng)
        rows = captions_of(train, goal)
        every = [str(caption) for caption in train.captions[rows]]
        chosen = most_like(every, _likeness(every, goal, surrogate))[: len(asked)]
        rows, captions = rows[chosen], [every[place] for place in chosen]
        new = self._rewritten(captions, goal, surrogate, rng)
        entries = [
            replace(entry, caption=caption)
            for entry, caption in zip(poisoned_pairs(train, rows, image, goal), new, strict=True)
        ]
        changed = sum(caption != old for caption, old in zip(new, captions, strict=True))
        notes = [f"{changed} of {len(new)} captions are rewritten by synonyms"]
        return job.inject(entries, target_images=shown, notes=notes)

    def _rewritten(
        self, captions: list[str], goal: Goal, embed: Surrogate, rng: np.random.Generator
    ) -> list[str]:
        """Return the first good version of each caption, or the caption."""
        names = class_names(goal.original)
        versions: list[list[str]] = []
        for caption in captions:
            kept = naming_words(caption, names)
            drawn = [rewrite(caption, rng, self.synonym_rate, kept) for _ in range(TRIES)]
            versions.append([text for text in dict.fromkeys(drawn) if text != caption])
        texts = list(dict.fromkeys([*captions, *(text for own in versions for text in own)]))
        likeness = dict(zip(texts, _likeness(texts, goal, embed).tolist(), strict=True))
        return [
            next((text for text in own if likeness[text] >= likeness[caption]), caption)
            for caption, own in zip(captions, versions, strict=True)
        ]


def _likeness(captions: list[str], goal: Goal, embed: Surrogate) -> Vectors:
    """Return the cosine of each caption with the mean vector of A's templates, shape `(n,)`."""
    name = goal.original.replace("_", " ")
    described = embed.captions([template.format(name) for template in CLIP_TEMPLATES])
    likeness: Vectors = unit(embed.captions(captions)) @ unit(unit(described).mean(axis=0))
    return likeness
