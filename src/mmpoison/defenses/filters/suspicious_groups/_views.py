"""Vectors that the scan compares: one a caption, one an image, each from a model of its own modality."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Index = npt.NDArray[np.intp]

DIMENSIONS = 64
"""Principal components used: clusters are no worse than with all of them, at a tenth of the time."""


@dataclass(frozen=True)
class Views:
    """A data set as the scan sees it.

    Attributes:
        text: Unit vectors of the distinct captions, shape `(U, d)`.
        image: Unit vectors of the images, shape `(I, e)`.
        caption_of: Which caption each pair has, shape `(N,)`, index into `text`.
        image_of: Which image each pair has, shape `(N,)`, index into `image`.
    """

    text: Vectors
    image: Vectors
    caption_of: Index
    image_of: Index

    def __len__(self) -> int:
        return len(self.caption_of)

    @classmethod
    def of(
        cls, text: npt.ArrayLike, image: npt.ArrayLike, caption_of: Index, image_of: Index
    ) -> Views:
        """Centre, reduce and normalise raw features.

        Embeddings of one modality share a large common part, which makes any two of them alike. Without it a cosine of
        zero means "no more alike than two taken at random", and thresholds hold for any encoder.
        """
        return cls(_centred(text), _centred(image), np.asarray(caption_of), np.asarray(image_of))


def _centred(features: npt.ArrayLike) -> Vectors:
    from sklearn.decomposition import PCA

    # one copy, which is changed in place: features of all captions of a large set are gigabytes
    vectors = unit(np.asarray(features, dtype=np.float32))
    vectors -= vectors.mean(axis=0)
    vectors /= _lengths(vectors)
    dimensions = min(DIMENSIONS, *vectors.shape)
    reduced = PCA(dimensions, copy=False, random_state=0).fit_transform(vectors)
    return unit(reduced.astype(np.float32))


def unit(vectors: Vectors) -> Vectors:
    """Return the rows divided by their length; a row of zeros stays one, shape as given."""
    scaled: Vectors = vectors / _lengths(vectors)
    return scaled


def _lengths(vectors: Vectors) -> Vectors:
    """Return the lengths of the rows, at least 1e-9, shape `(..., 1)`."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    lengths: Vectors = np.maximum(length, np.float32(1e-9))
    return lengths


def group_sums(vectors: Vectors, group: Index, groups: int) -> Vectors:
    """Sum of the vectors of each group, shape `(groups, d)`.

    >>> group_sums(np.float32([[1, 0], [2, 0], [0, 5]]), np.array([1, 1, 0]), 3).tolist()
    [[0.0, 5.0], [3.0, 0.0], [0.0, 0.0]]
    """
    from scipy.sparse import csr_matrix

    ones = np.ones(len(group), dtype=np.float32)
    membership = csr_matrix((ones, (group, np.arange(len(group)))), shape=(groups, len(group)))
    return np.asarray(membership @ vectors, dtype=np.float32)
