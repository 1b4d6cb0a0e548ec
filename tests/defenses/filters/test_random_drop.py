"""The control that drops pairs at random."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import kstest

from mmpoison.datasets import PairDataset
from mmpoison.defenses import RandomDrop, filter_pairs
from mmpoison.defenses.filters.pair_vectors import memory_shard
from mmpoison.defenses.filters.suspicious_groups.passes import read_memory
from mmpoison.errors import InputError
from mmpoison.models import DualEncoder, prepare_pixels


@pytest.mark.parametrize("number", [1, 2, 13, 100, 139])
def test_it_drops_exactly_as_many_pairs_as_another_filter(
    number: int, poisoned: PairDataset, judge: DualEncoder
) -> None:
    train = poisoned.select(split="train")
    inputs = prepare_pixels(judge, train)
    result = filter_pairs(train, judge, RandomDrop(clean_loss=number / len(train)), inputs=inputs)
    assert int((~result.keep).sum()) == number


def test_scores_are_even_and_of_the_seed_alone(poisoned: PairDataset, judge: DualEncoder) -> None:
    read = read_memory(memory_shard(judge, prepare_pixels(judge, poisoned), poisoned, True))

    def drawn(seed: int) -> Any:
        return RandomDrop().score(replace(read, seed=seed)).of(0)

    scores = {seed: drawn(seed) for seed in range(8)}
    together = np.concatenate(list(scores.values()))
    assert kstest(together, "uniform").pvalue > 0.01
    assert len(np.unique(together)) == len(together)
    np.testing.assert_array_equal(drawn(3), scores[3])


def test_the_default_drops_a_fiftieth(poisoned: PairDataset, judge: DualEncoder) -> None:
    result = filter_pairs(poisoned, judge, "random-drop", seed=5)
    assert 0 <= int((~result.keep).sum()) - 0.02 * len(result.keep) < 1
    assert result.judge is None


def test_a_threshold_is_a_probability() -> None:
    with pytest.raises(InputError, match="a random number between 0 and 1"):
        RandomDrop(threshold=1.5)
