"""Shards and hashes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mmpoison.base.seeding import stream_key
from mmpoison.defenses.filters.suspicious_groups.shard import VectorShard, below, hashes
from mmpoison.errors import InputError

ALL = (1 << 64) - 1


def slow_mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & ALL
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & ALL
    return x ^ (x >> 31)


def slow_hash(seed: int, stream: str, shard: int, item: int) -> int:
    step = 0x9E3779B97F4A7C15
    start = slow_mix((shard * step + stream_key(f"passes/{stream}/{seed}")) & ALL)
    return slow_mix((slow_mix((item * step + start) & ALL) + start) & ALL)


def test_hashes_are_those_of_whole_numbers_in_python() -> None:
    items = np.array([0, 1, 7, 123_456_789])
    for shard in (0, 3, 70_000):
        found = hashes(5, "sample", shard, items)
        assert found.tolist() == [slow_hash(5, "sample", shard, int(item)) for item in items]
    many = hashes(5, "sample", np.array([0, 3, 3, 70_000]), items)
    expected = zip([0, 3, 3, 70_000], items.tolist(), strict=True)
    assert many.tolist() == [slow_hash(5, "sample", shard, item) for shard, item in expected]


def test_hashes_are_even_and_independent() -> None:
    items = np.arange(100_000)
    one, other = hashes(0, "fold", 0, items), hashes(0, "fold", 1, items)
    for found in (one, other, one ^ other, hashes(1, "fold", 0, items), np.diff(one)):
        assert np.bincount((found >> np.uint64(60)).astype(int)).std() < 300
        assert np.bincount((found % np.uint64(16)).astype(int)).std() < 300
    assert (one <= below(0.25)).mean() == pytest.approx(0.25, abs=0.01)
    assert (one <= below(7.0)).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"text": np.zeros((3, 2), np.float32)}, "shard 4: 3 captions and 2 images"),
        ({"text": np.zeros((2, 2))}, "shard 4: vectors of captions are float64"),
        ({"image": np.zeros(2, np.float16)}, "vectors of images have shape"),
        ({"image_of": np.zeros(5, np.intp)}, "image_of has shape"),
        ({"image_of": np.array([0, -1])}, "shard 4: image_of has the number -1"),
    ],
)
def test_what_is_no_shard_is_refused(change: dict[str, Any], says: str) -> None:
    good: dict[str, Any] = {
        "number": 4,
        "text": np.zeros((2, 2), np.float16),
        "image": np.zeros((2, 5), np.float16),
    }
    assert len(VectorShard(**good)) == 2
    with pytest.raises(InputError, match=says):
        VectorShard(**(good | change))
