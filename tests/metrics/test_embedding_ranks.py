"""Ranks straight from embeddings against a sort in plain Python, and against the ranks of similarities."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.retrieval import retrieval_hit_rate

from mmpoison.errors import InputError
from mmpoison.metrics import (
    _retrieval,
    embedding_ranks,
    hit_at_k,
    min_rank,
    rank_quantiles,
    target_ranks,
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Queries, gallery and targets; half of the time of few directions, so that embeddings tie exactly."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    queries, gallery, d = draw(st.tuples(st.integers(0, 5), st.integers(1, 9), st.integers(1, 4)))
    tied = draw(st.booleans())

    def rows(count: int) -> npt.NDArray[Any]:
        if not tied:
            return random.standard_normal((count, d)).astype(np.float32)
        table = random.integers(-1, 2, (count, d)).astype(np.float32)
        table[~table.any(axis=1), 0] = 1
        return table

    mask = random.random(gallery) < 0.4
    mask[draw(st.integers(0, gallery - 1))] = True
    return rows(queries), rows(gallery), mask


def slow(
    queries: npt.NDArray[Any], gallery: npt.NDArray[Any], mask: npt.NDArray[np.bool_]
) -> tuple[list[int], list[bool]]:
    """Sort the gallery, targets behind others of the same cosine; the place of the first target."""
    ranks, ties = [], []
    for query in queries.astype(np.float64):
        scored = []
        for image, target in zip(gallery.astype(np.float64), mask.tolist(), strict=True):
            cosine = float(query @ image / (np.linalg.norm(query) * np.linalg.norm(image)))
            scored.append((round(-cosine, 10), target))
        scored.sort()
        place = next(n for n, (_, target) in enumerate(scored) if target)
        ranks.append(place)
        ties.append(any(s == scored[place][0] and not target for s, target in scored))
    return ranks, ties


@given(cases(), st.integers(1, 4), st.integers(1, 4))
def test_equals_a_sort_at_every_block_size(case: Any, query_rows: int, gallery_rows: int) -> None:
    expected = slow(*case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_retrieval, "_QUERY_ROWS", query_rows)
        patch.setattr(_retrieval, "_GALLERY_ROWS", gallery_rows)
        ranks, ties = embedding_ranks(*case)
    assert ranks.dtype == np.int64
    assert ties.dtype == np.bool_
    assert (ranks.tolist(), ties.tolist()) == expected
    whole = embedding_ranks(*case)
    assert (whole[0].tolist(), whole[1].tolist()) == expected


@pytest.fixture(scope="module")
def large() -> Any:
    random = np.random.default_rng(4)
    mask = random.random(5000) < 0.01
    return (
        random.standard_normal((1500, 24)).astype(np.float32),
        random.standard_normal((5000, 24)).astype(np.float32),
        mask,
    )


def test_equals_the_ranks_of_similarities_over_several_blocks(large: Any) -> None:
    queries, gallery, mask = large
    units = [
        rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        for rows in (queries, gallery)
    ]
    ranks, ties = embedding_ranks(queries, gallery, mask)
    assert ranks.tolist() == target_ranks(units[0] @ units[1].T, mask).tolist()
    assert not ties.any()


def test_the_numbers_made_of_them_equal_slow_ones_and_torchmetrics(large: Any) -> None:
    queries, gallery, mask = large[0][:60], large[1][:400], large[2][:400]
    ranks, _ = embedding_ranks(queries, gallery, mask)
    expected, _ = slow(queries, gallery, mask)
    assert min_rank(ranks) == pytest.approx(sum(expected) / 60)
    ordered = sorted(expected)
    assert rank_quantiles(ranks, [0.5])[0] == (ordered[29] + ordered[30]) / 2
    scores = torch.nn.functional.normalize(torch.from_numpy(queries).double(), dim=1)
    scores = scores @ torch.nn.functional.normalize(torch.from_numpy(gallery).double(), dim=1).T
    target = torch.from_numpy(mask)
    for k in (1, 5, 10, 20, 30, 50):
        assert hit_at_k(ranks, k) == sum(rank < k for rank in expected) / 60
        theirs = [float(retrieval_hit_rate(row, target, top_k=k)) for row in scores]
        assert hit_at_k(ranks, k) == pytest.approx(sum(theirs) / 60)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_collapsed_encoder_gets_the_worst_ranks(dtype: Any) -> None:
    one = np.random.default_rng(5).standard_normal(48)
    mask = np.arange(37) % 10 == 0
    ranks, ties = embedding_ranks(
        np.tile(one, (5, 1)).astype(dtype), np.tile(one, (37, 1)).astype(dtype), mask
    )
    assert ranks.tolist() == [33] * 5
    assert ties.all()


@pytest.mark.parametrize(
    ("queries", "gallery", "targets", "says"),
    [
        (np.eye(2), np.eye(3), [True] * 3, "differ in d"),
        (np.eye(2), np.eye(2), [True] * 3, r"booleans of shape \(2,\), not bool \(3,\)"),
        (np.eye(2), np.eye(2), [0, 1], r"booleans of shape \(2,\), not int64"),
        (np.eye(2), np.eye(2), [False, False], "no target image"),
        (np.eye(2), np.zeros((2, 2)), [True, False], "gallery_embeddings row 0 is a zero vector"),
        ([[np.nan, 1.0]], np.eye(2), [True, False], "query_embeddings row 0 contains NaN"),
    ],
)
def test_bad_input(queries: Any, gallery: Any, targets: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        embedding_ranks(queries, gallery, targets)
