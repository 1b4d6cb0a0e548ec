"""Hit@K and MinRank against sums by hand and against torchmetrics."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpoison.errors import InputError
from mmpoison.metrics import hit_at_k, hit_table, min_rank, rank_quantiles

rank_lists = st.lists(st.integers(0, 60), min_size=1, max_size=30)


@given(rank_lists, st.integers(1, 70))
def test_hit_at_k_is_the_share_of_small_ranks(ranks: list[int], k: int) -> None:
    assert hit_at_k(ranks, k) == sum(rank in range(k) for rank in ranks) / len(ranks)


@given(rank_lists)
def test_table_and_mean(ranks: list[int]) -> None:
    table = hit_table(ranks)
    assert list(table) == ["hit@1", "hit@5", "hit@10", "hit@20", "hit@30", "hit@50"]
    assert table == {f"hit@{k}": hit_at_k(ranks, k) for k in (1, 5, 10, 20, 30, 50)}
    assert list(table.values()) == sorted(table.values())
    assert min_rank(ranks) == pytest.approx(sum(ranks) / len(ranks), rel=1e-12)


@given(rank_lists, st.lists(st.floats(0, 1), max_size=4))
def test_quantiles_interpolate_between_sorted_ranks(ranks: list[int], q: list[float]) -> None:
    ordered = sorted(ranks)
    expected = []
    for share in q:
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        expected.append(ordered[low] + (place - low) * (ordered[high] - ordered[low]))
    assert rank_quantiles(ranks, q).tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "function", [lambda r: hit_at_k(r, 1), hit_table, min_rank, rank_quantiles]
)
@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ([], r"empty, shape \(0,\)"),
        (3, r"shape \(Q,\), not \(\)"),
        (np.zeros((2, 2), int), r"not \(2, 2\)"),
        ([0.5, 1.0], "integers, not float64"),
        ([True, False], "integers, not bool"),
        ([3, -1], "0-based, but one is -1"),
    ],
)
def test_bad_ranks(function: Any, ranks: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        function(ranks)


@pytest.mark.parametrize(("k", "message"), [(0, "at least 1, not 0"), (-3, "-3"), (1.5, "integer")])
def test_bad_k(k: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        hit_at_k([0], k)
    with pytest.raises(InputError, match=message):
        hit_table([0], ks=(1, k))


@pytest.mark.parametrize(
    ("q", "message"),
    [
        ([0.5, 1.1], "1.1"),
        ([-0.1], r"\[0, 1\]"),
        ([float("nan")], r"\[0, 1\]"),
        (0.5, r"shape \(n,\)"),
        (["half"], r"numbers"),
    ],
)
def test_bad_quantiles(q: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rank_quantiles([0, 1], q)


def test_unsigned_and_numpy_k() -> None:
    assert hit_at_k(np.array([0, 200], np.uint8), np.int64(5)) == 0.5  # type: ignore[arg-type]
