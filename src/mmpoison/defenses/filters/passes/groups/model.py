"""What the passes over all rows are given: the spaces, the regressions of each view, and the cells.

The start is fitted to the sample as `suspicious_groups._scan` fits a data set: three times, each time without the 3%
with the most evidence. A pass over all rows then adds the sums of the regressions; a conflicting row is left out if the
sampled item that is most like it was. These sums give the model. What is usual is measured on the sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

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
from mmpoison.defenses.filters.passes.groups.shard import Index, Sample, Space, VectorShard
from mmpoison.defenses.filters.suspicious_groups._conflict import (
    FEWEST_ITEMS,
    FOLDS,
    IMAGE_SIDE,
    LIKE_IMAGES,
    Vectors,
    Views,
    conflict_of_pairs,
    group_sums,
    solve_folds,
    unit,
)
from mmpoison.defenses.filters.suspicious_groups._evidence import CONFLICTING, evidence_of
from mmpoison.defenses.filters.suspicious_groups._scan import fit_images, trusted_weight
from mmpoison.errors import InputError

# -- Cells of captions and of images: clusters of the sample, in which the pairs of all shards are counted.


CELLS = 256
"""Cells a side."""

FEWEST_OF_A_CELL = 20
"""So many sampled items a cell, at least, on average."""

ROUNDS = 10
BLOCK = 8192


def fit_cells(vectors: Vectors) -> Vectors:
    """Find the middles of cells by k-means on the unit sphere.

    Args:
        vectors: Unit vectors in random order, shape `(n, k)`: the first ones are the first middles.

    Returns:
        Unit vectors, shape `(cells, k)`.
    """
    middles = vectors[: max(1, min(CELLS, len(vectors) // FEWEST_OF_A_CELL))].copy()
    for _ in range(ROUNDS):
        sums = group_sums(vectors, cells_of(vectors, middles), len(middles))
        filled = np.abs(sums).sum(axis=1) > 0
        middles[filled] = unit(sums[filled])
    return middles


def cells_of(vectors: Vectors, middles: Vectors) -> Index:
    """Return the nearest middle of each vector, shape `(n,)`."""
    found = np.empty(len(vectors), dtype=np.intp)
    for start in range(0, len(vectors), BLOCK):
        rows = slice(start, start + BLOCK)
        found[rows] = (vectors[rows] @ middles.T).argmax(axis=1)
    return found


# -- Ridge regressions between captions and images from sums over shards, and distances from what they
# predict.


Matrices = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """Sums over items that the regressions of a view need; those of shards are added in the order of the shards.

    Attributes:
        to_text: Sums of w z z' with z = (image, caption, 1), of the items of each fold, for the prediction of captions,
            shape `(5, k + l + 1, k + l + 1)`.
        to_image: The same for the prediction of images.
    """

    to_text: Matrices
    to_image: Matrices

    def merge(self, other: Sums) -> Sums:
        """Return the sums of both."""
        return Sums(self.to_text + other.to_text, self.to_image + other.to_image)


def image_sums(items: Items, weight: Values) -> Sums:
    """Sum over images, each with the weight that it has; both regressions have the same sums."""
    both = _sums(items.image, items.text, weight, items.fold)
    return Sums(both, both)


def pair_sums(reduced: Reduced, items: Items, weight: Values) -> Sums:
    """Sum over pairs, in which an image counts once, however many captions it has.

    Args:
        reduced: The rows.
        items: Their pairs.
        weight: How far each pair is trusted, shape `(n,)`.
    """
    at, images = reduced.image_at, len(reduced.image)
    trusted = np.bincount(at, weight, minlength=images).astype(np.float32)
    mean = group_sums(items.text * weight[:, None], at, images) / np.maximum(trusted, 1)[:, None]
    once = (weight / np.maximum(trusted, 1)[at]).astype(np.float32)
    return Sums(
        _sums(
            reduced.image,
            np.asarray(mean, dtype=np.float32),
            (trusted > 0).astype(np.float32),
            reduced.fold,
        ),
        _sums(items.image, items.text, once, items.fold),
    )


def _sums(image: Vectors, text: Vectors, weight: Values, fold: Index) -> Matrices:
    sides = image.shape[1], text.shape[1]
    found = np.empty((FOLDS, sum(sides) + 1, sum(sides) + 1))
    for number in range(FOLDS):
        mine = np.flatnonzero(fold == number)
        both = np.ones((len(mine), sum(sides) + 1))
        both[:, : sides[0]], both[:, sides[0] : -1] = image[mine], text[mine]
        found[number] = (both * weight[mine, None]).T @ both
    return found


@dataclass(frozen=True)
class ViewFit:
    """The two regressions of a view, and what distances from their predictions are usual.

    Attributes:
        to_text: For each fold, slope, mean of images and mean of captions: the prediction of captions.
        to_image: The same for the prediction of images from captions.
        usual: Medians of the two distances, shape `(2,)`.
        spread: Their standard deviations, shape `(2,)`.
        image_side: What the distance between images counts, against that between captions.
    """

    to_text: tuple[Vectors, Vectors, Vectors]
    to_image: tuple[Vectors, Vectors, Vectors]
    usual: Values
    spread: Values
    image_side: float

    @classmethod
    def of(cls, view: str, sums: Sums, images: int, sample: Items) -> ViewFit:
        """Solve the regressions, and measure the distances of sampled items.

        Args:
            view: `images` or `pairs`.
            sums: Over all items.
            images: Dimensions of images.
            sample: A sample of the items.
        """
        fit = cls(
            _lines(sums.to_text, images, to_text=True),
            _lines(sums.to_image, images, to_text=False),
            np.zeros(2, dtype=np.float32),
            np.ones(2, dtype=np.float32),
            1.0 if view == IMAGES else IMAGE_SIDE,
        )
        both = np.stack(fit.distances(sample)[:2])
        return replace(
            fit,
            usual=np.median(both, axis=1).astype(np.float32),
            spread=np.maximum(both.std(axis=1), 1e-6).astype(np.float32),
        )

    def distances(self, items: Items) -> tuple[Values, Values, Vectors]:
        """Compute how far captions and images are from what is expected, and what captions are expected.

        Returns:
            Two cosine distances of shape `(m,)`, and unit vectors of shape `(m, k)`.
        """
        expected = _predict(self.to_text, items.image, items.fold)
        if items.others is not None:
            expected = unit(items.others + np.float32(LIKE_IMAGES) * expected)
        likely = _predict(self.to_image, items.text, items.fold)
        return (
            1 - np.einsum("ij,ij->i", expected, items.text),
            1 - np.einsum("ij,ij->i", likely, items.image),
            expected,
        )

    def conflict(self, items: Items) -> tuple[Values, Vectors]:
        """Score how much captions and images disagree, shape `(m,)`, and return what captions are expected."""
        text, image, expected = self.distances(items)
        text, image = (
            (one - self.usual[i]) / self.spread[i] for i, one in enumerate((text, image))
        )
        return text + np.float32(self.image_side) * image, expected

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return arrays for `numpy.savez`."""
        found: dict[str, npt.NDArray[Any]] = {
            f"{name}_{part}": getattr(self, name)[i]
            for name in ("to_text", "to_image")
            for i, part in enumerate(_PARTS)
        }
        return found | {
            "usual": self.usual,
            "spread": self.spread,
            "image_side": np.array(self.image_side),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> ViewFit:
        """Read what `to_arrays` gave."""
        to_text, to_image = (
            (arrays[f"{name}_slope"], arrays[f"{name}_from"], arrays[f"{name}_to"])
            for name in ("to_text", "to_image")
        )
        side = float(arrays["image_side"])
        return cls(to_text, to_image, arrays["usual"], arrays["spread"], side)


_PARTS = ("slope", "from", "to")


def _lines(sums: Matrices, images: int, *, to_text: bool) -> tuple[Vectors, Vectors, Vectors]:
    image, text = slice(0, images), slice(images, sums.shape[1] - 1)
    x, y = (image, text) if to_text else (text, image)
    # fewer items teach nothing: what is predicted is zero
    if sums[:, -1, -1].sum() < FEWEST_ITEMS:
        sums = np.zeros_like(sums)
    lines = solve_folds([(s[x, x], s[x, y], s[x, -1], s[y, -1], s[-1, -1]) for s in sums])
    slopes, froms, tos = (
        np.stack([getattr(line, name) for line in lines]).astype(np.float32)
        for name in ("slope", "x_mean", "y_mean")
    )
    return slopes, froms, tos


def _predict(lines: tuple[Vectors, Vectors, Vectors], x: Vectors, fold: Index) -> Vectors:
    slope, x_mean, y_mean = lines
    predicted = np.empty((len(x), slope.shape[2]), dtype=np.float32)
    for number in range(FOLDS):
        mine = np.flatnonzero(fold == number)
        predicted[mine] = (x[mine] - x_mean[number]) @ slope[number] + y_mean[number]
    return unit(predicted)


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

    def reduce(self, shard: VectorShard, rows: Index | None = None) -> Reduced:
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
class GroupModel:
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
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> GroupModel:
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
        shard: VectorShard of the image of each, shape `(m,)`.
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


def sums_part(shard: VectorShard, start: Start) -> dict[str, Sums]:
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
) -> tuple[GroupModel, dict[str, Background]]:
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
    model = GroupModel(start, fits, usual, captions, places)
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
