"""Shards, samples, the reduced space, cells and flags, each against a slow version."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.decomposition import PCA
from tests.defenses.scan.groups.conftest import Made, saved_and_read

from mmpoison.base.seeding import stream_key
from mmpoison.defenses.scan.groups.items import (
    BINS,
    CELLS,
    FEWEST_OF_A_CELL,
    GATHERED,
    OF_A_CELL,
    Counts,
    cells_of,
    expected_conflicts,
    fit_cells,
    flag,
)
from mmpoison.defenses.scan.read.vector_shard import (
    MOST_OF_AN_IMAGE,
    Sample,
    SamplePlan,
    Space,
    VectorShard,
    hashes,
    sample_part,
    unit,
)
from mmpoison.errors import InputError

# -- shards and hashes -----------------------------------------------------------------------------


ALL = (1 << 64) - 1


def slow_mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & ALL
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & ALL
    return x ^ (x >> 31)


def slow_hash(seed: int, stream: str, shard: int, item: int) -> int:
    step = 0x9E3779B97F4A7C15
    start = slow_mix((shard * step + stream_key(f"passes/{stream}/{seed}")) & ALL)
    return slow_mix((slow_mix((item * step + start) & ALL) + start) & ALL)


def test_hashes_are_those_of_whole_numbers_in_python() -> None:
    items = np.array([0, 1, 7, 123_456_789])
    for shard in (0, 3, 70_000):
        found = hashes(5, "sample", shard, items)
        assert found.tolist() == [slow_hash(5, "sample", shard, int(item)) for item in items]
    many = hashes(5, "sample", np.array([0, 3, 3, 70_000]), items)
    expected = zip([0, 3, 3, 70_000], items.tolist(), strict=True)
    assert many.tolist() == [slow_hash(5, "sample", shard, item) for shard, item in expected]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"text": np.zeros((3, 2), np.float32)}, "shard 4: 3 captions but 2 images"),
        ({"text": np.zeros((2, 2))}, "shard 4: vectors of captions are float64"),
        ({"image": np.zeros(2, np.float16)}, "vectors of images have shape"),
        ({"image_of": np.zeros(5, np.intp)}, "image_of has shape"),
        ({"image_of": np.array([0, -1])}, "shard 4: image_of has the number -1"),
    ],
)
def test_what_is_no_shard_is_refused(change: dict[str, Any], says: str) -> None:
    good: dict[str, Any] = {
        "number": 4,
        "text": np.zeros((2, 2), np.float16),
        "image": np.zeros((2, 5), np.float16),
    }
    assert len(VectorShard(**good)) == 2
    with pytest.raises(InputError, match=says):
        VectorShard(**(good | change))


# -- the sample over shards ------------------------------------------------------------------------


def test_it_is_the_pairs_with_the_smallest_hashes(one_caption: Made) -> None:
    shards = one_caption.shards(4)
    plan = SamplePlan(len(one_caption), 500, seed=3)
    parts = [sample_part(shard, plan) for shard in shards]
    assert sum(map(len, parts)) < 800
    found = Sample.joined(parts)
    every = sorted(
        (int(hash_), shard.number, row)
        for shard in shards
        for row, hash_ in enumerate(hashes(3, "sample", shard.number, np.arange(len(shard))))
    )
    assert [(s, r) for _, s, r in every[:500]] == list(
        zip(found.shard.tolist(), found.row.tolist(), strict=True)
    )
    np.testing.assert_array_equal(found.text[17], shards[found.shard[17]].text[found.row[17]])
    # in any order
    again = Sample.joined([parts[2], Sample.joined([parts[3], parts[0]]), parts[1]])
    for name, values in found.to_arrays().items():
        np.testing.assert_array_equal(again.to_arrays()[name], values)
        np.testing.assert_array_equal(
            Sample.from_arrays(saved_and_read(found.to_arrays())).to_arrays()[name], values
        )


def test_unusable_rows_are_left_out() -> None:
    text, image = np.ones((2, 50, 4), dtype=np.float16)
    text[3] = 0
    image[7, 1] = np.inf
    found = sample_part(VectorShard(0, text, image), SamplePlan(50, 50))
    assert sorted(found.row) == [row for row in range(50) if row not in (3, 7)]


def test_the_captions_of_an_image_are_drawn_together() -> None:
    image_of = np.concatenate([np.repeat(np.arange(300), 3), np.full(200, 300)])
    vectors = np.ones((len(image_of), 4), dtype=np.float16)
    found = sample_part(VectorShard(0, vectors, vectors, image_of), SamplePlan(len(image_of), 400))
    counts = np.bincount(found.owner, minlength=301)
    assert set(counts[:300][counts[:300] > 0]) <= {1, 2, 3}
    # the last image may be cut
    assert (counts[:300] % 3 != 0).sum() <= 1
    assert counts[300] <= MOST_OF_AN_IMAGE


# -- the reduced space -----------------------------------------------------------------------------


def lengths_one(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def test_cosines_are_those_of_principal_components(one_caption: Made) -> None:
    for stored in (one_caption.text, one_caption.image):
        whole = lengths_one(stored.astype(np.float64))
        centred = lengths_one(whole - whole.mean(axis=0))
        expected = lengths_one(PCA(64, random_state=0).fit_transform(centred))
        space = Space.fit(stored)
        # of any length
        found = space.reduce((stored.astype(np.float32) * 3).astype(np.float32))
        assert found.shape == expected.shape
        np.testing.assert_allclose(found @ found[:200].T, expected @ expected[:200].T, atol=2e-3)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_unusable_rows_are_not_numbers_and_touch_no_other(one_caption: Made) -> None:
    stored = one_caption.text[:500].copy()
    space = Space.fit(stored)
    expected = space.reduce(stored)
    stored[5] = 0
    stored[9, 2] = np.nan
    found = space.reduce(stored)
    assert np.flatnonzero(np.isnan(found).any(axis=1)).tolist() == [5, 9]
    good = ~np.isnan(found[:, 0])
    np.testing.assert_array_equal(found[good], expected[good])
    again = Space.from_arrays(saved_and_read(space.to_arrays()))
    np.testing.assert_array_equal(again.reduce(stored), found)


# -- cells -----------------------------------------------------------------------------------------


def test_the_nearest_middle() -> None:
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
    assert len(middles) == min(CELLS, 2000 // FEWEST_OF_A_CELL)
    found = cells_of(vectors, middles)
    for cell in np.unique(found):
        assert len(np.unique(topic[found == cell])) == 1
    np.testing.assert_array_equal(middles, fit_cells(vectors))


# -- flagged cells ---------------------------------------------------------------------------------


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
