"""Flagged cells."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from tests.defenses.filters.passes.groups.conftest import saved_and_read

from mmpoison.defenses.filters.passes.groups.counts import (
    BINS,
    GATHERED,
    OF_A_CELL,
    Counts,
    Flags,
    Rows,
    expected_conflicts,
    flag,
    rows_of_cells,
)


def counted(conflicting: npt.NDArray[np.int64], consistent: npt.NDArray[np.int64]) -> Counts:
    histogram = np.zeros(BINS, dtype=np.int64)
    histogram[0], histogram[-1] = consistent.sum(), conflicting.sum()
    return Counts(conflicting, consistent, histogram, 0)


def large() -> Counts:
    """Usual combinations on the diagonal, conflicts anywhere, and a planted cell."""
    rng = np.random.default_rng(0)
    conflicting = rng.poisson(30, size=(40, 40))
    conflicting += np.diag(rng.poisson(2000, size=40))
    consistent = np.diag(rng.poisson(20_000, size=40)) + rng.poisson(1, size=(40, 40))
    conflicting[3, 7] += 400
    return counted(conflicting, consistent)


def test_expected_conflicts_are_those_of_a_slow_loop() -> None:
    counts = large()
    high, low = counts.conflicting, counts.consistent
    expected = expected_conflicts(counts)
    for i, j in ((0, 0), (3, 7), (39, 2)):
        independent = sum(high[i]) * sum(high[:, j]) / high.sum()
        assert expected[i, j] == pytest.approx(independent + low[i, j] * high.sum() / low.sum())


def test_a_planted_cell_is_flagged_and_usual_combinations_are_not() -> None:
    counts = large()
    flags = flag(counts, 20_000)
    assert not flags.everything
    assert flags.chance[3, 7] == OF_A_CELL / counts.conflicting[3, 7]
    assert not np.diag(flags.chance).any()
    gathered = (flags.chance * counts.conflicting).sum()
    assert gathered <= GATHERED
    # what exceeds the expected number, and a little of the rest
    expected = expected_conflicts(counts)[3, 7]
    found = counts.conflicting[3, 7]
    share = 20_000 / len(counts)
    assert flags.counted_as[3, 7] == pytest.approx((found - expected + share * expected) / found)
    assert (flags.counted_as <= 1).all()


def test_where_the_background_is_everything_so_is_what_is_gathered() -> None:
    flags = flag(counted(np.full((4, 4), 10), np.full((4, 4), 60)), 1120)
    assert flags.everything
    assert flags.background == 1.0
    assert (flags.counted_as == 1).all()
    assert not flag(counted(np.full((4, 4), 10), np.full((4, 4), 60)), 1119).everything


def test_rows_of_flagged_cells() -> None:
    chance = np.array([[0.0, 0.5], [1.0, 0.0]])
    flags = Flags.from_arrays(saved_and_read(Flags(chance, chance, 0.1).to_arrays()))
    conflict = np.array([5, 5, 5, 5, 1, np.nan], dtype=np.float32)
    rows = Rows(conflict, np.array([0, 1, 2, 3, 1, 2], dtype=np.int32))
    assert rows_of_cells(rows, flags.chance > 0, 2.0).tolist() == [1, 2]
