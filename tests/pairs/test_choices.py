"""Choices by hashing: pinned for ever, independent of everything but seed, stream and id."""

from __future__ import annotations

import pytest

from mmpoison.pairs.splits import hash_order, hash_pick

IDS = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]


def test_orders_are_pinned() -> None:
    # published splits and labels hang on these: a change here changes everyone's data
    assert hash_order(IDS, 0, "split") == [1, 2, 0, 3, 4]
    assert hash_order(IDS, 1, "split") == [3, 4, 2, 0, 1]
    assert hash_order(IDS, 0, "captions") == [3, 2, 4, 1, 0]
    assert [hash_pick(10, name, 0, "label") for name in IDS] == [3, 8, 3, 6, 2]


def test_nothing_to_choose_from() -> None:
    with pytest.raises(ValueError, match="n is 0"):
        hash_pick(0, "a", 0, "x")
