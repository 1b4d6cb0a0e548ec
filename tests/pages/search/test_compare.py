"""Rankings side by side."""

from __future__ import annotations

import numpy as np

from mmpoison.pages.search import Ranking, side_by_side


def ranking(items: list[int], similarity: list[float], size: int = 9) -> Ranking:
    return Ranking(np.array(items, dtype=np.int32), np.array(similarity, dtype=np.float32), size)


TARGETS = np.array([False, False, True, False, True, False])


def test_ranks_moves_and_targets() -> None:
    columns = side_by_side(
        {
            "clean": ranking([0, 1, 3, 2], [0.9, 0.8, 0.7, 0.1]),
            "poisoned": ranking([2, 0, 4, 1], [0.9, 0.8, 0.7, 0.6]),
        },
        TARGETS,
        2,
        "clean",
    )
    clean, poisoned = columns["clean"], columns["poisoned"]
    assert [(h.item, h.rank, h.similarity, h.was) for h in clean.hits] == [
        (0, 0, 0.9, None),
        (1, 1, 0.8, None),
    ]
    assert (clean.best_target, clean.targets_shown, clean.new) == (3, 0, None)
    assert [(h.item, h.rank, h.target, h.was) for h in poisoned.hits] == [
        (2, 0, True, 3),
        (0, 1, False, 0),
    ]
    assert (poisoned.best_target, poisoned.targets_shown, poisoned.new) == (0, 1, 1)
    assert (poisoned.known, poisoned.size) == (4, 9)


def test_ties_count_against_the_target() -> None:
    # a collapsed model, which puts the target first by chance, must not look like a success
    tied = side_by_side({"m": ranking([2, 0, 1], [0.5, 0.5, 0.5])}, TARGETS, 3, "m")["m"]
    assert tied.best_target == 2
