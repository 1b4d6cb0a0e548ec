"""The space that the scan compares vectors in: centred, reduced to principal components, of unit length.

It is that of `suspicious_groups._views`, up to a rotation, fitted to the sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.filters.passes.half import AnyVectors, squared_lengths, to_float32
from mmpoison.defenses.filters.suspicious_groups._views import DIMENSIONS, Vectors, unit

BLOCK = 1024
FIT_BLOCK = 8192


@dataclass(frozen=True)
class Space:
    """How one side is reduced.

    A vector x becomes unit(unit(unit(x) - mean) - second) @ components), which needs no copy of x: all that is needed
    are its products with the components and with the mean, and its length.

    Attributes:
        mean: Mean of the unit vectors, shape `(d,)`.
        second: Mean of the centred unit vectors, on the components, shape `(k,)`.
        components: Shape `(d, k)`.
    """

    mean: Vectors
    second: Vectors
    components: Vectors

    @classmethod
    def fit(cls, vectors: AnyVectors) -> Space:
        """Fit to a sample without zero vectors, shape `(n, d)`."""
        n, d = vectors.shape
        mean = np.zeros(d)
        for block in _blocks(vectors):
            mean += unit(block).sum(axis=0, dtype=np.float64)
        mean = (mean / n).astype(np.float32)
        second, square = np.zeros(d), np.zeros((d, d))
        for block in _blocks(vectors):
            centred = unit(unit(block) - mean)
            second += centred.sum(axis=0, dtype=np.float64)
            square += centred.T @ centred
        second /= n
        # eigenvalues in ascending order
        axes = np.linalg.eigh(square / n - np.outer(second, second))[1]
        components = axes[:, ::-1][:, : min(DIMENSIONS, n, d)]
        return cls(
            mean,
            (second @ components).astype(np.float32),
            np.ascontiguousarray(components, dtype=np.float32),
        )

    def reduce(self, vectors: AnyVectors) -> Vectors:
        """Reduce vectors as they are stored.

        Args:
            vectors: Shape `(n, d)`; may be memory-mapped.

        Returns:
            Unit vectors, NaN where the vector is zero or not finite, shape `(n, k)`.
        """
        n, d = vectors.shape
        found = np.empty((n, self.components.shape[1]), dtype=np.float32)
        with_mean = np.concatenate([self.components, self.mean[:, None]], axis=1)
        of_mean = self.mean @ with_mean
        buffer = np.empty((min(BLOCK, n), d), dtype=np.float32)
        for start in range(0, n, BLOCK):
            rows = slice(start, min(start + BLOCK, n))
            block = buffer[: rows.stop - start]
            to_float32(vectors[rows], block)
            length = np.sqrt(squared_lengths(vectors[rows], block))
            with np.errstate(over="ignore", invalid="ignore"):
                products = (block @ with_mean) / length[:, None]
                apart = 1 - 2 * products[:, -1] + of_mean[-1]
                products = (products - of_mean) / np.sqrt(np.maximum(apart, 1e-12))[:, None]
                found[rows] = unit(products[:, :-1] - self.second)
        return found

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return arrays for `numpy.savez`."""
        return {"mean": self.mean, "second": self.second, "components": self.components}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Space:
        """Read what `to_arrays` gave."""
        return cls(arrays["mean"], arrays["second"], arrays["components"])


def _blocks(vectors: AnyVectors) -> Iterator[Vectors]:
    for start in range(0, len(vectors), FIT_BLOCK):
        yield vectors[start : start + FIT_BLOCK].astype(np.float32)
