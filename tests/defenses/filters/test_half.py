"""Conversion of float16, against NumPy's own, for all numbers that there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mmpoison.embedded.distance import squared_lengths, to_float32


def all_halves() -> npt.NDArray[np.float16]:
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(256, 256)


def test_every_finite_number_is_exact() -> None:
    halves = all_halves()
    found = np.empty(halves.shape, dtype=np.float32)
    to_float32(halves, found)
    finite = np.isfinite(halves)
    np.testing.assert_array_equal(found[finite], halves[finite].astype(np.float32))
    # the sign of zero too
    np.testing.assert_array_equal(np.signbit(found[finite]), np.signbit(halves[finite]))
    assert (np.abs(found[~finite]) >= 65536).all()


def test_float32_is_copied() -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    found = np.empty_like(vectors)
    to_float32(vectors, found)
    np.testing.assert_array_equal(found, vectors)


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_lengths_of_unusable_rows_are_not_numbers(kind: type) -> None:
    rows: npt.NDArray[np.floating[Any]] = np.ones((6, 5), dtype=kind)
    rows[1] = 0
    rows[2, 3] = np.nan
    rows[3, 0] = np.inf
    rows[4, 4] = -np.inf
    # long, but finite
    rows[5] = 60_000
    converted = np.empty(rows.shape, dtype=np.float32)
    to_float32(rows, converted)
    found = squared_lengths(rows, converted)
    assert np.isnan(found).tolist() == [False, True, True, True, True, False]
    assert found[0] == 5.0
    assert found[5] == pytest.approx(5 * 60_000.0**2, rel=1e-6)
