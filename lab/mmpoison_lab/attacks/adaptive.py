"""Attackers who know this package's filters, or use a model to choose inconspicuous pairs.

They add pairs and remove nobody else's, so they have no `mode`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mmpoison.attacks import (
    ATTACKS,
    GOAL,
    AttackJob,
    BaseAttack,
    CarrierOption,
    Encoder,
    Goal,
    LabelAttack,
    RateAttack,
    Samples,
    Share,
    SpreadOption,
    Surrogate,
    Vectors,
    captions_of,
    choose_captions,
    images_without_honest_captions,
    original_of_auto,
    poison_labels,
    poisoned_pairs,
    sample_count,
    target_images,
)
from mmpoison.base import MOST, Listed, generator, options
from mmpoison.errors import InputError
from mmpoison.pairs import IntArray, PairDataset, PoisonedPair, new_image
from mmpoison_lab.attacks.candidates import draw_candidates, most_like
from mmpoison_lab.attacks.matching import Matching, embed_captions, nearest_classes, unit
from mmpoison_lab.attacks.phrases import noun_phrase
from mmpoison_lab.attacks.pixels import collide, embed_pixels, nearer_note, optimised

Index = npt.NDArray[np.intp]

CONNECTORS = ("next to", "near", "with", "behind", "in front of", "and", "close to", "along with")
"""Phrases that join the two names of `both-names`."""

FIT_ON = 2_000
"""Maximum number of captions, and of images, for fitting a clustering of `under-the-grid`."""

MOST_CLUSTERS = 80
IMAGES_IN_CLUSTER = 25
REPEATS = 3
"""Up to 80, 40 and 20 clusters, with at least 25 images on average; three clusterings of each size."""


class AdaptiveAttack(BaseAttack):
    """An attacker who knows the filters. By default the attacker's own images carry the false captions."""

    source = "mmpoison, adaptive attackers"
    section = "lab/docs/tasks/other-attacks.md, 'Attackers who know the filter'"
    carrier: CarrierOption = "own"


@options
class AdaptiveLabelAttack(AdaptiveAttack, LabelAttack):
    """An adaptive attacker with the common attack options."""

    carrier: CarrierOption = "own"


@ATTACKS.register("self-vouched")
@options
class SelfVouched(AdaptiveAttack):
    """Gives each image in a share of class B all captions of one image of class A, and no others.

    Targets filters that use an image's other captions, or similar images: the false captions of an image agree with
    each other, and many images of B carry them. The images represent the attacker's own (carrier `own`). If there are
    fewer images of A, they are used in turn.
    """

    name = "self-vouched"
    summary = "a share of the images of class B carries captions of class A only"

    goal: str = Field(kw_only=False, description=GOAL)
    samples: Annotated[
        int | None,
        Field(ge=1, le=MOST, description="number of training images of B that carry captions of A"),
    ] = None
    share: Annotated[
        float | None,
        Field(
            gt=0,
            le=1,
            description="share of the class-B training images that carry captions of A",
        ),
    ] = None

    def _poisoned(self, job: AttackJob) -> PairDataset:
        goal, train = job.goal, job.train
        targets = target_images(job.pairs, goal)
        count = sample_count(self.settings.amount, goal, goal.target, len(targets))
        rng = job.generator()
        carriers = rng.permutation(targets)[:count]
        rows = captions_of(train, goal)
        sources = np.resize(rng.permutation(np.unique(train.source[rows])), len(carriers))
        own = [rows[train.source[rows] == source] for source in sources]
        image = np.repeat(carriers, [len(captions) for captions in own])
        return job.inject(poisoned_pairs(train, np.concatenate(own), image, goal))


@ATTACKS.register("orphan")
@options
class Orphan(AdaptiveLabelAttack):
    """Attack II on a class A without any clean training captions, with the same pairs for the same seed.

    Targets filters that learn from clean captions of A which images match them. The attacker chooses a topic that the
    data set lacks: all clean training pairs with images of A are removed.
    """

    name = "orphan"
    summary = "attack II where class A has no clean training captions"

    spread: SpreadOption = None

    def _poisoned(self, job: AttackJob) -> PairDataset:
        entries = poison_labels(job.pairs, job.goals, self.settings, job.seed)
        images = job.pairs.images
        originals = images.indices(split="train", label=job.goal.original)
        dropped = {str(image_id) for image_id in images.ids[originals]}
        dropped.update(images_without_honest_captions(entries, self.settings))
        return job.inject(entries, dropped_images=sorted(dropped))


@ATTACKS.register("decoys")
@options
class Decoys(AdaptiveLabelAttack):
    """Attack II, hidden by small groups of false pairs between other classes.

    Targets filters that measure how unusual a group of conflicting pairs is: decoys make such groups more usual. Each
    decoy puts all captions of a few images of a class C on the same number of images of a class D. C is not A, D is not
    B, no two decoys share C and D, and no image is used twice. The manifest lists their pairs with the goal `C2D`, but
    only the attack's own goal among its goals, so decoys are not measured. The pairs of the goal are those of attack II
    with the same seed. Data with too few images for the decoys are refused.

    Exactly one of `samples`, `pairs` and `share` sets the amount of the attack's own goal; the decoys are added to it.
    """

    name = "decoys"
    summary = "attack II hidden among small false groups between other classes"

    decoys: Annotated[int, Field(ge=1, le=MOST, description="number of decoys")] = 20
    decoy_samples: Annotated[
        int, Field(ge=1, le=MOST, description="images of C, and of D, in each decoy")
    ] = 3
    spread: SpreadOption = None

    def _poisoned(self, job: AttackJob) -> PairDataset:
        entries = poison_labels(job.pairs, job.goals, self.settings, job.seed)
        return job.inject(entries + self._decoys(job, entries))

    def _decoys(self, job: AttackJob, main: list[PoisonedPair]) -> list[PoisonedPair]:
        pairs, train, goal, rng = job.pairs, job.train, job.goal, job.generator()
        taken = {entry.clean_image for entry in main} | {entry.poisoned_image for entry in main}
        free = {
            name: [
                int(image)
                for image in rng.permutation(pairs.images.indices(split="train", label=name))
                if pairs.images.ids[image] not in taken
            ]
            for name in pairs.classes
        }
        captioned = set(train.used_images().tolist())
        every = [
            Goal(c, d)
            for c in pairs.classes
            for d in pairs.classes
            if c != d and c != goal.original and d != goal.target
        ]
        entries: list[PoisonedPair] = []
        made = 0
        for place in rng.permutation(len(every)):
            decoy = every[place]
            sources = [i for i in free[decoy.original] if i in captioned][: self.decoy_samples]
            carriers = free[decoy.target][: self.decoy_samples]
            if made == self.decoys or min(len(sources), len(carriers)) < self.decoy_samples:
                continue
            for source, carrier in zip(sources, carriers, strict=True):
                rows = np.flatnonzero(train.source == source).astype(np.int32)
                entries += poisoned_pairs(train, rows, np.full(len(rows), carrier), decoy)
            free[decoy.original] = [i for i in free[decoy.original] if i not in sources]
            free[decoy.target] = [i for i in free[decoy.target] if i not in carriers]
            made += 1
        if made < self.decoys:
            raise InputError(
                f"goal {goal}: {self.decoys} decoys of {self.decoy_samples} images requested, but the other classes "
                f"have images for only {made}: give fewer decoys or decoy_samples"
            )
        return entries


@ATTACKS.register("both-names")
@options
class BothNames(AdaptiveLabelAttack):
    """Attack II with captions that name both classes: a caption of A, a connector, and the object of a true caption.

    Targets filters that compare a caption with its image: half of the caption is true, for example "a sheep in a field
    next to a white plane". Attack II chooses captions and images; the true caption is drawn from the image's captions.
    The goal is measured with plain captions of A.
    """

    name = "both-names"
    summary = "captions that name class A and what the image of class B shows"

    connector: Annotated[
        Literal["random", "nearest"],
        Field(
            description="random: one of eight connectors for each caption; nearest: the connector whose "
            "sentence is nearest to the true caption under a surrogate"
        ),
    ] = "random"
    encoder: Encoder = None
    spread: SpreadOption = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder is not None and self.connector != "nearest":
            raise InputError(
                f"encoder {self.encoder!r} applies to connector 'nearest' only, not to {self.connector!r}"
            )

    @property
    def needs_embeddings(self) -> bool:
        """Whether `poison` needs a surrogate."""
        return self.connector == "nearest"

    def _poisoned(self, job: AttackJob) -> PairDataset:
        entries = poison_labels(job.pairs, job.goals, self.settings, job.seed)
        rng = job.generator()
        true = _true_captions(job.train, entries, rng)
        choices = [
            [both_names(entry.caption, connector, caption) for connector in CONNECTORS]
            for entry, caption in zip(entries, true, strict=True)
        ]
        if self.connector == "nearest":
            best = _nearest(choices, true, job.surrogate)
        else:
            best = rng.integers(len(CONNECTORS), size=len(entries)).tolist()
        return job.inject(
            [
                replace(entry, caption=texts[place])
                for entry, texts, place in zip(entries, choices, best, strict=True)
            ]
        )


def both_names(caption: str, connector: str, true: str) -> str:
    """Join a caption with the object of another.

    >>> both_names("A sheep in a field.", "next to", "A white plane is parked on the runway.")
    'A sheep in a field next to a white plane.'
    """
    text = caption.rstrip()
    stripped = text.rstrip(" .!?")
    return f"{stripped} {connector} {noun_phrase(true)}{text[len(stripped) :]}"


def _true_captions(
    train: PairDataset, entries: Sequence[PoisonedPair], rng: np.random.Generator
) -> list[str]:
    """Draw a true caption of each pair's false image; empty if the image has none."""
    captions: dict[str, list[str]] = {entry.poisoned_image: [] for entry in entries}
    for image_id, caption in zip(train.images.ids[train.image], train.captions, strict=True):
        if image_id in captions:
            captions[image_id].append(str(caption))
    every = [captions[entry.poisoned_image] for entry in entries]
    return [true[int(rng.integers(len(true)))] if true else "" for true in every]


def _nearest(choices: list[list[str]], true: list[str], embed: Surrogate) -> list[int]:
    sentences = unit(embed.captions([text for texts in choices for text in texts]))
    vectors = unit(embed.captions(true))
    cosine = np.einsum("ncd,nd->nc", sentences.reshape(len(true), len(CONNECTORS), -1), vectors)
    return [int(place) for place in cosine.argmax(axis=1)]


@ATTACKS.register("under-the-grid")
@options
class UnderTheGrid(AdaptiveAttack):
    """Spreads the poison so that no cell of the attacker's clusterings has more than `per_cell` poisoned images.

    Targets filters that cluster captions and images and count conflicting pairs in the cells. The attacker computes
    nine clusterings of a surrogate's vectors, with seeds that differ from the filter's. A training image of B gets all
    captions of one image of A if each of their cells then has at most `per_cell` poisoned images. This continues until
    enough images of each goal are placed or none fits. A single goal has room for few images, so the attacker uses
    several original classes for one target class. The amount applies to each goal; the manifest's notes list goals with
    fewer images than requested.
    """

    name = "under-the-grid"
    summary = "few poisoned images in each cell of captions and images"
    needs_embeddings = True

    goals: Listed[list[str]] = Field(
        min_length=1,
        kw_only=False,
        description=f"one or several goals, with different original classes. {GOAL}",
    )
    samples: Samples = None
    share: Share = None
    per_cell: Annotated[
        int, Field(ge=1, le=MOST, description="maximum number of poisoned images in a cell")
    ] = 1
    encoder: Encoder = None
    carrier: CarrierOption = "own"

    def _poisoned(self, job: AttackJob) -> PairDataset:
        goals, train = job.goals, job.train
        targets = [target_images(job.pairs, goal) for goal in goals]
        rngs = [job.generator(goal=goal) for goal in goals]
        asked = choose_captions(train, goals, self.settings, rngs)
        wanted = [len(np.unique(train.source[own])) for own in asked]
        rows = np.concatenate([captions_of(train, goal) for goal in goals])
        images = np.unique(np.concatenate(targets))
        rng = generator(job.seed, f"attack/{self.name}/clusters")
        grid = Grid(train, job.surrogate, rows, images, rng, self.per_cell)
        entries, placed = _place(train, goals, targets, wanted, grid, rngs)
        notes = [
            f"goal {goal}: only {found} of the {count} requested images fit with at most {self.per_cell} in each cell"
            for goal, found, count in zip(goals, placed, wanted, strict=True)
            if found < count
        ]
        return job.inject(entries, notes=notes)


class Grid:
    """Counts the poisoned images in the cells of several clusterings.

    Args:
        train: The clean training pairs.
        embed: The surrogate.
        rows: Available captions, rows of `train`.
        images: Available images, sorted.
        rng: Draws the clusterings.
        per_cell: Maximum number of poisoned images per cell.
    """

    def __init__(
        self,
        train: PairDataset,
        embed: Surrogate,
        rows: IntArray,
        images: IntArray,
        rng: np.random.Generator,
        per_cell: int,
    ) -> None:
        known = train.used_images()
        fit_rows = rng.permutation(len(train))[:FIT_ON]
        fit_images = rng.permutation(known)[:FIT_ON].astype(np.int32)
        texts, text_mean = _centred(embed_captions(embed, train, fit_rows))
        pictures, image_mean = _centred(unit(embed(train, fit_images)))
        own_texts = unit(embed_captions(embed, train, rows) - text_mean)
        own_images = unit(unit(embed(train, images)) - image_mean)
        most = max(4, min(MOST_CLUSTERS, len(known) // IMAGES_IN_CLUSTER))
        self.clusterings = [
            (_clusters(texts, own_texts, size, rng), _clusters(pictures, own_images, size, rng))
            for size in sorted({max(2, most // part) for part in (1, 2, 4)})
            for _ in range(REPEATS)
        ]
        self._counts = [
            np.zeros((text.max() + 1, image.max() + 1), dtype=np.intp)
            for text, image in self.clusterings
        ]
        self._per_cell = per_cell
        self._row = {int(row): place for place, row in enumerate(rows)}
        self._image = {int(image): place for place, image in enumerate(images)}

    def fits(self, rows: IntArray, images: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Return a mask of the images that can take these captions together, shape `(m,)`."""
        free = np.ones(len(images), dtype=bool)
        for counts, cells in self._cells(rows, images):
            free &= counts[cells].max(axis=0) < self._per_cell
        return free

    def add(self, rows: IntArray, image: int) -> None:
        """Count an image with new captions, once in each of its cells."""
        for counts, cells in self._cells(rows, [image]):
            counts[cells] += 1

    def _cells(self, rows: IntArray, images: Sequence[int]) -> Iterator[tuple[Index, Any]]:
        """Yield each clustering's counts, and the cells in which captions on images count, shape `(c, m)`."""
        captions = [self._row[int(row)] for row in rows]
        places = [self._image[image] for image in images]
        for counts, (text, image) in zip(self._counts, self.clusterings, strict=True):
            yield counts, np.ix_(np.unique(text[captions]), image[places])


def _place(
    train: PairDataset,
    goals: Sequence[Goal],
    targets: Sequence[IntArray],
    wanted: Sequence[int],
    grid: Grid,
    rngs: Sequence[np.random.Generator],
) -> tuple[list[PoisonedPair], list[int]]:
    """Put captions on images as long as they fit. Goals take turns, so that none fills the grid alone."""
    entries: list[PoisonedPair] = []
    placed = [0] * len(goals)
    waiting = [
        rng.permutation(np.unique(train.source[captions_of(train, goal)])).tolist()
        for goal, rng in zip(goals, rngs, strict=True)
    ]
    # an image with false captions provides none, and an image whose captions are used gets none
    busy: set[int] = set()
    while any(waiting):
        for number, (goal, rng) in enumerate(zip(goals, rngs, strict=True)):
            if placed[number] == wanted[number]:
                waiting[number] = []
            if not waiting[number]:
                continue
            source = waiting[number].pop()
            if source in busy:
                continue
            rows = np.flatnonzero(train.source == source).astype(np.int32)
            free = [image for image in targets[number].tolist() if image not in busy]
            images = np.array(free, dtype=np.int32)[grid.fits(rows, free)]
            if not len(images):
                continue
            image = int(rng.choice(images))
            grid.add(rows, image)
            busy.update((source, image))
            entries += poisoned_pairs(train, rows, np.full(len(rows), image), goal)
            placed[number] += 1
    return entries, placed


def _centred(vectors: Vectors) -> tuple[Vectors, Vectors]:
    """Return centred unit vectors, and their mean."""
    mean: Vectors = vectors.mean(axis=0)
    return unit(vectors - mean), mean


def _clusters(fit: Vectors, vectors: Vectors, size: int, rng: np.random.Generator) -> Index:
    """Fit k-means, and return the cluster of each vector, shape `(n,)`."""
    # scikit-learn takes long to import, and most attacks do not need it
    from scipy.cluster.vq import kmeans2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cluster may be empty
        centres, _ = kmeans2(fit, min(size, len(fit)), iter=20, minit="points", seed=rng)
    distance = (centres**2).sum(axis=1) - 2 * vectors @ centres.T
    return np.asarray(distance.argmin(axis=1), dtype=np.intp)


@ATTACKS.register("nearest-assigned")
@options
class NearestAssigned(AdaptiveLabelAttack):
    """Pairs captions of A with images of B so that a surrogate finds the pairs as plausible as possible.

    Targets filters that test whether a caption matches its image, or similar images. The attacker assigns captions of A
    to images of B with the largest sum of cosines (`scipy.optimize.linear_sum_assignment`) and an equal limit of
    captions per image. Pairs with more conflict than a share `unseen` of the clean pairs are left out. There may thus
    be fewer pairs than requested, which the manifest's notes report. Choose a B near A: see `nearest_classes`.
    """

    name = "nearest-assigned"
    summary = "captions of class A on the images of class B that match them best"
    needs_embeddings = True

    unseen: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="share of the clean pairs that bounds the conflict of false pairs; 1 allows every pair",
        ),
    ] = 0.8
    encoder: Encoder = None

    def _poisoned(self, job: AttackJob) -> PairDataset:
        known = draw_candidates(job.pairs, job.goal, self.settings, job.generator())
        train, rows, captions, images, asked, used = known
        matching = Matching(train, job.surrogate, job.seed)
        cosine = matching.captions(captions) @ matching.images(images).T
        if self.settings.carrier == "own":
            # by the captions available to each image
            top = -np.partition(-cosine, min(asked, len(rows)) - 1, axis=0)[:asked]
            best = np.argsort(-top.mean(axis=0), kind="stable")[:used]
            images, cosine = images[best], cosine[:, best]
        least = 1 - matching.usual_conflict(self.unseen) if self.unseen < 1 else -np.inf
        caption, image = assign(cosine, math.ceil(asked / len(images)), least)
        if not len(caption):
            raise InputError(
                f"goal {job.goal}: with this surrogate, every possible pair is conspicuous (it conflicts more than "
                f"{self.unseen:.0%} of the clean pairs do): choose a target class nearer to the original class, or "
                "a larger unseen"
            )
        order = np.argsort(-cosine[caption, image], kind="stable")[:asked]
        entries = poisoned_pairs(train, rows[caption[order]], images[image[order]], job.goal)
        few = f"only {len(entries)} of {asked} requested pairs: with this surrogate, the others are conspicuous"
        return job.inject(entries, notes=[few] if len(entries) < asked else [])


def assign(
    cosine: npt.NDArray[np.float32], load: int, least: float
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Assign captions to images: as many pairs as possible, with the largest sum of cosines.

    Args:
        cosine: Cosines of captions and images, shape `(n, m)`.
        load: Maximum number of captions per image.
        least: Minimum cosine of a pair; others are left out.

    Returns:
        The captions and the image of each, shape `(k,)`, sorted by caption.

    >>> caption, image = assign(np.float32([[0.9, 0.8], [0.8, 0.1], [0.0, 0.1]]), 1, 0.2)
    >>> caption.tolist(), image.tolist()
    ([0, 1], [1, 0])
    """
    # scipy.optimize takes long to import, and looking up one attack imports all
    from scipy.optimize import linear_sum_assignment

    slot = np.repeat(np.arange(cosine.shape[1]), load)
    # larger than any possible difference in the sum of cosines
    seen = 2.0 * min(len(cosine), len(slot)) + 1
    cost = np.where(cosine >= least, -cosine, seen)[:, slot]
    caption, place = linear_sum_assignment(cost)
    kept = cost[caption, place] < seen
    return caption[kept], slot[place[kept]]


@ATTACKS.register("nearest-goal")
@options
class NearestGoal(LabelAttack):
    """Pairs the captions nearest to the mean of class A with the images nearest to the mean of class B.

    With the goal `A2auto` the attack chooses B: the class whose captions have the mean nearest to that of A, see
    `nearest_classes`. All other classes are candidates, because an image has one label. The manifest contains the
    chosen goal.

    The attacker knows 80% of a class's images, drawn by the seed, and selects those captions of A and images of B that
    have the largest cosine to their mean. Their numbers are those of the captions and images of A in attack II. A
    caption shared by several images is used again only after all others. Captions and images are paired greedily,
    largest cosine first, and each image carries the same number of captions (or one more).
    """

    name = "nearest-goal"
    source = "mmpoison, after the idea of MP-Nav (Zhang et al., ICML 2025)"
    section = "lab/docs/tasks/other-attacks.md, 'Attacks that choose captions'"
    summary = "typical captions of class A on typical images of a class near to it"
    needs_embeddings = True

    encoder: Encoder = None

    def _goals(self, job: AttackJob) -> list[Goal]:
        original = original_of_auto(self.goal, job.pairs.classes)
        if original is None:
            return super()._goals(job)
        return [_nearest_goal(job.pairs, original, job.surrogate)]

    def _poisoned(self, job: AttackJob) -> PairDataset:
        goal, notes = job.goal, []
        if self.goal != str(goal):
            notes = [
                f"goal {self.goal}: the target class is {goal.target!r}, whose captions are nearest on average"
            ]
        known = draw_candidates(job.pairs, goal, self.settings, job.generator())
        train, rows, captions, images, asked, used = known
        matching = Matching(train, job.surrogate, job.seed)
        text, shown = matching.captions(captions), matching.images(images)
        kept = most_like(captions, _likeness(text))[:asked]
        carriers = np.argsort(-_likeness(shown), kind="stable")[:used]
        caption, image = pair_greedily(text[kept] @ shown[carriers].T)
        entries = poisoned_pairs(train, rows[kept[caption]], images[carriers[image]], goal)
        return job.inject(entries, notes=notes)


def _nearest_goal(pairs: PairDataset, original: str, embed: Surrogate) -> Goal:
    """Choose the possible target class whose captions are nearest to those of A."""
    ranked = nearest_classes(pairs, embed, len(pairs.classes), by="captions")
    for name in ranked.get(original, ()):
        if all(len(pairs.images.indices(split=split, label=name)) for split in ("train", "test")):
            return Goal(original, name)
    raise InputError(
        f"goal {original}2auto: no target class can be chosen, because the data need captions of {original!r} and a "
        "second class with captions and with train and test images"
    )


def _likeness(vectors: Vectors) -> Vectors:
    """Return the cosines of unit vectors with their mean, shape `(n,)`."""
    likeness: Vectors = vectors @ unit(vectors.mean(axis=0))
    return likeness


def pair_greedily(cosine: npt.NDArray[np.float32]) -> tuple[Index, Index]:
    """Pair each caption with an image, largest cosine first, using images equally often.

    Args:
        cosine: Cosines of captions and images, shape `(n, m)`.

    Returns:
        The captions and the image of each, shape `(n,)`, in the order of choice. Each image has `n // m` captions, and
        `n % m` images have one more.

    >>> caption, image = pair_greedily(np.float32([[0.9, 0.8], [0.8, 0.1], [0.7, 0.1]]))
    >>> caption.tolist(), image.tolist()
    ([0, 1, 2], [0, 0, 1])
    """
    captions, images = cosine.shape
    load, more = divmod(captions, images)
    free = np.ones(captions, dtype=bool)
    carried = np.zeros(images, dtype=np.intp)
    pairs: list[tuple[int, int]] = []
    for place in np.argsort(-cosine, axis=None, kind="stable").tolist():
        caption, image = divmod(place, images)
        if not free[caption] or carried[image] > load or (carried[image] == load and not more):
            continue
        more -= int(carried[image] == load)
        carried[image] += 1
        free[caption] = False
        pairs.append((caption, image))
    found = np.array(pairs, dtype=np.intp)
    return found[:, 0], found[:, 1]


@ATTACKS.register("feature-collision")
@options
class FeatureCollision(RateAttack):
    """Adds images of class A with their true captions, but with a surrogate's features of class B images.

    The captions of the new pairs look correct to people: each new image differs from an image of A by at most `epsilon`
    levels of 255. An encoder similar to the surrogate sees an image of B, and learns that captions of A belong to
    images of B. In the publication's terms, A is the destination concept and B the original one.

    Each new image starts at random within the bound. Sign-gradient steps move it towards the surrogate's embedding of
    one training image of B. It has the surrogate's input size and is a PNG, which preserves its pixels exactly. The
    released code takes 4,000 steps on features of a larger model, and renames its PNG files to .jpg.
    """

    name = "feature-collision"
    source = "Xu et al., Shadowcast, NeurIPS 2024"
    section = "the label attack: destination concept A, original concept B"
    summary = "images of class A, changed by 8/255 to have the features of class B"
    needs_pixels = True

    share: Share = None
    epsilon: Annotated[
        int, Field(ge=1, le=255, description="largest change of a pixel value, in steps of 1/255")
    ] = 8
    steps: Annotated[int, Field(ge=1, le=MOST, description="number of sign-gradient steps")] = 500
    encoder: Encoder = None

    def _poisoned(self, job: AttackJob) -> PairDataset:
        pairs, train, goal, surrogate = job.pairs, job.train, job.goal, job.pixel_surrogate
        targets = target_images(pairs, goal)
        rng = job.generator()
        (rows,) = choose_captions(train, [goal], self.settings, [rng])
        originals, copy = np.unique(train.source[rows], return_inverse=True)
        chosen = rng.choice(targets, len(originals), replace=len(originals) > len(targets))
        clean = surrogate.pixels(pairs, originals)
        wanted = unit(surrogate(pairs, chosen))
        changed = optimised(
            surrogate,
            self.name,
            lambda: collide(
                surrogate,
                clean,
                wanted,
                epsilon=self.epsilon,
                steps=self.steps,
                rng=job.generator("/start"),
                progress=job.shown("changing images"),
            ),
            inputs=[clean, wanted],
            settings={"goal": str(goal), "seed": job.seed, **self.options},
            code=collide.__module__,
        )
        ids = [str(name) for name in pairs.images.ids[originals]]
        stored = [new_image(pixels, name) for pixels, name in zip(changed, ids, strict=True)]
        before, after = (
            float((embed_pixels(surrogate, pixels) * wanted).sum(axis=1).mean())
            for pixels in (clean, changed)
        )
        entries = [
            PoisonedPair(str(caption), ids[place], stored[place][0], str(goal))
            for caption, place in zip(train.captions[rows], copy, strict=True)
        ]
        notes = [nearer_note(surrogate, goal.target, before, after)]
        return job.inject(entries, added_images=dict(stored), notes=notes)
