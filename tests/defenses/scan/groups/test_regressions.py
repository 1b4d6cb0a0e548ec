"""Regressions from sums over shards, against those that scikit-learn fits item by item."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.defenses.scan.groups.conftest import Made, made, saved_and_read

from mmpoison.defenses.scan.groups.fit import (
    IMAGE_SIDE,
    LIKE_IMAGES,
    RIDGE,
    GroupModel,
    ViewFit,
    fit_model,
    sums_of,
)
from mmpoison.defenses.scan.groups.items import (
    IMAGES,
    PAIRS,
    image_items,
    pair_items,
)
from mmpoison.defenses.scan.read.vector_shard import SamplePlan, sample_part

Numbers = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def few() -> Made:
    return made(2, captions=3, images=60, poison=5)


def weight_of(count: int) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(0).random(count) < 0.9).astype(np.float32)


def predicted(
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
    weight: npt.NDArray[Any],
    fold: npt.NDArray[Any],
    of: npt.NDArray[Any],
    of_fold: npt.NDArray[Any],
) -> Numbers:
    """Ridge regression, item by item fitted on the items of other folds."""
    from sklearn.linear_model import Ridge

    found = np.zeros((len(of), y.shape[1]))
    for item in range(len(of)):
        others = fold != of_fold[item]
        model = Ridge(alpha=RIDGE).fit(x[others], y[others], sample_weight=weight[others])
        found[item] = model.predict(of[item : item + 1])[0]
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def standardised(distances: npt.NDArray[Any]) -> Numbers:
    return np.asarray((distances - np.median(distances)) / max(distances.std(), 1e-6))


def test_conflict_of_images(few: Made) -> None:
    whole = few.reduced(7)
    items = image_items(whole)
    weight = weight_of(len(items))
    fit = ViewFit.of(IMAGES, sums_of(whole, items, weight), items.image.shape[1], items)
    text, image, fold = items.text, items.image, items.fold
    caption = predicted(image, text, weight, fold, image, fold)
    place = predicted(text, image, weight, fold, text, fold)
    expected = standardised(1 - (caption * text).sum(axis=1))
    expected += standardised(1 - (place * image).sum(axis=1))
    found = fit.conflict(items)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    again = ViewFit.from_arrays(saved_and_read(fit.to_arrays()))
    np.testing.assert_array_equal(again.conflict(items), found)


def test_conflict_of_pairs(few: Made) -> None:
    whole = few.reduced(7)
    at, text, images = whole.image_at, whole.text, len(whole.image)
    weight = weight_of(len(text))
    items = pair_items(whole, 10.0)
    fit = ViewFit.of(PAIRS, sums_of(whole, items, weight), whole.image.shape[1], items)
    trusted = np.bincount(at, weight, minlength=images)
    mean = np.stack([(text * weight[:, None])[at == one].sum(axis=0) for one in range(images)])
    mean /= np.maximum(trusted, 1)[:, None]
    # an image counts once, however many captions it has
    usual = predicted(whole.image, mean, trusted > 0, whole.fold, whole.image, whole.fold)
    once = weight / np.maximum(trusted, 1)[at]
    fold = whole.fold[at]
    place = predicted(text, whole.image[at], once, fold, text, fold)
    said = []
    for pair in range(len(text)):
        others = (at == at[pair]) & (np.arange(len(at)) != pair)
        told = text[others].sum(axis=0) + LIKE_IMAGES * usual[at[pair]]
        said.append(1 - told @ text[pair] / np.linalg.norm(told))
    seen = 1 - (place * whole.image[at]).sum(axis=1)
    expected = standardised(np.array(said)) + IMAGE_SIDE * standardised(seen)
    np.testing.assert_allclose(fit.conflict(items), expected, atol=3e-3)


def test_fewer_than_twenty_items_teach_nothing(one_caption: Made) -> None:
    whole = one_caption.reduced(7)
    items = image_items(whole)
    weight = np.zeros(len(items), dtype=np.float32)
    weight[:19] = 1
    fit = ViewFit.of(IMAGES, sums_of(whole, items, weight), items.image.shape[1], items)
    text, image = fit.distances(items)
    assert (text == 1).all()
    assert (image == 1).all()


def test_what_is_written_of_a_model_is_what_is_read(one_caption: Made) -> None:
    (shard,) = one_caption.shards(1)
    sample = sample_part(shard, SamplePlan(len(shard), 500))
    written = fit_model(sample, 0)[0].to_arrays()
    again = GroupModel.from_arrays(saved_and_read(written)).to_arrays()
    assert again.keys() == written.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(again[name], array, strict=True)
