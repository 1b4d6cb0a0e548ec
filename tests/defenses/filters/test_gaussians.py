"""Cuts from counts, against those of all distances."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpoison.defenses.filters.distance import WIDTH, DistanceCounts
from mmpoison.errors import InputError
from mmpoison.statistics import fit_two_gaussians


def drawn(seed: int, count: int, middle: float = 0.95) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    near, far = rng.normal(0.7, 0.05, count), rng.normal(middle, 0.04, count // 5)
    return rng.permutation(np.concatenate([near, far])).clip(0, 2).astype(np.float32)


@settings(deadline=None)
@given(st.integers(0, 1 << 30), st.integers(1, 300), st.floats(0, 1))
def test_quantiles_are_those_of_all_distances(seed: int, count: int, share: float) -> None:
    values = np.random.default_rng(seed).uniform(0, 2, count)
    assert abs(DistanceCounts.of(values).quantile(share) - np.quantile(values, share)) <= WIDTH


def test_shards_are_added_in_any_order() -> None:
    values = drawn(0, 1000)
    values[3] = np.nan
    whole = DistanceCounts.of(values)
    parts = [DistanceCounts.of(part) for part in np.array_split(values, 7)]
    merged = parts[3].merge(parts[0]).merge(parts[6])
    for part in (1, 5, 2, 4):
        merged = merged.merge(parts[part])
    np.testing.assert_array_equal(merged.counts, whole.counts)
    assert (len(merged), merged.unusable) == (1199, 1)


def test_the_cut_of_a_loss_is_that_of_all_distances() -> None:
    values = drawn(1, 5000)
    cut = DistanceCounts.of(values).loss_cut(0.02)
    assert abs(cut - np.quantile(values, 0.98)) <= WIDTH
    with pytest.raises(InputError, match="clean_loss"):
        DistanceCounts.of(values).loss_cut(1.0)


@pytest.mark.parametrize(("seed", "middle"), [(0, 0.95), (1, 1.1), (2, 0.9)])
def test_the_split_is_that_of_all_cosines(seed: int, middle: float) -> None:
    values = drawn(seed, 20_000, middle).astype(np.float64)
    counted = DistanceCounts.of(values)
    two = fit_two_gaussians(1 - values)
    np.testing.assert_allclose(counted.two_gaussians().means, two.means, atol=WIDTH)


def test_what_cannot_be_counted_or_split_is_refused() -> None:
    with pytest.raises(InputError, match=r"not in \[0, 2\]"):
        DistanceCounts.of(np.array([2.5]))
    with pytest.raises(InputError, match="nothing to cut"):
        DistanceCounts.of(np.array([np.nan])).quantile(0.5)
    with pytest.raises(InputError, match="all equally far apart"):
        DistanceCounts.of(np.full(9, 0.5)).two_gaussians()


def test_counts_are_saved_and_read() -> None:
    counted, file = DistanceCounts.of(drawn(3, 100)), io.BytesIO()
    np.savez(file, allow_pickle=False, **counted.to_arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        again = DistanceCounts.from_arrays(arrays)
    np.testing.assert_array_equal(again.counts, counted.counts)
