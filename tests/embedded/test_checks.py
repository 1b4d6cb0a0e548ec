"""Checks of embeddings against slow versions, and whether each fault is noticed and named."""

from __future__ import annotations

import math
import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.embedded.conftest import Pairs, clip_retrieval, datacomp, make_pairs

from mmpoison.embedded import check_shard, check_source, open_embedded
from mmpoison.embedded import checks as module
from mmpoison.embedded.checks import IdHashes, ShardFacts, notes_on


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return make_pairs(400)


def facts_of(folder: Path) -> ShardFacts:
    source = open_embedded(folder)
    return reduce(ShardFacts.merge, map(check_shard, source.shards), ShardFacts())


def test_clean_pairs_have_nothing_to_note(tmp_path: Path, pairs: Pairs) -> None:
    source = open_embedded(datacomp(tmp_path, pairs.parts([150, 150, 100])))
    seen: list[tuple[int, int]] = []
    found = check_source(source, progress=lambda *at: seen.append(at))
    assert found.notes == ()
    assert found.failed == ()
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert (found.facts.shards, found.facts.rows, found.facts.usable) == (3, 400, 400)
    assert found.facts.normalised
    assert found.facts.scored == 400
    for match in found.facts.matches:
        assert match.auroc is not None
        assert match.auroc.value > 0.9
        assert match.own is not None
        assert match.random is not None
        assert match.own > match.random + 0.3


def slow_facts(text: np.ndarray, image: np.ndarray, stored: np.ndarray) -> dict[str, float]:
    """Count row by row with Python's numbers."""
    found: Counter[str] = Counter()
    off = []
    for a, b, score in zip(text.tolist(), image.tolist(), stored.tolist(), strict=True):
        if not all(map(math.isfinite, a + b)):
            found["not_finite"] += 1
            continue
        norms = [math.sqrt(math.fsum(v * v for v in side)) for side in (a, b)]
        if 0 in norms:
            found["zero"] += 1
            continue
        found["not_unit"] += any(abs(n - 1) > 0.01 for n in norms)
        if math.isfinite(score):
            cosine = math.fsum(x * y for x, y in zip(a, b, strict=True)) / norms[0] / norms[1]
            off.append(abs(cosine - score))
    return {**found, "scored": len(off), "score_max": max(off), "score_sum": math.fsum(off)}


def test_it_equals_counting(tmp_path: Path, pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", 37)
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
    assert found.not_finite == 3
    assert found.zero == 2
    assert found.usable == 395
    lines = notes_on(found)
    assert "3 pairs with NaN or infinity in an embedding: not judged" in lines
    assert "2 pairs with an embedding that is zero: not judged" in lines
    assert "60 pairs with embeddings that are not normalised" in lines
    assert any(line.startswith("stored scores differ from the cosine by 0.0") for line in lines)


def test_the_largest_and_smallest_numbers_are_usable(tmp_path: Path, pairs: Pairs) -> None:
    """Their squares are not finite, or zero, as float32."""
    rng = np.random.default_rng(0)
    scale = rng.choice([1e-37, 1e-20, 1.0, 1e20, 1e37], size=(2, 400, 1))
    clip_retrieval(tmp_path, [pairs])
    for side, array, by in (("text", pairs.text, scale[0]), ("img", pairs.image, scale[1])):
        wide = (array * by).astype(np.float32)
        np.save(tmp_path / f"{side}_emb" / f"{side}_emb_0.npy", wide)
    facts = facts_of(tmp_path)
    assert (facts.not_finite, facts.zero) == (0, 0)
    assert facts.not_unit == int(((scale != 1).any(axis=0)).sum())
    assert facts.matches[0].auroc is not None
    assert facts.matches[0].auroc.value > 0.9
    file = tmp_path / "metadata" / "metadata_0.parquet"
    table = pq.read_table(file)
    pq.write_table(table.append_column("s", pa.array(pairs.cosine)), file)
    found = check_shard(open_embedded(tmp_path, options={"score": "s"}).shards[0])
    assert found.scored == 400
    assert found.score_max < 1e-3


def test_the_order_of_merging_does_not_matter(tmp_path: Path, pairs: Pairs) -> None:
    source = open_embedded(datacomp(tmp_path, pairs.parts([100, 150, 150])))
    parts = [check_shard(shard) for shard in source.shards]
    one, other = (reduce(ShardFacts.merge, some) for some in (parts, parts[::-1]))
    assert one.score_sum == pytest.approx(other.score_sum)
    same = {"score_sum": 0.0, "matches": ()}
    assert replace(one, **same) == replace(other, **same)  # type: ignore[arg-type]
    assert set(one.matches) == set(other.matches)


def test_another_process_finds_the_same(tmp_path: Path, pairs: Pairs) -> None:
    shard = open_embedded(datacomp(tmp_path, [pairs])).shards[0]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        far = pool.submit(check_shard, shard).result()
    assert far == check_shard(shard)
    assert far != check_shard(shard, ids=False)


def test_a_shuffled_shard_is_noticed(tmp_path: Path, pairs: Pairs) -> None:
    folder = clip_retrieval(tmp_path, pairs.parts([200, 200]))
    file = folder / "img_emb" / "img_emb_1.npy"
    np.save(file, np.random.default_rng(0).permutation(np.load(file)))
    found = check_source(open_embedded(folder))
    assert [match.shuffled for match in found.facts.matches] == [False, True]
    assert found.notes == (
        "1 shard of 2 (1): the cosine of pairs is no higher than for random pairs: the embeddings of captions and of "
        "images are not in the same order",
    )


def test_shuffled_shards_are_noticed_as_often_as_clean_ones_are_not() -> None:
    """100 clean and 100 shuffled shards of 200 pairs."""
    rng = np.random.default_rng(0)
    for seed in range(100):
        one = make_pairs(200, seed)
        usable = np.ones(200, bool)
        assert not module._match("x", one.text, one.image, usable, seed).shuffled
        shuffled = rng.permutation(one.image)
        assert module._match("x", one.text, shuffled, usable, seed).shuffled or (
            (shuffled == one.image).all(axis=1).any()  # a pair that stayed where it was
        )


def test_small_shuffled_shards_are_mostly_noticed() -> None:
    """With 35 pairs the AUROC of shuffled pairs is above 0.55 by chance at times; its interval says so."""
    usable = np.ones(35, bool)
    noticed = by_chance = 0
    for seed in range(100):
        one = make_pairs(35, seed)
        match = module._match("x", one.text, np.roll(one.image, 1, axis=0), usable, seed)
        assert match.auroc is not None
        noticed += match.shuffled
        by_chance += match.auroc.value >= module.GUESSING
    assert by_chance > 5
    assert noticed >= 95


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


def test_a_shuffled_table_is_noticed_by_stored_scores(tmp_path: Path, pairs: Pairs) -> None:
    datacomp(tmp_path, [pairs])
    file = next(tmp_path.glob("*.parquet"))
    table = pq.read_table(file)
    pq.write_table(table.take(np.random.default_rng(1).permutation(400)), file)
    assert any(
        "another model, or in another order" in line for line in notes_on(facts_of(tmp_path))
    )


def test_repeated_ids_are_found_over_shards(tmp_path: Path, pairs: Pairs) -> None:
    again = replace(pairs.part(slice(0, 100)), uids=[*pairs.uids[300:303], *pairs.uids[:97]])
    datacomp(tmp_path, [pairs.part(slice(100, 400)), again])
    facts = facts_of(tmp_path)
    assert facts.ids.repeated == 3
    assert "3 ids are not unique" in notes_on(facts)


def test_a_shard_that_cannot_be_read_is_named(tmp_path: Path, pairs: Pairs) -> None:
    folder = clip_retrieval(tmp_path, pairs.parts([150, 150, 100]))
    (folder / "img_emb" / "img_emb_1.npy").write_bytes(b"x")
    found = check_source(open_embedded(folder))
    assert [name for name, _ in found.failed] == ["1"]
    assert found.facts.rows == 250
    assert found.notes[0].startswith("1 shard cannot be read: ")
    assert found.notes[0].endswith("img_emb_1.npy: is no .npy array (its header cannot be read)")


@pytest.mark.parametrize("count", [0, 1, 2, 29])
def test_few_pairs_say_nothing(tmp_path: Path, count: int) -> None:
    found = check_source(open_embedded(clip_retrieval(tmp_path, [make_pairs(count)])))
    assert found.notes == ()
    assert found.facts.rows == count


@given(st.lists(st.lists(st.text(max_size=3), max_size=40), max_size=6))
def test_hashes_count_repeated_ids(parts: list[list[str]]) -> None:
    merged = reduce(IdHashes.merge, map(IdHashes.of, parts), IdHashes())
    ids = [one for part in parts for one in part]
    assert merged.repeated == len(ids) - len(set(ids))


def test_hashes_stay_few_and_say_what_share_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HASHES", 500)
    parts = [[f"{n}" for n in range(start, start + 1000)] for start in range(0, 20_000, 500)]
    merged = reduce(IdHashes.merge, map(IdHashes.of, parts))
    assert len(merged.values) <= 500
    ids = [one for part in parts for one in part]
    repeated = len(ids) - len(set(ids))
    assert merged.repeated / merged.share == pytest.approx(repeated, rel=0.3)
    backwards = reduce(IdHashes.merge, map(IdHashes.of, parts[::-1]))
    np.testing.assert_array_equal(merged.values, backwards.values)
    np.testing.assert_array_equal(merged.counts, backwards.counts)
    assert "among" in next(line for line in notes_on(ShardFacts(ids=merged)))
    assert IdHashes.of(["x"] * 1000).repeated == 999
