"""Cosine distances of shards against a loop over pairs in float64, and float16 against NumPy's for all numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpoison.defenses.scan.read.vector_shard import distances, to_float32


def slow(text: Any, image: Any) -> list[float]:
    found = []
    for caption, picture in zip(
        text.astype(float).tolist(), image.astype(float).tolist(), strict=True
    ):
        lengths = [math.sqrt(sum(x * x for x in one)) for one in (caption, picture)]
        good = all(math.isfinite(length) and length > 0 for length in lengths)
        product = sum(x * y for x, y in zip(caption, picture, strict=True))
        found.append(1 - product / lengths[0] / lengths[1] if good else math.nan)
    return found


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 1 << 30),
    st.integers(0, 40),
    st.integers(1, 70),
    st.integers(1, 50),
    st.sampled_from([np.float16, np.float32]),
    st.floats(0.01, 100),
)
def test_against_a_slow_loop(
    seed: int, pairs: int, dimensions: int, block: int, kind: type, size: float
) -> None:
    rng = np.random.default_rng(seed)
    text, image = (size * rng.normal(size=(2, pairs, dimensions))).astype(kind)
    text[rng.random(pairs) < 0.1] = 0
    image[rng.random(pairs) < 0.1, 0] = np.nan
    text[rng.random(pairs) < 0.1, -1] = np.inf
    image[rng.random(pairs) < 0.1, -1] = -np.inf
    found = distances(text, image, block)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow(text, image), atol=2e-6)


def test_every_finite_half_is_exact() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(256, 256)
    found = np.empty(halves.shape, dtype=np.float32)
    to_float32(halves, found)
    finite = np.isfinite(halves)
    np.testing.assert_array_equal(found[finite], halves[finite].astype(np.float32))
    # the sign of zero too
    np.testing.assert_array_equal(np.signbit(found[finite]), np.signbit(halves[finite]))
    assert (np.abs(found[~finite]) >= 65536).all()
