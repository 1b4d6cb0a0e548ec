"""The test part of the coloured squares, and embeddings drawn at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mmpoison.datasets import PairDataset
from mmpoison.evaluation import TestEmbeddings, TestSet


@pytest.fixture(scope="module")
def test_set(squares: PairDataset) -> TestSet:
    return TestSet.of(squares)


def random_embeddings(test: TestSet, seed: int = 0, d: int = 6) -> TestEmbeddings:
    rng = np.random.default_rng(seed)

    def unit(n: int) -> Any:
        values = rng.normal(size=(n, d)).astype(np.float32)
        return values / np.linalg.norm(values, axis=1, keepdims=True)

    return TestEmbeddings(unit(len(test.gallery)), unit(len(test.pairs)))
