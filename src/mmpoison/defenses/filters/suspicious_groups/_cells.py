"""Clusters captions and images, and finds cells of their table with more conflicting pairs than clean data explain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.filters.suspicious_groups._conflict import crowded
from mmpoison.defenses.filters.suspicious_groups._views import (
    Index,
    Vectors,
    Views,
    group_sums,
    unit,
)

Table = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

FIT_ON = 20_000
"""Vectors that k-means is fitted on, at most; all are then assigned."""

AFFINITY_BINS = 12
FITTING_STEPS = 30
LEAST_EXPECTED = 1e-3
ROUNDS = 5
LEFT_OUT = 0.05
"""Cells with a p-value of at most this have no say in what is usual."""

CELLS_FOR_ONE_SUSPECT = 100
MOST_SUSPECTS = 20
CELLS_FOR_ONE_TRIMMED = 250
MOST_TRIMMED = 10
"""One cell in 250, at most ten, is left out where the spread of the counts is estimated: it may be poison."""


SAME_TOPIC = 0.7
"""Mean cosine from which captions count as being on one topic; topics of a data set are at about 0."""

FEWEST_EXPECTED = 5
SLACK = 0.1


@dataclass(frozen=True)
class Clustering:
    """Captions and images, each in clusters.

    Attributes:
        caption: Cluster of each distinct caption, shape `(U,)`.
        image: Cluster of each image, shape `(I,)`.
        captions: Number of caption clusters.
        images: Number of image clusters.
    """

    caption: Index
    image: Index
    captions: int
    images: int

    @classmethod
    def of(cls, views: Views, size: int, seed: int) -> Clustering:
        """Cluster both sides with k-means, `size` clusters each (fewer if there are fewer vectors)."""
        caption, captions = _k_means(views.text, size, seed)
        image, images = _k_means(views.image, size, seed)
        return cls(caption, image, captions, images)


@dataclass(frozen=True)
class Cell:
    """A group of conflicting pairs: captions of one cluster with images of one cluster, or with one image.

    Attributes:
        rows: Its conflicting pairs.
        count: Distinct images among them; for a single image distinct captions.
        expected: What the clean part of the data makes expect.
        p_value: Chance that a clean set has such a cell in this clustering, corrected for all its cells, in [0, 1].
    """

    rows: Index
    count: int
    expected: float
    p_value: float


def suspicious_cells(
    views: Views,
    conflict: npt.NDArray[np.float32],
    clustering: Clustering,
    *,
    conflicting: float,
    affinity: float,
    report: float,
) -> list[Cell]:
    """Return the cells with a p-value of at most `report`.

    Args:
        views: The data.
        conflict: Conflict of each pair, shape `(N,)`.
        clustering: Clusters.
        conflicting: Share of the pairs that count as conflicting, in (0, 1).
        affinity: Cells whose captions or images are more alike than this are natural neighbours and are left alone.
        report: Largest p-value.
    """
    table = _Table(views, conflict > np.quantile(conflict, 1 - conflicting), clustering)
    # two families are tested: many images of one kind, and one image
    return table.spread_cells(affinity, report / 2) + table.one_image_cells(affinity, report / 2)


class _Table:
    """Counts and affinities of caption clusters against image clusters, both of size up to K."""

    def __init__(self, views: Views, flagged: Flags, clustering: Clustering) -> None:
        self.views = views
        self.flagged = flagged
        self.caption = clustering.caption[views.caption_of]
        self.image = clustering.image[views.image_of]
        self.shape = (clustering.captions, clustering.images)
        self.per_image = np.bincount(views.image_of, minlength=len(views.image))

        consistent = ~flagged
        vectors = views.text[views.caption_of]
        self.topic = unit(group_sums(vectors, self.caption, self.shape[0]))
        # what images of a cluster are usually captioned with: one caption an image, so that no image dominates
        one_each = np.flatnonzero(consistent)
        one_each = one_each[np.unique(views.image_of[one_each], return_index=True)[1]]
        usual = unit(group_sums(vectors[one_each], self.image[one_each], self.shape[1]))
        self.text_affinity = self.topic @ usual.T
        # where captions of a cluster are expected: on the images of its pairs without conflict
        rows = np.flatnonzero(consistent)
        self.home_image = unit(
            group_sums(views.image[views.image_of[rows]], self.caption[rows], self.shape[0])
        )
        centre = unit(group_sums(views.image, clustering.image, self.shape[1]))
        self.image_affinity = self.home_image @ centre.T

    def _count(self, caption: Index, image: Index) -> Table:
        flat = np.bincount(caption * self.shape[1] + image, minlength=self.shape[0] * self.shape[1])
        return flat.reshape(self.shape).astype(np.float64)

    def spread_cells(self, affinity: float, report: float) -> list[Cell]:
        """Return the cells of conflicting captions on many images of one kind (attacks II and III)."""
        rows = np.flatnonzero(self.flagged)
        if not len(rows):
            return []
        # captions of one image agree with each other, so an image counts once in a cell
        _, once = np.unique(
            np.stack([self.caption[rows], self.views.image_of[rows]]), axis=1, return_index=True
        )
        observed = self._count(self.caption[rows[once]], self.image[rows[once]])
        near = np.maximum(self.text_affinity, self.image_affinity)
        tested = near < affinity
        if not tested.any():
            return []
        expected, p_value = improbable(observed, near, tested)
        found = np.argwhere((p_value <= report) & (observed > 1))
        cells_found = [
            Cell(
                rows[(self.caption[rows] == c) & (self.image[rows] == i)],
                int(observed[c, i]),
                float(expected[c, i]),
                float(2 * p_value[c, i]),
            )
            for c, i in found
        ]
        return [cell for cell in cells_found if self._expected_elsewhere(cell.rows, affinity)]

    def one_image_cells(self, affinity: float, report: float) -> list[Cell]:
        """Return single images with many conflicting captions of one kind (attack I)."""
        rows = np.flatnonzero(self.flagged)
        many = crowded(self.per_image)
        if not len(rows) or not many.any():
            return []
        # equal captions count once
        key = np.stack([self.views.image_of[rows], self.caption[rows], self.views.caption_of[rows]])
        pairs, counts = np.unique(np.unique(key, axis=1)[:2], axis=1, return_counts=True)
        usual = counts[~many[pairs[0]]]
        mean = max(float(usual.mean()) if len(usual) else 1.0, 1.01)
        found: list[Cell] = []
        for (image, c), count in zip(pairs.T, counts, strict=True):
            if not many[image]:
                continue
            # counts within one image fall off like a geometric distribution
            p_value = len(counts) * (1 - 1 / mean) ** (count - 1)
            own = rows[(self.views.image_of[rows] == image) & (self.caption[rows] == c)]
            near = self.text_affinity[c, self.image[own[0]]]
            if p_value <= report and near < affinity and self._expected_elsewhere(own, affinity):
                found.append(Cell(own, int(count), mean, float(2 * p_value)))
        return found

    def _expected_elsewhere(self, rows: Index, affinity: float) -> bool:
        """Return whether captions like those of a cell fit images of quite another kind without conflict.

        Poison misuses captions that have a meaning in the data. Captions that are only ever with these images name
        these images, even where the text encoder does not know the word.
        """
        topic = unit(self.views.text[self.views.caption_of[rows]].mean(axis=0))
        place = unit(self.views.image[self.views.image_of[rows]].mean(axis=0))
        elsewhere = np.flatnonzero(~self.flagged & (self.image != self.image[rows[0]]))
        if not len(elsewhere):
            return False
        alike = self.views.text[self.views.caption_of[elsewhere]] @ topic
        count = min(max(len(rows), FEWEST_EXPECTED), len(elsewhere))
        nearest = np.argpartition(-alike, count - 1)[:count]
        home = unit(self.views.image[self.views.image_of[elsewhere[nearest]]].mean(axis=0))
        return bool(alike[nearest].mean() >= SAME_TOPIC and home @ place < affinity + SLACK)


def improbable(observed: Table, near: Table, tested: Flags) -> tuple[Table, Table]:
    """Compute the expected counts of a table, and how improbable each count is.

    Poison would spoil the very model that it is measured with. So the model is fitted, improbable cells are left out,
    and it is fitted again, until nothing changes.

    Args:
        observed: Counts, shape `(C, I)`.
        near: Affinity of each cell's captions and images, shape `(C, I)`.
        tested: Cells that are tested, at least one, shape `(C, I)`.

    Returns:
        Expected counts, and p-values corrected for the number of tested cells (inf where not tested; above 1 for sure).
    """
    bins = np.digitize(near, np.quantile(near, np.linspace(0, 1, AFFINITY_BINS + 1)[1:-1]))
    used = _without_suspects(observed, bins, tested)
    for _ in range(ROUNDS):
        expected = _fitted(observed, bins, used)
        expected = np.where(used, _without_own_cell(observed, expected), expected)
        p_value = np.full(observed.shape, np.inf)
        usual = used[tested]
        p_value[tested] = tested.sum() * _tail(observed[tested], expected[tested], usual)
        probable = p_value > LEFT_OUT
        if (probable == used).all():
            break
        used = probable
    return expected, p_value


def _without_suspects(observed: Table, bins: npt.NDArray[np.intp], tested: Flags) -> Flags:
    """Mark all cells except tested ones that stand out most from a first fit; later steps may use these again."""
    used = np.ones(observed.shape, dtype=bool)
    expected = _without_own_cell(observed, _fitted(observed, bins, used))
    excess = np.where(observed > expected, observed, expected)
    likelihood = np.where(tested, excess * np.log(excess / expected) - (excess - expected), 0.0)
    suspects = np.argsort(-likelihood, axis=None, kind="stable")
    number = min(max(1, int(tested.sum()) // CELLS_FOR_ONE_SUSPECT), MOST_SUSPECTS)
    used.ravel()[suspects[:number]] = False
    return used


def _fitted(observed: Table, bins: npt.NDArray[np.intp], used: Flags) -> Table:
    """Return the expected counts: a factor for the row, one for the column, and one for the bin of affinity.

    Confusion is not spread evenly in clean data: captions stray to images that resemble their own. Bins, rows and
    columns are fitted in turn (iterative proportional fitting) to the cells that are used.
    """
    seen = np.where(used, observed, 0.0)
    row, column = np.ones(len(seen)), np.ones(seen.shape[1])
    factor = np.ones(AFFINITY_BINS)
    per_bin = np.bincount(bins.ravel(), seen.ravel(), AFFINITY_BINS)
    for _ in range(FITTING_STEPS):
        row = seen.sum(axis=1) / np.maximum((used * column * factor[bins]).sum(axis=1), 1e-9)
        column = seen.sum(axis=0) / np.maximum(
            (used * factor[bins] * row[:, None]).sum(axis=0), 1e-9
        )
        outer = used * np.outer(row, column)
        factor = per_bin / np.maximum(np.bincount(bins.ravel(), outer.ravel(), AFFINITY_BINS), 1e-9)
    # no cell is impossible for want of data
    expected: Table = np.maximum(np.outer(row, column) * factor[bins], LEAST_EXPECTED)
    return expected


def _without_own_cell(observed: Table, expected: Table) -> Table:
    """Return the same counts with each cell left out of its own margins: poison inflates its own row and column."""
    row = observed.sum(axis=1, keepdims=True)
    column = observed.sum(axis=0, keepdims=True)
    total = observed.sum()
    less: Table = (
        expected
        * ((row - observed + 1) / (row + 1))
        * ((column - observed + 1) / (column + 1))
        * (total / (total - row - column + observed + 1))
    )
    return np.maximum(less, LEAST_EXPECTED)


def _tail(observed: Table, expected: Table, usual: Flags) -> Table:
    """Compute the chance of a count as large or larger in one cell, shape as given.

    Counts vary more than a Poisson's, because topics have favourites. So they are negative binomial, with one
    dispersion for the table that is estimated from the usual cells without the most extreme of them.
    """
    from scipy.optimize import minimize_scalar
    from scipy.stats import nbinom

    rows = np.flatnonzero(usual)
    trimmed = min(max(1, len(rows) // CELLS_FOR_ONE_TRIMMED), MOST_TRIMMED)
    excess = observed[rows] / (expected[rows] + 0.5)
    rows = rows[np.argsort(-excess, kind="stable")[trimmed:]]

    def loss(log_dispersion: float) -> float:
        size = float(np.exp(-log_dispersion))
        rate = size / (size + expected[rows])
        return -float(nbinom.logpmf(observed[rows], size, rate).sum())

    size = float(np.exp(-minimize_scalar(loss, bounds=(-4, 3), method="bounded").x))
    return np.asarray(nbinom.sf(observed - 1, size, size / (size + expected)), dtype=np.float64)


def _k_means(vectors: Vectors, size: int, seed: int) -> tuple[Index, int]:
    from sklearn.cluster import KMeans

    size = min(size, len(vectors))
    sample = vectors
    if len(vectors) > FIT_ON:
        sample = vectors[np.random.default_rng(seed).choice(len(vectors), FIT_ON, replace=False)]
    fitted = KMeans(size, n_init=1, random_state=seed).fit(sample)
    labels = fitted.labels_ if sample is vectors else fitted.predict(vectors)
    return np.asarray(labels, dtype=np.intp), size
