"""The index of a gallery against a search through all of it."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from mmpoison.errors import InputError
from mmpoison.evaluation import GalleryIndex
from mmpoison.metrics import embedding_ranks, hit_at_k


def unit(count: int, seed: int, d: int = 16) -> Any:
    rows = np.random.default_rng(seed).normal(size=(count, d)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def gallery() -> Any:
    return unit(4000, 0)


@pytest.fixture(scope="module")
def queries() -> Any:
    return unit(200, 1)


def first(gallery: Any, queries: Any, k: int) -> Any:
    return np.argsort(-(queries.astype(np.float64) @ gallery.T), axis=1)[:, :k]


def test_a_small_gallery_is_searched_exactly(gallery: Any, queries: Any) -> None:
    index = GalleryIndex.build(gallery, queries, k=10)
    assert (index.exact, index.recall, index.probes) == (True, 1.0, 0)
    scores, rows = index.search(queries)
    assert rows.tolist() == first(gallery, queries, 10).tolist()
    np.testing.assert_allclose(scores[:, 0], (queries @ gallery.T).max(axis=1), rtol=1e-5)


def test_hits_equal_the_exact_ranks(gallery: Any, queries: Any) -> None:
    targets = np.arange(4000) % 97 == 0
    index = GalleryIndex.build(gallery, queries, k=50)
    ranks, _ = embedding_ranks(queries, gallery, targets)
    for k in (1, 10, 50):
        assert index.hits(queries, targets, k).mean() == pytest.approx(hit_at_k(ranks, k))


@pytest.mark.parametrize("wanted", [0.5, 0.9])
def test_the_recall_that_is_stated_is_the_recall(gallery: Any, queries: Any, wanted: float) -> None:
    index = GalleryIndex.build(gallery, queries, k=20, recall=wanted, exact_up_to=1000)
    assert not index.exact
    assert wanted <= index.recall < 1
    true, (_, found) = first(gallery, queries, 20), index.search(queries)
    shares = [len(set(f) & set(t)) / 20 for f, t in zip(found.tolist(), true.tolist(), strict=True)]
    assert index.recall == pytest.approx(np.mean(shares))
    again = GalleryIndex.build(gallery, queries, k=20, recall=wanted, exact_up_to=1000)
    assert (again.recall, again.probes) == (index.recall, index.probes)
    # queries that it was not tuned on
    others = unit(300, 2)
    true, (_, found) = first(gallery, others, 20), index.search(others)
    shares = [len(set(f) & set(t)) / 20 for f, t in zip(found.tolist(), true.tolist(), strict=True)]
    assert np.mean(shares) == pytest.approx(index.recall, abs=0.05)


def test_full_recall_is_exact_at_any_size(gallery: Any, queries: Any) -> None:
    assert GalleryIndex.build(gallery, queries, recall=1, exact_up_to=10).exact


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"k": 0}, "k 0 is not between 1 and the 4000 images"),
        ({"recall": 1.5}, "recall 1.5 is not above 0 and at most 1"),
        ({"queries": unit(2, 0, 3)}, "differ in d"),
        ({"queries": np.zeros((0, 16))}, r"queries must be embeddings of shape \(n, d\)"),
        ({"images": np.full((4, 16), np.nan)}, "images hold NaN"),
    ],
)
def test_bad_input(gallery: Any, queries: Any, change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        GalleryIndex.build(**{"images": gallery, "queries": queries, **change})


def test_hits_for_more_than_the_index_was_made_for(gallery: Any, queries: Any) -> None:
    index = GalleryIndex.build(gallery, queries, k=5)
    with pytest.raises(InputError, match="k 6 is not between 1 and the 5"):
        index.hits(queries, np.ones(4000, dtype=bool), 6)
    with pytest.raises(InputError, match=r"booleans of shape \(4000,\)"):
        index.hits(queries, np.ones(3, dtype=bool), 1)


def test_without_faiss_the_extra_is_named(
    gallery: Any, queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"pip install 'mmpoison\[faiss\]'"):
        GalleryIndex.build(gallery, queries)
