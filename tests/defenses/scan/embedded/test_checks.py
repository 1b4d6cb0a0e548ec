"""Checks of embeddings against slow versions, and whether each fault is noticed and named."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.defenses.scan.embedded.conftest import Pairs, clip_retrieval, datacomp, make_pairs

from mmpoison.defenses.scan import check_shard, open_embedded
from mmpoison.defenses.scan.read import checks as module
from mmpoison.defenses.scan.read.checks import ShardFacts, notes_on


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return make_pairs(400)


def facts_of(folder: Path) -> ShardFacts:
    source = open_embedded(folder)
    return reduce(ShardFacts.merge, map(check_shard, source.shards), ShardFacts())


def test_clean_pairs_have_nothing_to_note(tmp_path: Path, pairs: Pairs) -> None:
    facts = facts_of(datacomp(tmp_path, pairs.parts([150, 150, 100])))
    assert notes_on(facts) == []
    assert (facts.shards, facts.rows, facts.usable, facts.compared) == (3, 400, 400, 3)
    assert facts.scored == 400


def slow_facts(text: np.ndarray, image: np.ndarray, stored: np.ndarray) -> dict[str, float]:
    """Count row by row with Python's numbers."""
    found: Counter[str] = Counter()
    off = []
    for a, b, score in zip(text.tolist(), image.tolist(), stored.tolist(), strict=True):
        norms = [math.sqrt(math.fsum(v * v for v in side)) for side in (a, b)]
        if 0 in norms or not all(map(math.isfinite, norms)):
            found["unusable"] += 1
            continue
        if math.isfinite(score):
            cosine = math.fsum(x * y for x, y in zip(a, b, strict=True)) / norms[0] / norms[1]
            off.append(abs(cosine - score))
    return {**found, "scored": len(off), "score_max": max(off), "score_sum": math.fsum(off)}


def test_it_equals_counting(tmp_path: Path, pairs: Pairs) -> None:
    text, image = pairs.text.copy(), pairs.image.copy()
    text[3, 2], image[99, 0], image[3] = np.nan, -np.inf, 0
    text[120] = image[399] = 0
    image[7] = np.inf
    text[200:230] *= 3
    image[210:260] *= np.float16(0.5)
    rng = np.random.default_rng(0)
    stored = (pairs.cosine + rng.normal(scale=0.1, size=400)).astype(np.float32)
    stored[::13] = np.nan
    broken = replace(pairs, text=text, image=image)
    datacomp(tmp_path, [broken], clip_l14_similarity_score=pa.array(stored))
    found = facts_of(tmp_path)
    expected = slow_facts(text, image, stored)
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, abs=1e-4), name
    assert (found.unusable, found.usable) == (5, 395)
    lines = notes_on(found)
    said = "5 pairs with an embedding that is zero, infinite or not a number: not judged"
    assert said in lines
    assert any(line.startswith("stored scores differ from the cosine by 0.0") for line in lines)


def test_a_shuffled_shard_is_noticed(tmp_path: Path, pairs: Pairs) -> None:
    folder = clip_retrieval(tmp_path, pairs.parts([200, 200]))
    file = folder / "img_emb" / "img_emb_1.npy"
    np.save(file, np.random.default_rng(0).permutation(np.load(file)))
    assert notes_on(facts_of(folder)) == [
        "1 shard of 2 (1): the cosine of pairs is no higher than for random pairs: the embeddings of captions and of "
        "images are not in the same order"
    ]


def test_shuffled_shards_are_noticed_as_often_as_clean_ones_are_not() -> None:
    """100 clean and 100 shuffled shards of 200 pairs."""
    rng = np.random.default_rng(0)
    for seed in range(100):
        one = make_pairs(200, seed)
        usable = np.ones(200, bool)
        assert module._shuffled(one.text, one.image, usable) is False
        shuffled = rng.permutation(one.image)
        assert module._shuffled(one.text, shuffled, usable) or (
            (shuffled == one.image).all(axis=1).any()  # a pair that stayed where it was
        )


def test_a_shuffled_table_is_noticed_by_equal_captions(tmp_path: Path, pairs: Pairs) -> None:
    text = pairs.text.copy()
    text[200:] = text[:200]
    captions = pairs.captions[:200] * 2
    folder = clip_retrieval(tmp_path, [replace(pairs, text=text, captions=captions)])
    facts = facts_of(folder)
    assert (facts.repeats, facts.repeats_same, facts.captions_out_of_order) == (200, 200, False)
    file = folder / "metadata" / "metadata_0.parquet"
    table = pq.read_table(file)
    pq.write_table(table.take(np.random.default_rng(1).permutation(400)), file)
    facts = facts_of(folder)
    assert facts.captions_out_of_order
    assert any("the table is not in the order" in line for line in notes_on(facts))


@pytest.mark.parametrize("count", [1, 2, 29])
def test_few_pairs_say_nothing(tmp_path: Path, count: int) -> None:
    facts = facts_of(clip_retrieval(tmp_path, [make_pairs(count)]))
    assert (notes_on(facts), facts.rows, facts.compared) == ([], count, 0)
