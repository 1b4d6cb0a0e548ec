"""Measures how well classes separate among the embeddings: silhouettes, and a map in two dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mmpoison.base.seeding import generator, torch_seed
from mmpoison.evaluation.test_set import TestEmbeddings, TestSet
from mmpoison.models.embedding import Embeddings
from mmpoison.pairs.table import UNLABELLED, IntArray
from mmpoison.records.run_files import EmbeddingMap, ModelMap, Silhouettes

SILHOUETTE_POINTS = 4000
"""Points that are compared at most; each is compared with every other."""

MAP_POINTS = 500
"""Points of each kind on a map at most."""

Method = Literal["pca", "tsne"]


def silhouettes(embeddings: TestEmbeddings, test: TestSet, *, seed: int) -> Silhouettes:
    """Measure how well classes separate, for texts and for images (the paper says that images separate better).

    The silhouette of a point compares its mean cosine distance to its own class with that to the nearest other class.

    Args:
        embeddings: Of the model.
        test: The test part; what has no class is left out.
        seed: Draws 4,000 points where there are more.

    Returns:
        Means over points, each absent where there are fewer than two classes or no class has two points.
    """
    from sklearn import metrics

    result: dict[str, float] = {}
    for kind, (points, codes) in _labelled(embeddings, test).items():
        rows = _drawn(len(points), SILHOUETTE_POINTS, seed, f"silhouette/{kind}")
        codes = codes[rows]
        result[f"{kind}s"] = len(rows)
        if 2 <= len(np.unique(codes)) < len(codes):
            # cosine distances of near neighbours vanish in 32 bits
            exact = points[rows].astype(np.float64)
            value = metrics.silhouette_score(exact, codes, metric="cosine")
            result[f"{kind}_silhouette"] = float(value)
    return Silhouettes.of(result)


def embedding_map(
    models: Mapping[str, TestEmbeddings], test: TestSet, *, seed: int, method: Method = "pca"
) -> EmbeddingMap:
    """Draw texts and images of each model in two dimensions.

    Args:
        models: Embeddings by model name; the axes of PCA are those of the first one, so that maps compare.
        test: The test part; what has no class is left out.
        seed: Draws the points, and starts t-SNE.
        method: `pca`, or `tsne`, which keeps neighbours together and whose distances mean nothing.
    """
    from sklearn import decomposition, manifold

    axes: dict[str, Any] = {}
    shown: dict[str, ModelMap] = {}
    for name, embeddings in models.items():
        kinds: dict[str, object] = {}
        for kind, (points, codes) in _labelled(embeddings, test).items():
            rows = _drawn(len(points), MAP_POINTS, seed, f"map/{kind}")
            chosen = points[rows].astype(np.float64)
            if len(rows) < 3:
                continue  # no plane through them
            if method == "pca":
                if kind not in axes:
                    axes[kind] = decomposition.PCA(2, svd_solver="full").fit(chosen)
                flat = axes[kind].transform(chosen)
            else:
                flat = manifold.TSNE(
                    2,
                    metric="cosine",
                    init="random",
                    perplexity=min(30.0, (len(rows) - 1) / 3),
                    random_state=torch_seed(seed, f"tsne/{kind}") % 2**32,
                ).fit_transform(chosen)
            kinds[f"{kind}s"] = [
                [round(float(x), 4), round(float(y), 4), int(code)]
                for (x, y), code in zip(flat, codes[rows], strict=True)
            ]
        shown[name] = ModelMap.of(kinds)
    return EmbeddingMap(method=method, classes=list(test.pairs.classes), models=shown)


def _labelled(embeddings: TestEmbeddings, test: TestSet) -> dict[str, tuple[Embeddings, IntArray]]:
    """Select embeddings of texts and images that have a class, with its code."""
    image_codes = test.pairs.images.class_codes[test.gallery]
    kinds = {
        "text": (embeddings.texts, test.caption_class),
        "image": (embeddings.images, image_codes),
    }
    return {
        kind: (points[codes != UNLABELLED], codes[codes != UNLABELLED])
        for kind, (points, codes) in kinds.items()
    }


def _drawn(count: int, wanted: int, seed: int, stream: str) -> npt.NDArray[np.intp]:
    if count <= wanted:
        return np.arange(count)
    return np.sort(generator(seed, f"study/{stream}").permutation(count)[:wanted])
