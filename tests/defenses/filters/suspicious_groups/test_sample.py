"""The sample over shards."""

from __future__ import annotations

import numpy as np
from tests.defenses.filters.suspicious_groups.conftest import Made, saved_and_read

from mmpoison.defenses.filters.suspicious_groups.shard import (
    MOST_OF_AN_IMAGE,
    Sample,
    SamplePlan,
    VectorShard,
    hashes,
    sample_part,
)


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
