"""Flagged cells."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from tests.defenses.filters.suspicious_groups.conftest import saved_and_read

from mmpoison.defenses.filters.suspicious_groups.cells import (
    BINS,
    GATHERED,
    OF_A_CELL,
    Counts,
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
    chance = flag(counts)
    assert chance[3, 7] == OF_A_CELL / counts.conflicting[3, 7]
    assert not np.diag(chance).any()
    assert 0 < (chance * counts.conflicting).sum() <= GATHERED


def test_few_conflicting_items_are_all_gathered() -> None:
    conflicting = np.full((4, 4), GATHERED // 16)
    assert (flag(counted(conflicting, np.full((4, 4), 60))) == 1).all()
    conflicting[0, 0] += 1
    assert not (flag(counted(conflicting, np.full((4, 4), 60))) == 1).all()


def test_rows_of_flagged_cells() -> None:
    cells = np.array([[False, True], [True, False]])
    conflict = np.array([5, 5, 5, 5, 1, np.nan], dtype=np.float32)
    rows = Rows(conflict, np.array([0, 1, 2, 3, 1, 2], dtype=np.int32))
    again = Rows.from_arrays(saved_and_read(rows.to_arrays()))
    assert rows_of_cells(again, cells, 2.0).tolist() == [1, 2]
