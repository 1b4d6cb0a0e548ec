"""Choices by hashing: pinned for ever, independent of everything but seed, stream and id."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpoison.pairs.splits import hash_order, hash_pick

IDS = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]


def test_orders_are_pinned() -> None:
    # published splits and labels hang on these: a change here changes everyone's data
    assert hash_order(IDS, 0, "split") == [1, 2, 0, 3, 4]
    assert hash_order(IDS, 1, "split") == [3, 4, 2, 0, 1]
    assert hash_order(IDS, 0, "captions") == [3, 2, 4, 1, 0]
    assert [hash_pick(10, name, 0, "label") for name in IDS] == [3, 8, 3, 6, 2]


@given(st.lists(st.text(st.characters(codec="utf-8")), unique=True), st.integers(), st.randoms())
def test_the_order_of_the_list_does_not_matter(ids: list[str], seed: int, random: object) -> None:
    shuffled = list(ids)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    ordered = [ids[index] for index in hash_order(ids, seed, "x")]
    assert [shuffled[index] for index in hash_order(shuffled, seed, "x")] == ordered
    assert sorted(hash_order(ids, seed, "x")) == list(range(len(ids)))


def test_equal_ids_keep_their_order() -> None:
    assert hash_order(["a", "a", "a"], 0, "x") == [0, 1, 2]


def test_nothing_to_choose_from() -> None:
    with pytest.raises(ValueError, match="n is 0"):
        hash_pick(0, "a", 0, "x")
