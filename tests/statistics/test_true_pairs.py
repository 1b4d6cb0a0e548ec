"""The AUROC of true pairs; `tests/defenses/scan/judging/test_judge_test.py` compares it with counting."""

from __future__ import annotations

import numpy as np
import pytest

from mmpoison.statistics import true_pair_auroc, twice_below


def test_few_images_say_nothing_and_few_pairs_can_be_asked_for() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(200, 8))
    text = image + rng.normal(size=image.shape)
    text, image = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (text, image))
    assert true_pair_auroc(text[:29], image[:29]) is None
    few = true_pair_auroc(text[:29], image[:29], fewest=10)
    assert few is not None
    assert few.n == 29
    part, whole = true_pair_auroc(text, image, most=50), true_pair_auroc(text, image)
    assert part is not None
    assert whole is not None
    assert (part.n, whole.n) == (50, 200)
    assert part.value == pytest.approx(whole.value, abs=0.1)
    backwards = true_pair_auroc(text, image[::-1])
    assert backwards is not None
    assert backwards.value == pytest.approx(0.5, abs=0.1)


def test_counts_below_equal_counting() -> None:
    rng = np.random.default_rng(0)
    values, others = rng.integers(0, 9, (5, 4)) / 2, rng.integers(0, 9, 30) / 2
    counted = [[sum(2 * (o < v) + (o == v) for o in others) for v in row] for row in values]
    np.testing.assert_array_equal(twice_below(values, others), counted)
