"""Equal and near hashes: everything that a comparison of all with all finds, and nothing else."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpoison.datasets.verify import images
from mmpoison.datasets.verify.images import FARTHEST, equal_groups, near_pairs
from mmpoison.errors import InputError

WORDS = st.integers(0, 2**64 - 1)


def near(hashes: list[int], distance: int) -> list[tuple[int, int, int]]:
    return [
        (int(i), int(j), int(apart))
        for left, right, aparts in near_pairs(np.array(hashes, dtype=np.uint64), distance)
        for i, j, apart in zip(left, right, aparts, strict=True)
    ]


def brute_force(hashes: list[int], distance: int) -> set[tuple[int, int, int]]:
    return {
        (i, j, (hashes[i] ^ hashes[j]).bit_count())
        for i, j in combinations(range(len(hashes)), 2)
        if (hashes[i] ^ hashes[j]).bit_count() <= distance
    }


@st.composite
def families(draw: st.DrawFn) -> list[int]:
    """Distinct hashes, many of them a few bits from another."""
    hashes = draw(st.lists(WORDS, max_size=8))
    for base in list(hashes):
        for bits in draw(st.lists(st.lists(st.integers(0, 63), max_size=12), max_size=6)):
            for bit in bits:
                base ^= 1 << bit
            hashes.append(base)
    return list(dict.fromkeys(hashes))


@settings(max_examples=150)
@given(hashes=families(), distance=st.integers(0, FARTHEST))
def test_near_pairs_are_those_of_brute_force(hashes: list[int], distance: int) -> None:
    found = near(hashes, distance)
    assert len(found) == len(set(found)), "a pair came twice"
    assert set(found) == brute_force(hashes, distance)


@settings(max_examples=50)
@given(hashes=st.sets(st.integers(0, 300), max_size=80), distance=st.integers(0, 4))
def test_also_where_nearly_all_agree_in_most_bits(hashes: set[int], distance: int) -> None:
    listed = sorted(hashes)
    assert set(near(listed, distance)) == brute_force(listed, distance)


def test_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "AT_ONCE", 3)
    hashes = list(range(100))
    found = near(hashes, 3)
    assert len(found) == len(set(found))
    assert set(found) == brute_force(hashes, 3)


def test_bits_are_counted_without_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    hashes = [0, 1, 3, 2**64 - 1, 2**63]
    assert set(near(hashes, 2)) == brute_force(hashes, 2)


@given(hashes=st.lists(st.integers(0, 6), max_size=30))
def test_groups_are_those_with_equal_hashes(hashes: list[int]) -> None:
    groups = [group.tolist() for group in equal_groups(np.array(hashes, dtype=np.uint64))]
    assert groups == sorted(groups)
    want = [[i for i, h in enumerate(hashes) if h == value] for value in dict.fromkeys(hashes)]
    assert groups == [group for group in want if len(group) > 1]


@pytest.mark.parametrize("distance", [-1, FARTHEST + 1])
def test_a_distance_that_cannot_be_searched(distance: int) -> None:
    with pytest.raises(InputError, match="can be searched"):
        near([1, 2], distance)
