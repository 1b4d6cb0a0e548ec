"""The synthetic corpus of the benchmarks, and planted poison in it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.defenses.scan.whole.group_loop import groups_in, source_of

from mmpoison.defenses.scan.read.vector_shard import VectorShard, distances

FILE = Path(__file__).parents[4] / "benchmarks/synthetic_corpus.py"


@pytest.fixture(scope="module")
def corpus() -> Any:
    if not FILE.exists():
        pytest.skip("the benchmarks are not in a built package")
    spec = importlib.util.spec_from_file_location("synthetic_corpus", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["synthetic_corpus"] = module
    spec.loader.exec_module(module)
    yield module.Corpus
    del sys.modules["synthetic_corpus"]


def test_a_shard_is_made_again_alone(corpus: Any) -> None:
    made = corpus(2500, rate=0.02, goals=2, seed=3, shard_pairs=1000, dimensions=128)
    assert made.sizes == [1000, 1000, 500]
    again = corpus(2500, rate=0.02, goals=2, seed=3, shard_pairs=1000, dimensions=128)
    for one, other in zip(made.shard(2), again.shard(2), strict=True):
        np.testing.assert_array_equal(one, other)
    text, image, goal = made.shard(1)
    assert text.dtype == image.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(text.astype(float), axis=1), 1, atol=1e-3)
    assert not np.array_equal(text[:500], made.shard(2)[0])
    assert 5 <= (goal >= 0).sum() <= 40
    assert set(goal.tolist()) == {-1, 0, 1}


def test_pairs_match_and_poison_does_not(corpus: Any) -> None:
    text, image, goal = corpus(4000, rate=0.05, shard_pairs=4000, dimensions=128).shard(0)
    found = distances(text, image)
    shuffled = distances(text, np.roll(image, 1, axis=0))
    assert np.median(found[goal < 0]) < np.quantile(shuffled, 0.05)
    assert np.median(found[goal >= 0]) > np.quantile(shuffled, 0.2)


def scanned(made: Any) -> tuple[Any, Any, Any]:
    shards = [made.shard(number) for number in range(len(made.sizes))]
    found = groups_in(source_of([VectorShard(i, *one[:2]) for i, one in enumerate(shards)]))
    bad = np.concatenate([goal for _, _, goal in shards]) >= 0
    starts = np.cumsum([0, *made.sizes])
    groups = [
        np.concatenate([starts[number] + rows for number, rows in group.rows.items()])
        for group in found.groups
    ]
    return found, groups, bad


@pytest.mark.slow
def test_forty_thousand_pairs_with_little_poison(corpus: Any) -> None:
    made = corpus(40_000, rate=0.00075, seed=1, dimensions=256)
    found, groups, bad = scanned(made)
    first = groups[0]
    assert bad[first].mean() > 0.9
    assert np.isin(np.flatnonzero(bad), first).mean() > 0.9
    assert found.groups[0].false_alarms <= 0.01
    score = np.concatenate(found.scores)
    assert (score[bad] > np.quantile(score, 0.995)).mean() > 0.9


@pytest.mark.slow
def test_forty_thousand_clean_pairs_have_no_group(corpus: Any) -> None:
    found, _, _ = scanned(corpus(40_000, seed=50, dimensions=256))
    assert all(group.false_alarms > 0.01 for group in found.groups)
