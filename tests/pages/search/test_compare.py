"""Rankings side by side."""

from __future__ import annotations

import numpy as np

from mmpoison.pages.search import Ranking, side_by_side


def ranking(items: list[int], similarity: list[float], size: int = 9) -> Ranking:
    return Ranking(np.array(items, dtype=np.int32), np.array(similarity, dtype=np.float32), size)


TARGETS = np.array([False, False, True, False, True, False])


def test_ties_count_against_the_target() -> None:
    # a collapsed model, which puts the target first by chance, must not look like a success
    tied = side_by_side({"m": ranking([2, 0, 1], [0.5, 0.5, 0.5])}, TARGETS, 3, "m")["m"]
    assert tied.best_target == 2
