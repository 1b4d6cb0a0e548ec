"""Predicts the vectors of one side from those of the other, each item by a fit to other images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.filters.suspicious_groups._views import Index, Vectors, unit

FOLDS = 5
RIDGE = 1.0
AT_ONCE = 1 << 16
FEWEST_ITEMS = 20
"""Of fewer items nothing is learned: what is predicted is zero."""


def folds_of(images: int, seed: int) -> Index:
    """Draw the fold of each image, folds of equal size, shape `(images,)`."""
    return np.random.default_rng(seed).permutation(np.arange(images) % FOLDS)


def predict(x: Vectors, y: Vectors, weight: npt.NDArray[np.float32], fold: Index) -> Vectors:
    """Predict `y` from `x` by ridge regression with an intercept, fitted on the items of the other folds.

    Only sums over items are needed, one for each fold; the sums of the other folds give the fit.

    Args:
        x: Shape `(n, d)`.
        y: Shape `(n, e)`.
        weight: How much each item counts in the fits, not negative, shape `(n,)`.
        fold: Fold of each item, shape `(n,)`; all items of one image are in one fold.

    Returns:
        Unit vectors, shape `(n, e)`; zeros for fewer than 20 items of positive weight.
    """
    predicted = np.zeros_like(y)
    if np.count_nonzero(weight) < FEWEST_ITEMS:
        return predicted
    folds = [np.flatnonzero(fold == number) for number in range(FOLDS)]
    sums = [_sums_of_rows(x, y, weight, rows) for rows in folds]
    for rows, line in zip(folds, solve_folds(sums), strict=True):
        for some in _pieces(rows):
            predicted[some] = (x[some].astype(np.float64) - line.x_mean) @ line.slope + line.y_mean
    return unit(predicted)


def _sums_of_rows(
    x: Vectors, y: Vectors, weight: npt.NDArray[np.float32], rows: Index
) -> tuple[npt.NDArray[np.float64], ...]:
    """Sum over some items, a piece at a time: copies in 64-bit are twice as large as the data."""
    parts = [
        sums_of(x[some].astype(np.float64), y[some].astype(np.float64), weight[some])
        for some in _pieces(rows) or [rows]
    ]
    return tuple(np.asarray(sum(part)) for part in zip(*parts, strict=True))


def _pieces(rows: Index) -> list[Index]:
    return [rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE)]


@dataclass(frozen=True)
class Line:
    """A linear function of vectors: `(x - x_mean) @ slope + y_mean`.

    Attributes:
        slope: Shape `(d, e)`.
        x_mean: Shape `(d,)`.
        y_mean: Shape `(e,)`.
    """

    slope: npt.NDArray[np.float64]
    x_mean: npt.NDArray[np.float64]
    y_mean: npt.NDArray[np.float64]


def solve_folds(sums: Sequence[tuple[npt.NDArray[np.float64], ...]]) -> list[Line]:
    """Solve the ridge regression of each fold, from the sums over the items of the other folds.

    Args:
        sums: What `sums_of` gives for the items of each fold; sums over parts of a data set may be added before.
    """
    total = [sum(parts) for parts in zip(*sums, strict=True)]
    lines = []
    for own in sums:
        xx, xy, x_sum, y_sum, count = (whole - part for whole, part in zip(total, own, strict=True))
        x_mean, y_mean = x_sum / max(count, 1e-9), y_sum / max(count, 1e-9)
        square = xx - count * np.outer(x_mean, x_mean) + RIDGE * np.eye(len(x_mean))
        slope = np.linalg.solve(square, xy - count * np.outer(x_mean, y_mean))
        lines.append(Line(slope, x_mean, y_mean))
    return lines


def sums_of(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], weight: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float64], ...]:
    """Return the weighted sums that a regression of `y` on `x` needs: x'x, x'y, x, y and the weights."""
    weighted = x * weight[:, None]
    return (
        weighted.T @ x,
        weighted.T @ y,
        weighted.sum(axis=0),
        weight @ y,
        np.asarray(weight.sum(), dtype=np.float64),
    )
