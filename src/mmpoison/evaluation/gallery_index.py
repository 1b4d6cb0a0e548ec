"""The first images of a large gallery, by faiss; exact up to a size, and with the recall stated beyond."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.base.extras import require
from mmpoison.errors import InputError
from mmpoison.models.embedding import Embeddings

EXACT_IMAGES = 200_000
"""Up to so many images a search through all of them is quick enough."""

_SAMPLE = 500
"""Queries that recall is measured on."""


@dataclass(frozen=True)
class GalleryIndex:
    """Finds the nearest images of a gallery.

    For *ranks* no index is needed: `mmpoison.metrics.embedding_ranks` is exact at any size. An index gives the first k
    images, and so Hit@K for K up to k, of galleries so large that a search through all of them takes too long.

    Attributes:
        size: Number of images.
        exact: Whether every search compares with every image.
        k: How many images the recall is of.
        recall: Share of the true first k images that a search finds, mean over sample queries; 1.0 where exact.
        probes: Cells of the index that a search visits; 0 where exact.
    """

    size: int
    exact: bool
    k: int
    recall: float
    probes: int
    _index: Any

    @classmethod
    def build(
        cls,
        images: Embeddings,
        queries: Embeddings,
        *,
        k: int = 50,
        recall: float = 0.99,
        exact_up_to: int = EXACT_IMAGES,
        seed: int = 0,
    ) -> GalleryIndex:
        """Index a gallery.

        Args:
            images: Unit embeddings, shape `(G, d)`.
            queries: Embeddings of texts like those that will search, shape `(Q, d)`: up to 500 are drawn, searched
                exactly too, and the index is tuned on them. Texts lie elsewhere than images, so images will not do.
            k: How many images searches will ask for.
            recall: Wanted share of the true first k images, in (0, 1]; 1 gives an exact index.
            exact_up_to: Galleries of up to so many images are searched exactly.
            seed: Draws the sample and starts the clustering.

        Raises:
            InputError: If faiss is not installed, or shapes or values do not match.
        """
        faiss = _faiss()
        gallery, asked = (
            _rows(rows, name) for rows, name in ((images, "images"), (queries, "queries"))
        )
        if gallery.shape[1] != asked.shape[1]:
            raise InputError(f"images {gallery.shape} and queries {asked.shape} differ in d")
        if not 1 <= k <= len(gallery):
            raise InputError(f"k {k} is not between 1 and the {len(gallery)} images of the gallery")
        if not 0 < recall <= 1:
            raise InputError(f"recall {recall} is not above 0 and at most 1")
        if len(gallery) <= exact_up_to or recall == 1:
            flat = faiss.IndexFlatIP(gallery.shape[1])
            flat.add(gallery)
            return cls(len(gallery), True, k, 1.0, 0, flat)
        rng = np.random.default_rng(seed)
        cells = int(4 * len(gallery) ** 0.5)
        index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(gallery.shape[1]), gallery.shape[1], cells, faiss.METRIC_INNER_PRODUCT
        )
        index.cp.seed = int(rng.integers(1, 2**31 - 1))
        learnt = rng.permutation(len(gallery))[: 64 * cells]
        index.train(gallery[np.sort(learnt)])
        index.add(gallery)
        sample = asked[np.sort(rng.permutation(len(asked))[:_SAMPLE])]
        _, true = faiss.knn(sample, gallery, k, metric=faiss.METRIC_INNER_PRODUCT)
        probes, found = 1, 0.0
        while True:
            index.nprobe = probes
            found = _recall(index.search(sample, k)[1], true)
            if found >= recall or probes >= cells:
                return cls(len(gallery), False, k, found, probes, index)
            probes = min(2 * probes, cells)

    def search(
        self, queries: Embeddings, k: int | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Find the first images for some queries.

        Args:
            queries: Unit embeddings, shape `(q, d)`.
            k: How many images; those of the index by default. The stated recall is for that number.

        Returns:
            Similarities and rows of the gallery, both `(q, k)`, best first; row -1 where an index found fewer.
        """
        scores, rows = self._index.search(_rows(queries, "queries"), min(k or self.k, self.size))
        return scores, rows

    def hits(self, queries: Embeddings, targets: npt.ArrayLike, k: int) -> npt.NDArray[np.bool_]:
        """Return whether each query finds a target among its first k images, shape `(q,)`; their mean is Hit@K.

        Args:
            queries: Unit embeddings, shape `(q, d)`.
            targets: Boolean, shape `(G,)`.
            k: How many images are shown, at most the index's own k.

        Raises:
            InputError: If k is larger, or the mask does not match.
        """
        mask = np.asarray(targets)
        if mask.dtype != np.bool_ or mask.shape != (self.size,):
            raise InputError(f"targets must be booleans of shape ({self.size},), not {mask.shape}")
        if not 1 <= k <= self.k:
            raise InputError(f"k {k} is not between 1 and the {self.k} that the index was made for")
        _, rows = self.search(queries, k)
        return np.asarray((mask[rows] & (rows >= 0)).any(axis=1))


def _rows(values: Embeddings, name: str) -> Embeddings:
    rows = np.ascontiguousarray(values, dtype=np.float32)
    if rows.ndim != 2 or not rows.size:
        raise InputError(f"{name} must be embeddings of shape (n, d), not {rows.shape}")
    if not np.isfinite(rows).all():
        raise InputError(f"{name} hold NaN or infinity")
    return rows


def _recall(found: npt.NDArray[np.int64], true: npt.NDArray[np.int64]) -> float:
    shares = [len(np.intersect1d(f, t)) / len(t) for f, t in zip(found, true, strict=True)]
    return float(np.mean(shares))


def _faiss() -> Any:
    return require("faiss", "an index of a gallery needs faiss")
