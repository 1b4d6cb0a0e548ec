"""Cells, against the nearest of all middles one by one."""

from __future__ import annotations

import numpy as np

from mmpoison.defenses.filters.suspicious_groups import cells
from mmpoison.defenses.filters.suspicious_groups.cells import cells_of, fit_cells
from mmpoison.defenses.filters.suspicious_groups.shard import unit


def test_the_nearest_middle(monkeypatch: object) -> None:
    rng = np.random.default_rng(0)
    vectors, middles = (unit(rng.normal(size=(n, 8)).astype(np.float32)) for n in (300, 9))
    slow = [max(range(9), key=lambda m: float(vector @ middles[m])) for vector in vectors]
    assert cells_of(vectors, middles).tolist() == slow


def test_separate_topics_have_cells_of_their_own() -> None:
    rng = np.random.default_rng(1)
    topic = rng.integers(5, size=2000)
    topics = np.linalg.qr(rng.normal(size=(16, 16)))[0][:5]
    vectors = unit((topics[topic] + 0.05 * rng.normal(size=(2000, 16))).astype(np.float32))
    middles = fit_cells(vectors)
    assert len(middles) == min(cells.CELLS, 2000 // cells.FEWEST_OF_A_CELL)
    found = cells_of(vectors, middles)
    for cell in np.unique(found):
        assert len(np.unique(topic[found == cell])) == 1
    np.testing.assert_array_equal(middles, fit_cells(vectors))
