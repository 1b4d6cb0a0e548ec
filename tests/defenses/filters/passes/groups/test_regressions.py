"""Regressions from sums over shards, against those of the scan in memory with the same folds."""

from __future__ import annotations

from functools import reduce

import numpy as np
import numpy.typing as npt
import pytest
from tests.defenses.filters.passes.groups.conftest import Made, saved_and_read

from mmpoison.defenses.filters.passes.groups.items import (
    IMAGES,
    PAIRS,
    Reduced,
    image_items,
    pair_items,
    reduce_shard,
)
from mmpoison.defenses.filters.passes.groups.model import (
    Sums,
    ViewFit,
    image_sums,
    pair_sums,
)
from mmpoison.defenses.filters.passes.groups.shard import Space, VectorShard
from mmpoison.defenses.filters.suspicious_groups import _conflict
from mmpoison.defenses.filters.suspicious_groups._conflict import (
    Views,
    conflict_of_images,
    conflict_of_pairs,
    image_views,
)


def reduced_whole(data: Made) -> Reduced:
    shard = VectorShard(0, data.text, data.image[data.image_of], data.image_of)
    return reduce_shard(shard, Space.fit(data.text), Space.fit(data.image), 7)


def weight_of(count: int) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(0).random(count) < 0.9).astype(np.float32)


def test_conflict_of_images(three_captions: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = reduced_whole(three_captions)
    items = image_items(whole)
    monkeypatch.setattr(_conflict, "folds_of", lambda images, seed: whole.fold)
    weight = weight_of(len(items))
    views = Views(whole.text, whole.image, np.arange(len(whole.text)), whole.image_at)
    expected, captions = conflict_of_images(image_views(views)[0], weight)
    sums = reduce(
        Sums.merge,
        [
            image_sums(items, np.where(part, weight, 0).astype(np.float32))
            for part in thirds(len(items))
        ],
    )
    fit = ViewFit.of(IMAGES, sums, items.image.shape[1], items)
    found, likely = fit.conflict(items)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_allclose(likely, captions, atol=1e-3)
    again = ViewFit.from_arrays(saved_and_read(fit.to_arrays()))
    np.testing.assert_array_equal(again.conflict(items)[0], found)


def test_conflict_of_pairs(three_captions: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = reduced_whole(three_captions)
    monkeypatch.setattr(_conflict, "folds_of", lambda images, seed: whole.fold)
    weight = weight_of(len(whole.text))
    views = Views(whole.text, whole.image, np.arange(len(whole.text)), whole.image_at)
    expected = conflict_of_pairs(views, weight)
    items = pair_items(whole, 10.0, weight)
    fit = ViewFit.of(PAIRS, pair_sums(whole, items, weight), items.image.shape[1], items)
    np.testing.assert_allclose(fit.conflict(items)[0], expected, atol=1e-3)


def test_fewer_than_twenty_items_teach_nothing(one_caption: Made) -> None:
    whole = reduced_whole(one_caption)
    items = image_items(whole)
    weight = np.zeros(len(items), dtype=np.float32)
    weight[:19] = 1
    fit = ViewFit.of(IMAGES, image_sums(items, weight), items.image.shape[1], items)
    text, image, _ = fit.distances(items)
    assert (text == 1).all()
    assert (image == 1).all()


def thirds(count: int) -> list[npt.NDArray[np.bool_]]:
    return [np.arange(count) % 3 == part for part in range(3)]
