"""The pre-training defence by the distance to the k-th neighbour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mmpoison.attacks import SingleTargetLabel
from mmpoison.datasets import PairDataset
from mmpoison.defenses import build_filter
from mmpoison.defenses.filters.distance_scan import embed_pairs
from mmpoison.defenses.filters.neighbour_outliers import NeighbourOutliers, neighbour_distance
from mmpoison.errors import InputError
from mmpoison.models import DualEncoder, prepare_pixels


@pytest.mark.parametrize("k", [1, 3, 7])
def test_against_all_distances(k: int) -> None:
    rng = np.random.default_rng(k)
    points = rng.normal(size=(700, 5)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    all_distances = 1 - points.astype(np.float64) @ points.T.astype(np.float64)
    np.fill_diagonal(all_distances, np.inf)
    expected = np.sort(all_distances, axis=1)[:, k - 1]
    np.testing.assert_allclose(neighbour_distance(points, k), expected, atol=1e-6)


def test_it_drops_the_share_that_is_farthest(
    squares: PairDataset, make_encoder: Callable[..., DualEncoder]
) -> None:
    encoder = make_encoder(7)
    train = SingleTargetLabel("sheep2aeroplane", pairs=7).poison(squares).select(split="train")
    inputs = prepare_pixels(encoder, train)
    result = NeighbourOutliers(clean_loss=0.1, k=2).apply(train, encoder, inputs)
    text, image = embed_pairs(encoder, inputs, train)
    both = np.concatenate([text, image], axis=1) / np.sqrt(2, dtype=np.float32)
    np.testing.assert_allclose(result.scores, neighbour_distance(both, 2), atol=1e-6)
    dropped = int((~result.keep).sum())
    assert 0 < dropped <= round(0.1 * len(train)) + 1
    assert result.scores[~result.keep].min() > result.scores[result.keep].max()
    # the published score is one for all captions of an image
    published = NeighbourOutliers(clean_loss=0.1, k=2, space="image").apply(train, encoder, inputs)
    for number in np.unique(train.image):
        assert len(set(published.scores[train.image == number])) == 1
    assert len(set(result.scores[train.image == train.image[0]])) > 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"clean_loss": 1.0}, "1"),
        ({"k": 0}, "k 0 is no number of a neighbour"),
        ({"k": "many"}, "k 'many' is no number"),
        ({"k": True}, "k True is no number"),
        ({"space": "text"}, "space 'text' is neither pair nor image"),
        ({"neighbours": 3}, "has no option|unknown option 'neighbours'"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        build_filter("neighbour-outliers", options)


def test_too_few_pairs(squares: PairDataset, encoder: DualEncoder) -> None:
    few = squares.where(np.arange(len(squares)) < 5)
    with pytest.raises(InputError, match="5 points have no 16-th neighbour each"):
        NeighbourOutliers().apply(few, encoder, prepare_pixels(encoder, few))
