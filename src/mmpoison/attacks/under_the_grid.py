"""Under the grid: so few poisoned images in any cell of a clustering that no cell stands out."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mmpoison.attacks.adaptive import (
    SECTION,
    SOURCE,
    adaptive_options,
    adaptive_settings,
    surrogate_name,
    surrogate_option,
)
from mmpoison.attacks.amount import MOST, captions_of, choose_captions
from mmpoison.attacks.catalogue import ATTACKS, Kind
from mmpoison.attacks.goal import Goal, require_different_originals
from mmpoison.attacks.injection import poison_set, poisoned_pairs
from mmpoison.attacks.pairing import Carrier
from mmpoison.attacks.settings import Settings
from mmpoison.attacks.surrogate import Surrogate, Vectors, require_surrogate, unit
from mmpoison.attacks.target_labels import (
    images_without_honest_captions,
    require_clean_set,
    target_images,
)
from mmpoison.base.option_checks import check_whole
from mmpoison.base.seeding import generator
from mmpoison.errors import InputError
from mmpoison.pairs.manifest import PoisonedPair
from mmpoison.pairs.table import IntArray, PairDataset

Index = npt.NDArray[np.intp]

FIT_ON = 2_000
"""Captions, and images, that a clustering is fitted on, at most."""

MOST_CLUSTERS = 80
IMAGES_IN_CLUSTER = 25
REPEATS = 3
"""Up to 80, 40 and 20 clusters, with at least 25 images on average; three clusterings of each size."""


@ATTACKS.register("under-the-grid")
class UnderTheGrid:
    """Spreads the poison so that at most `per_cell` poisoned images are in any cell of the attacker's clusterings.

    Against filters that cluster captions and images and count conflicting pairs in the cells. The attacker makes nine
    clusterings of a surrogate's vectors, with other seeds than the filter. He gives a training image of B all captions
    of one image of A if each of their cells then has at most `per_cell` poisoned images, and goes on until enough
    images of each goal are placed or no other fits. One goal alone has room for few images, so he uses several original
    classes for one target class. The manifest's notes say for which goals fewer images were placed than requested.

    Exactly one of `samples` and `share` sets the amount, for each goal.

    Args:
        goals: `A2B` each, with different original classes; one or several.
        samples: Images of each original class whose captions are used, at most.
        share: The same as a share of the training images of the class, in (0, 1].
        per_cell: Poisoned images in a cell, at most, from 1.
        encoder: Name of the surrogate; the manifest records it, and `poison` receives the embeddings.
        carrier: `own` (the default) or `existing`, as for attack II.

    Raises:
        InputError: If not exactly one amount is given or a value is out of range.
    """

    name: ClassVar[str] = "under-the-grid"
    kind: ClassVar[Kind] = "targeted"
    source: ClassVar[str] = SOURCE
    section: ClassVar[str] = SECTION
    summary: ClassVar[str] = "few poisoned images in each cell of captions and images"
    needs_embeddings: ClassVar[bool] = True

    def __init__(
        self,
        goals: Sequence[str],
        samples: int | None = None,
        *,
        share: float | None = None,
        per_cell: int = 1,
        encoder: str | None = None,
        carrier: Carrier | None = None,
    ) -> None:
        self.goals = [goals] if isinstance(goals, str) else list(goals)
        if not self.goals:
            raise InputError(f"{self.name} needs a goal, A2B")
        self.settings: Settings = adaptive_settings(samples=samples, share=share, carrier=carrier)
        self.per_cell = check_whole("per_cell", per_cell, 1, MOST)
        self.encoder = surrogate_name(encoder)

    @property
    def options(self) -> dict[str, Any]:
        """All options, enough to build the attack again."""
        return {
            "goals": self.goals,
            **adaptive_options(self.settings, "spread"),
            "per_cell": self.per_cell,
            **surrogate_option(self.encoder),
        }

    def poison(
        self, pairs: PairDataset, seed: int = 0, *, embed: Surrogate | None = None
    ) -> PairDataset:
        """Return a poisoned copy of a clean set.

        Args:
            pairs: A clean set with labelled train and test images.
            seed: Seed of the run; draws the clusterings and the order in which images are tried.
            embed: The surrogate.

        Raises:
            InputError: If there is no surrogate, two goals have the same original class, or as for attack II.
        """
        goals = [Goal.parse(text, pairs.classes) for text in self.goals]
        require_different_originals(goals)
        require_clean_set(pairs)
        surrogate = require_surrogate(embed, self.name)
        targets = [target_images(pairs, goal) for goal in goals]
        train = pairs.select(split="train")
        rngs = [generator(seed, f"attack/{self.name}/{goal}") for goal in goals]
        asked = choose_captions(train, goals, self.settings.amount, "add", rngs)
        wanted = [len(np.unique(train.source[rows])) for rows in asked]
        grid = Grid(
            train,
            surrogate,
            np.concatenate([captions_of(train, goal) for goal in goals]),
            np.unique(np.concatenate(targets)),
            generator(seed, f"attack/{self.name}/clusters"),
            self.per_cell,
        )
        entries, placed = _place(train, goals, targets, wanted, grid, rngs)
        return poison_set(
            pairs,
            entries,
            attack=self.name,
            options=self.options,
            goals=goals,
            mode="add",
            seed=seed,
            dropped_images=images_without_honest_captions(entries, self.settings),
            notes=[
                f"goal {goal}: {found} images of {count} requested fit {self.per_cell} a cell"
                for goal, found, count in zip(goals, placed, wanted, strict=True)
                if found < count
            ],
        )


class Grid:
    """Counts the poisoned images in the cells of several clusterings.

    Args:
        train: The clean training pairs.
        embed: The surrogate.
        rows: Captions that may be used, rows of `train`.
        images: Images that may be used, sorted.
        rng: Draws the clusterings.
        per_cell: Poisoned images in a cell, at most.
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
        texts, text_mean = _fitted(embed.captions([str(c) for c in train.captions[fit_rows]]))
        pictures, image_mean = _fitted(embed(train, fit_images))
        own_texts = unit(unit(embed.captions([str(c) for c in train.captions[rows]])) - text_mean)
        own_images = unit(unit(embed(train, images)) - image_mean)
        most = max(4, min(MOST_CLUSTERS, len(known) // IMAGES_IN_CLUSTER))
        self.clusterings = [
            (_clusters(texts, own_texts, size, rng), _clusters(pictures, own_images, size, rng))
            for size in sorted({max(2, most // part) for part in (1, 2, 4)})
            for _ in range(REPEATS)
        ]
        self._counts: list[Counter[tuple[int, int]]] = [Counter() for _ in self.clusterings]
        self._per_cell = per_cell
        self._row = {int(row): place for place, row in enumerate(rows)}
        self._image = {int(image): place for place, image in enumerate(images)}

    def fits(self, rows: IntArray, images: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Return on which images captions can be put together, shape `(m,)`."""
        places = [self._image[image] for image in images]
        free = np.ones(len(places), dtype=bool)
        for (_, image), counts, captions in zip(
            self.clusterings, self._counts, self._captions(rows), strict=True
        ):
            full = {
                i for (c, i), count in counts.items() if c in captions and count >= self._per_cell
            }
            if full:
                free &= ~np.isin(image[places], list(full))
        return free

    def add(self, rows: IntArray, image: int) -> None:
        """Count an image that gets captions: once in each of its cells."""
        place = self._image[image]
        for (_, images), counts, captions in zip(
            self.clusterings, self._counts, self._captions(rows), strict=True
        ):
            counts.update((caption, int(images[place])) for caption in captions)

    def _captions(self, rows: IntArray) -> Iterator[set[int]]:
        """Yield the clusters of captions, in each clustering."""
        places = [self._row[int(row)] for row in rows]
        for caption, _ in self.clusterings:
            yield set(caption[places].tolist())


def _place(
    train: PairDataset,
    goals: Sequence[Goal],
    targets: Sequence[IntArray],
    wanted: Sequence[int],
    grid: Grid,
    rngs: Sequence[np.random.Generator],
) -> tuple[list[PoisonedPair], list[int]]:
    """Put captions onto images as long as they fit; the goals take turns, so that none fills the grid alone."""
    entries: list[PoisonedPair] = []
    placed = [0] * len(goals)
    taken: set[int] = set()
    waiting: list[list[int]] = []
    for goal, rng in zip(goals, rngs, strict=True):
        sources = rng.permutation(np.unique(train.source[captions_of(train, goal)]))
        waiting.append(sources.tolist())
    # an image whose captions are used carries none
    used: set[int] = set()
    while any(waiting):
        for number, (goal, rng) in enumerate(zip(goals, rngs, strict=True)):
            if placed[number] == wanted[number]:
                waiting[number] = []
            if not waiting[number]:
                continue
            source = waiting[number].pop()
            if source in taken:
                continue
            rows = np.flatnonzero(train.source == source).astype(np.int32)
            free = [int(i) for i in targets[number] if int(i) not in taken and int(i) not in used]
            images = np.array(free)[grid.fits(rows, free)] if free else np.array(free)
            if not len(images):
                continue
            image = int(rng.choice(images))
            grid.add(rows, image)
            taken.add(image)
            used.add(source)
            entries += poisoned_pairs(train, rows, np.full(len(rows), image), goal)
            placed[number] += 1
    return entries, placed


def _fitted(raw: npt.NDArray[Any]) -> tuple[Vectors, Vectors]:
    """Return centred unit vectors, and the mean that was taken out."""
    vectors = unit(raw)
    mean: Vectors = vectors.mean(axis=0)
    return unit(vectors - mean), mean


def _clusters(fit: Vectors, vectors: Vectors, size: int, rng: np.random.Generator) -> Index:
    """Fit k-means and return the cluster of each vector, shape `(n,)`."""
    # scikit-learn is an extra, which attacks do without
    from scipy.cluster.vq import kmeans2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cluster may be empty
        centres, _ = kmeans2(fit, min(size, len(fit)), iter=20, minit="points", seed=rng)
    distance = (centres**2).sum(axis=1) - 2 * vectors @ centres.T
    return np.asarray(distance.argmin(axis=1), dtype=np.intp)
