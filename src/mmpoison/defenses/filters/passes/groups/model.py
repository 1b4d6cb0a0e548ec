"""What the passes over all rows are given: the spaces, the regressions of each view, and the cells.

The start is fitted to the sample as `suspicious_groups._scan` fits a data set: three times, each time without the 3%
with the most evidence. A pass over all rows then adds the sums of the regressions, without the 3% that conflict most with
the start (a step of least trimmed squares), and these give the model. What is usual is measured on the sample.
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
    LEFT_OUT,
    fit_images,
    trusted_weight,
)
from mmpoison.defenses.filters.suspicious_groups._views import Vectors, Views
from mmpoison.errors import InputError

FITTED = 20_000
"""Pairs of the sample that the start is fitted to, and that the evidence is compared with."""

FEWEST = 20


@dataclass(frozen=True)
class Start:
    """The regressions as the sample gives them.

    Attributes:
        text: The space of captions.
        image: The space of images.
        seed: Of the run.
        crowd: An image with more captions has nothing to vouch for it but similar images.
        fits: The regressions of each view, by its name.
        trusted: Conflict of each view up to which an item is trusted.
    """

    text: Space
    image: Space
    seed: int
    crowd: float
    fits: Mapping[str, ViewFit]
    trusted: Mapping[str, float]

    def reduce(self, shard: Shard, rows: Index | None = None) -> Reduced:
        """Reduce a shard, or some rows of it."""
        return reduce_shard(shard, self.text, self.image, self.seed, rows)

    def items(self, view: str, reduced: Reduced) -> tuple[Items, Values]:
        """Return the items of a view, and how far each is trusted, 0 or 1, shape `(m,)`."""
        items = image_items(reduced) if view == IMAGES else pair_items(reduced, self.crowd)
        conflict, _ = self.fits[view].conflict(items)
        weight = (conflict <= self.trusted[view]).astype(np.float32)
        if view == PAIRS:
            items = pair_items(reduced, self.crowd, weight)
        return items, weight

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return arrays for `numpy.savez`."""
        found = _prefixed("text", self.text.to_arrays()) | _prefixed("image", self.image.to_arrays())
        found |= {"seed": np.array(self.seed), "crowd": np.array(self.crowd)}
        found |= {"views": np.array(list(self.fits))}
        for view, fit in self.fits.items():
            found |= _prefixed(f"fit_{view}", fit.to_arrays())
            found[f"trusted_{view}"] = np.array(self.trusted[view])
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
            {view: float(arrays[f"trusted_{view}"]) for view in views},
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
    items = {IMAGES: images}
    if len(images) < len(views):
        weight = trusted_weight(
            lambda w: evidence_of(views, conflict_of_pairs(views, w, seed)), len(views)
        )
        items[PAIRS] = pair_items(reduced, crowd, weight)
        sums = pair_sums(reduced, items[PAIRS], weight)
        fits[PAIRS] = ViewFit.of(PAIRS, sums, k, items[PAIRS])
    trusted = {
        view: float(np.quantile(fit.conflict(items[view])[0], 1 - LEFT_OUT))
        for view, fit in fits.items()
    }
    return Start(text, image, seed, crowd, fits, trusted)


def sums_part(shard: Shard, start: Start) -> dict[str, Sums]:
    """Sum over the rows of a shard, without those that conflict most, for each view."""
    reduced = start.reduce(shard)
    found = {}
    for view in start.fits:
        items, weight = start.items(view, reduced)
        found[view] = (
            image_sums(items, weight) if view == IMAGES else pair_sums(reduced, items, weight)
        )
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
        items, _ = start.items(view, reduced)
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
        items, _ = start.items(view, few)
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


def _prefixed(
    name: str, arrays: Mapping[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    return {f"{name}/{key}": value for key, value in arrays.items()}


def _part(name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    start = f"{name}/"
    return {key[len(start) :]: arrays[key] for key in arrays if key.startswith(start)}
