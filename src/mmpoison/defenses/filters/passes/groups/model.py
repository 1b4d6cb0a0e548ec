"""What the passes over all rows are given: the spaces, the regressions of each view, and the cells.

The start is fitted to the sample as `suspicious_groups._scan` fits a data set: three times, each time without the 3%
with the most evidence. A pass over all rows then adds the sums of the regressions; a conflicting row is left out if the
sampled item that is most like it was. These sums give the model. What is usual is measured on the sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.filters.passes.groups.cells import fit_cells
from mmpoison.defenses.filters.passes.groups.items import (
    IMAGES,
    PAIRS,
    Items,
    Reduced,
    Values,
    image_items,
    item_owners,
    pair_items,
    reduce_sample,
    reduce_shard,
)
from mmpoison.defenses.filters.passes.groups.regressions import (
    Sums,
    ViewFit,
    image_sums,
    pair_sums,
)
from mmpoison.defenses.filters.passes.groups.sample import Sample
from mmpoison.defenses.filters.passes.groups.shard import Index, Shard
from mmpoison.defenses.filters.passes.groups.space import Space
from mmpoison.defenses.filters.suspicious_groups._conflict import conflict_of_pairs
from mmpoison.defenses.filters.suspicious_groups._evidence import CONFLICTING, evidence_of
from mmpoison.defenses.filters.suspicious_groups._scan import (
    fit_images,
    trusted_weight,
)
from mmpoison.defenses.filters.suspicious_groups._views import Vectors, Views
from mmpoison.errors import InputError

FITTED = 20_000
"""Pairs of the sample that the start is fitted to, and that the evidence is compared with."""

FEWEST = 20
BLOCK = 1024


@dataclass(frozen=True)
class Known:
    """The conflicting items of the sample, and which of them the fits left out.

    A limit of the conflict alone would not do: items astray anywhere conflict as much as poison does, and are more.

    Attributes:
        border: Conflict up to which an item is trusted.
        both: Caption and image of each conflicting item, shape `(n, k + l)`.
        left_out: Whether it was left out, shape `(n,)`.
    """

    border: float
    both: Vectors
    left_out: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, items: Items, conflict: Values, weight: Values) -> Known:
        """Remember the conflicting items of a sample and their weights."""
        border = float(np.quantile(conflict, 1 - CONFLICTING))
        high = conflict > border
        both = np.concatenate([items.text[high], items.image[high]], axis=1)
        return cls(border, both, weight[high] == 0)

    def trust(self, items: Items, conflict: Values) -> Values:
        """Return 0 for conflicting items whose most similar known item was left out, else 1, shape `(m,)`."""
        weight = np.ones(len(items), dtype=np.float32)
        if not self.left_out.any():
            return weight
        high = np.flatnonzero(conflict > self.border)
        for start in range(0, len(high), BLOCK):
            some = high[start : start + BLOCK]
            both = np.concatenate([items.text[some], items.image[some]], axis=1)
            weight[some[self.left_out[(both @ self.both.T).argmax(axis=1)]]] = 0
        return weight

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return arrays for `numpy.savez`."""
        return {"border": np.array(self.border), "both": self.both, "left_out": self.left_out}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Known:
        """Read what `to_arrays` gave."""
        return cls(float(arrays["border"]), arrays["both"], arrays["left_out"])


@dataclass(frozen=True)
class Start:
    """The regressions as the sample gives them.

    Attributes:
        text: The space of captions.
        image: The space of images.
        seed: Of the run.
        crowd: An image with more captions has nothing to vouch for it but similar images.
        fits: The regressions of each view, by its name.
        known: Which items of each view are trusted.
    """

    text: Space
    image: Space
    seed: int
    crowd: float
    fits: Mapping[str, ViewFit]
    known: Mapping[str, Known]

    def reduce(self, shard: Shard, rows: Index | None = None) -> Reduced:
        """Reduce a shard, or some rows of it."""
        return reduce_shard(shard, self.text, self.image, self.seed, rows)

    def items(self, view: str, reduced: Reduced) -> Items:
        """Return the items of a view."""
        return image_items(reduced) if view == IMAGES else self.trusted_pairs(reduced)[0]

    def trusted_pairs(self, reduced: Reduced) -> tuple[Items, Values]:
        """Return the pairs, with the other captions that are trusted, and how far each is, shape `(m,)`."""
        weight = self.trust(PAIRS, pair_items(reduced, self.crowd))
        return pair_items(reduced, self.crowd, weight), weight

    def trust(self, view: str, items: Items) -> Values:
        """Return how far the regressions trust each item to say what is usual, 0 or 1, shape `(m,)`."""
        return self.known[view].trust(items, self.fits[view].conflict(items)[0])

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return arrays for `numpy.savez`."""
        found = _prefixed("text", self.text.to_arrays()) | _prefixed(
            "image", self.image.to_arrays()
        )
        found |= {"seed": np.array(self.seed), "crowd": np.array(self.crowd)}
        found |= {"views": np.array(list(self.fits))}
        for view, fit in self.fits.items():
            found |= _prefixed(f"fit_{view}", fit.to_arrays())
            found |= _prefixed(f"known_{view}", self.known[view].to_arrays())
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Start:
        """Read what `to_arrays` gave."""
        views = [str(view) for view in arrays["views"]]
        return cls(
            Space.from_arrays(_part("text", arrays)),
            Space.from_arrays(_part("image", arrays)),
            int(arrays["seed"]),
            float(arrays["crowd"]),
            {view: ViewFit.from_arrays(_part(f"fit_{view}", arrays)) for view in views},
            {view: Known.from_arrays(_part(f"known_{view}", arrays)) for view in views},
        )


@dataclass(frozen=True)
class Usual:
    """What is usual in a view: constants of its scores.

    Attributes:
        border: Items with more conflict are examined: 15% of the sample.
        middle: Median of the conflict.
        deviation: Its robust standard deviation.
    """

    border: float
    middle: float
    deviation: float

    @classmethod
    def of(cls, conflict: Values) -> Usual:
        """Measure a sample."""
        middle = float(np.median(conflict))
        spread = 1.4826 * float(np.median(np.abs(conflict - middle)))
        return cls(float(np.quantile(conflict, 1 - CONFLICTING)), middle, max(spread, 1e-6))


@dataclass(frozen=True)
class Model:
    """What the later passes need.

    Attributes:
        start: The fit to the sample.
        fits: The regressions of each view, from all rows.
        usual: What is usual in each view.
        captions: Middles of the cells of captions, shape `(c, k)`.
        images: Middles of the cells of images, shape `(c, k)`.
    """

    start: Start
    fits: Mapping[str, ViewFit]
    usual: Mapping[str, Usual]
    captions: Vectors
    images: Vectors

    @property
    def views(self) -> tuple[str, ...]:
        """The views, `images` first."""
        return tuple(self.fits)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return arrays for `numpy.savez`."""
        found = _prefixed("start", self.start.to_arrays())
        found |= {"captions": self.captions, "images": self.images}
        for view, fit in self.fits.items():
            found |= _prefixed(f"fit_{view}", fit.to_arrays())
            usual = self.usual[view]
            found[f"usual_{view}"] = np.array([usual.border, usual.middle, usual.deviation])
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Model:
        """Read what `to_arrays` gave."""
        start = Start.from_arrays(_part("start", arrays))
        return cls(
            start,
            {view: ViewFit.from_arrays(_part(f"fit_{view}", arrays)) for view in start.fits},
            {view: Usual(*map(float, arrays[f"usual_{view}"])) for view in start.fits},
            arrays["captions"],
            arrays["images"],
        )


@dataclass(frozen=True)
class Background:
    """The sampled items of a view, which the evidence is compared with.

    Attributes:
        items: The items.
        shard: Shard of the image of each, shape `(m,)`.
        owner: Number of its image there, shape `(m,)`.
        conflict: Conflict of each, shape `(m,)`.
        expected: The captions that are expected of it, shape `(m, k)`.
    """

    items: Items
    shard: Index
    owner: Index
    conflict: Values
    expected: Vectors


def fit_start(sample: Sample, seed: int = 0) -> Start:
    """Fit the spaces and the first regressions to the sample.

    Args:
        sample: Of all shards.
        seed: Of the folds.

    Raises:
        InputError: If it has fewer than 20 pairs.
    """
    if len(sample) < FEWEST:
        raise InputError(f"{len(sample)} usable pairs: suspicious-groups needs at least {FEWEST}")
    text, image = Space.fit(sample.text), Space.fit(sample.image)
    reduced = reduce_sample(first_of(sample), text, image, seed)
    per_image = np.bincount(reduced.image_at)
    # as `suspicious_groups._conflict.crowded`
    crowd = max(10.0, 2 * float(np.quantile(per_image, 0.95)))
    views = Views(reduced.text, reduced.image, np.arange(len(reduced.text)), reduced.image_at)
    images = image_items(reduced)
    own = np.arange(len(images))
    weight = trusted_weight(
        lambda w: fit_images(Views(images.text, images.image, own, own), w, seed), len(images)
    )
    k = reduced.image.shape[1]
    fits = {IMAGES: ViewFit.of(IMAGES, image_sums(images, weight), k, images)}
    items, weights = {IMAGES: images}, {IMAGES: weight}
    if len(images) < len(views):
        weight = trusted_weight(
            lambda w: evidence_of(views, conflict_of_pairs(views, w, seed)), len(views)
        )
        items[PAIRS], weights[PAIRS] = pair_items(reduced, crowd, weight), weight
        sums = pair_sums(reduced, items[PAIRS], weight)
        fits[PAIRS] = ViewFit.of(PAIRS, sums, k, items[PAIRS])
    known = {
        view: Known.of(items[view], fit.conflict(items[view])[0], weights[view])
        for view, fit in fits.items()
    }
    return Start(text, image, seed, crowd, fits, known)


def sums_part(shard: Shard, start: Start) -> dict[str, Sums]:
    """Sum over the trusted rows of a shard, for each view."""
    reduced = start.reduce(shard)
    images = image_items(reduced)
    found = {IMAGES: image_sums(images, start.trust(IMAGES, images))}
    if PAIRS in start.fits:
        found[PAIRS] = pair_sums(reduced, *start.trusted_pairs(reduced))
    return found


def merge_sums(one: Mapping[str, Sums], other: Mapping[str, Sums]) -> dict[str, Sums]:
    """Add the sums of two parts."""
    return {view: sums.merge(other[view]) for view, sums in one.items()}


def sums_to_arrays(sums: Mapping[str, Sums]) -> dict[str, npt.NDArray[Any]]:
    """Return arrays for `numpy.savez`."""
    return {
        f"{view}_{side}": getattr(one, side)
        for view, one in sums.items()
        for side in ("to_text", "to_image")
    }


def sums_from_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, Sums]:
    """Read what `sums_to_arrays` gave."""
    return {
        view: Sums(arrays[f"{view}_to_text"], arrays[f"{view}_to_image"])
        for view in (IMAGES, PAIRS)
        if f"{view}_to_text" in arrays
    }


def fit_model(
    start: Start, sums: Mapping[str, Sums], sample: Sample
) -> tuple[Model, dict[str, Background]]:
    """Solve the regressions of all rows, and measure on the sample what is usual.

    Returns:
        The model, for all parts of later passes, and what the evidence of each view is compared with.
    """
    reduced = reduce_sample(sample, start.text, start.image, start.seed)
    k = start.image.components.shape[1]
    fits, usual = {}, {}
    for view in start.fits:
        items = start.items(view, reduced)
        fits[view] = ViewFit.of(view, sums[view], k, items)
        usual[view] = Usual.of(fits[view].conflict(items)[0])
    # in the order of the hashes: the first items are random
    order = np.argsort(np.unique(reduced.image_at, return_index=True)[1], kind="stable")
    images = image_items(reduced)
    captions, places = (fit_cells(side[order]) for side in (images.text, images.image))
    model = Model(start, fits, usual, captions, places)
    few = reduce_sample(first_of(sample), start.text, start.image, start.seed)
    background = {}
    for view in model.views:
        items = start.items(view, few)
        conflict, expected = fits[view].conflict(items)
        shard, owner = few.shard[items.at], item_owners(few, items, start.crowd)
        background[view] = Background(items, shard, owner, conflict, expected)
    return model, background


def first_of(sample: Sample) -> Sample:
    """Return the first pairs of the sample, which are a sample too."""
    few = slice(FITTED)
    return Sample(
        sample.hash[few],
        sample.shard[few],
        sample.row[few],
        sample.owner[few],
        sample.text[few],
        sample.image[few],
        min(FITTED, sample.size),
    )


def _prefixed(name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {f"{name}/{key}": value for key, value in arrays.items()}


def _part(name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    start = f"{name}/"
    return {key[len(start) :]: arrays[key] for key in arrays if key.startswith(start)}
