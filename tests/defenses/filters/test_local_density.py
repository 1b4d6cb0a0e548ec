"""The filter by local density, against scores computed point by point from the formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpoison.attacks import SingleTargetLabel
from mmpoison.datasets import PairDataset
from mmpoison.defenses import LocalDensity, build_filter
from mmpoison.defenses.filters import local_density
from mmpoison.defenses.filters.judging import filter_pairs
from mmpoison.defenses.filters.local_density import Score, nearest_others, sparsity
from mmpoison.defenses.filters.pair_vectors import embed_pairs, memory_shard
from mmpoison.defenses.filters.suspicious_groups.passes import read_memory
from mmpoison.errors import InputError
from mmpoison.models import DualEncoder, prepare_pixels


def unit_points(seed: int, number: int, dimensions: int, copies: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(number, dimensions)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    if copies:
        points[rng.permutation(number)[:copies]] = points[0]
    return points


def slow(points: Any, k: int, score: str, known: list[int]) -> list[float]:
    """The scores by their formulas, one point after the other."""

    def neighbours(x: int) -> list[tuple[float, int]]:
        found = [(1 - float(np.dot(points[x], points[o])), o) for o in known if o != x]
        return sorted((max(distance, 1e-6), o) for distance, o in found)[:k]

    def lid(o: int) -> float:
        near = neighbours(o)
        total = sum(math.log(near[-1][0] / distance) for distance, _ in near)
        return min(k / total, len(points[0])) if total > 0 else len(points[0])

    result = []
    for x in range(len(points)):
        near = neighbours(x)
        own = near[-1][0]
        ratios = [(own / neighbours(o)[-1][0], o) for _, o in near]
        if score == "k-dist":
            result.append(own)
        elif score == "slof":
            result.append(sum(ratio for ratio, _ in ratios) / k)
        else:
            result.append(sum(lid(o) * math.log(ratio) for ratio, o in ratios) / k)
    return result


@pytest.mark.parametrize("score", ["k-dist", "slof", "dao"])
@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    number=st.integers(8, 24),
    k=st.integers(2, 6),
    copies=st.integers(0, 4),
    part=st.booleans(),
)
def test_against_the_formulas(
    score: Score, seed: int, number: int, k: int, copies: int, part: bool
) -> None:
    points = unit_points(seed, number, 5, copies)
    known = np.arange(number)
    if part:
        known = np.sort(np.random.default_rng(seed).permutation(number)[: max(k + 1, number - 3)])
    near = nearest_others(points, k, known if part else None)
    found = sparsity(*near, score, 5)
    expected = slow(points.astype(np.float64), k, score, known.tolist())
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points = unit_points(0, 300, 8)
    whole = nearest_others(points, 7)
    monkeypatch.setattr(local_density, "COSINES_AT_ONCE", 64 * 300)
    counted: list[tuple[int, int]] = []
    distance, row = nearest_others(
        points, 7, progress=lambda name: lambda done, total: counted.append((done, total))
    )
    np.testing.assert_allclose(distance, whole[0], atol=1e-6)
    np.testing.assert_array_equal(row, whole[1])
    assert counted[-1] == (300, 300)


def test_no_point_is_its_own_neighbour() -> None:
    points = unit_points(1, 50, 4, copies=20)
    for reference in (None, np.arange(0, 50, 2)):
        _, row = nearest_others(points, 5, reference)
        assert not (row == np.arange(50)[:, None]).any()
        if reference is not None:
            assert np.isin(row, reference).all()


SIX = np.radians([145, 25, 75, 160, 20, 30])
"""Directions: three near 25 degrees, two near 150, and 75 alone."""


def as_released(points: Any, k: int) -> Any:
    """The mean ratio with what is wrong in released code.

    Each row of distances loses its own column before it is sorted, so that places behind it are off by one when they
    index the full matrix, which keeps the point itself as its own nearest neighbour; own distances are to the
    (k+1)-th other.
    """
    full = np.linalg.norm(points[:, None] - points[None], axis=2)
    without = np.stack([np.delete(row, i) for i, row in enumerate(full)])
    place = without.argsort(axis=1)[:, :k]
    own, theirs = np.sort(without, axis=1)[:, k], np.sort(full, axis=1)[:, k]
    return (own[:, None] / theirs[place]).mean(axis=1)


def test_six_points_whose_outlier_released_code_misses() -> None:
    points = np.stack([np.cos(SIX), np.sin(SIX)], axis=1).astype(np.float32)
    assert int(as_released(points, 2).argmax()) == 0
    distance, row = nearest_others(points, 2)
    assert set(row[2].tolist()) == {5, 1}  # 30 and 25 degrees are nearest to 75
    assert distance[2] == pytest.approx(
        [1 - math.cos(math.pi / 4), 1 - math.cos(math.pi * 50 / 180)]
    )
    scores: tuple[Score, ...] = ("k-dist", "slof", "dao")
    ranked = [int(sparsity(distance, row, score, 2).argmax()) for score in scores]
    assert ranked[1:] == [2, 2]
    # 30 degrees: to 25 and 20; 25 degrees: to both sides
    theirs = [1 - math.cos(math.radians(10)), 1 - math.cos(math.radians(5))]
    expected = sum(distance[2, 1] / d for d in theirs) / 2
    assert sparsity(distance, row, "slof", 2)[2] == pytest.approx(expected, rel=1e-3)


def test_a_pair_posted_often_is_an_inlier_and_everything_stays_finite() -> None:
    points = unit_points(2, 60, 6, copies=12)
    copies = (points == points[0]).all(axis=1)
    assert copies.sum() >= 12
    near = nearest_others(points, 4)
    for score in ("k-dist", "slof", "dao"):
        found = sparsity(*near, score, 6)
        assert np.isfinite(found).all()
        assert found[copies].max() < np.median(found[~copies])
    same = np.tile(points[:1], (9, 1))
    for score, value in (("k-dist", 0.0), ("slof", 1.0), ("dao", 0.0)):
        found = sparsity(*nearest_others(same, 3), score, 6)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, value, atol=1e-6)


@pytest.fixture(scope="module")
def train(squares: PairDataset) -> PairDataset:
    return SingleTargetLabel("sheep2aeroplane", pairs=7).poison(squares).select(split="train")


@pytest.mark.parametrize("score", ["k-dist", "slof", "dao"])
def test_what_is_a_point(
    train: PairDataset, make_encoder: Callable[..., DualEncoder], score: Score
) -> None:
    encoder = make_encoder(7)
    inputs = prepare_pixels(encoder, train)
    text, image = embed_pairs(encoder, inputs, train)
    read = read_memory(memory_shard(encoder, inputs, train, True))
    both = (np.concatenate([text, image], axis=1) / np.sqrt(2)).astype(np.float32)

    def scores(**options: Any) -> Any:
        return LocalDensity(k=3, score=score, **options).score(read).of(0)

    for modality, points in (("pair", both), ("caption", text)):
        expected = sparsity(*nearest_others(points, 3), score, points.shape[1])
        np.testing.assert_allclose(scores(modality=modality), expected, rtol=2e-4, atol=1e-6)
    # an image is one point, however many captions it has
    used, row = np.unique(train.image, return_inverse=True)
    first = [int(np.flatnonzero(train.image == number)[0]) for number in used]
    expected = sparsity(*nearest_others(image[first], 3), score, image.shape[1])[row]
    np.testing.assert_allclose(scores(modality="image"), expected, rtol=2e-4, atol=1e-6)


def test_it_drops_the_share_with_the_largest_scores(
    train: PairDataset, make_encoder: Callable[..., DualEncoder]
) -> None:
    encoder = make_encoder(7)
    result = filter_pairs(
        train, encoder, LocalDensity(clean_loss=0.1, k=2), inputs=prepare_pixels(encoder, train)
    )
    dropped = int((~result.keep).sum())
    assert 0 < dropped <= round(0.1 * len(train)) + 1
    assert result.scores[~result.keep].min() > result.scores[result.keep].max()


def test_a_reference_sample_is_of_the_seed(train: PairDataset, encoder: DualEncoder) -> None:
    read = read_memory(memory_shard(encoder, prepare_pixels(encoder, train), train, True))

    def scores(reference: int | None, seed: int = 0) -> Any:
        method = LocalDensity(k=3, reference=reference)
        return method.score(replace(read, seed=seed)).of(0)

    np.testing.assert_array_equal(scores(40), scores(40))
    assert (scores(40) != scores(40, seed=1)).any()
    assert (scores(40) >= scores(None) - 1e-6).all()  # fewer neighbours to choose from
    np.testing.assert_array_equal(scores(10**6), scores(None))
    with pytest.raises(InputError, match="3 points have no 3 neighbours each"):
        scores(3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"clean_loss": 1.0}, "1"),
        ({"k": 0}, "k 0 is not a number of neighbours"),
        ({"k": "many"}, "k 'many' is not a number"),
        ({"k": True}, "k True is not a number"),
        ({"k": 1, "score": "dao"}, "k 1 is too small for dao"),
        ({"modality": "text"}, "modality 'text' is none of pair, image, caption"),
        ({"modality": ["pair"]}, "modality .* is none of pair"),
        ({"score": "lof"}, "score 'lof' is none of k-dist, slof, dao"),
        ({"reference": 0}, "reference 0 is not a number of points"),
        ({"neighbours": 3}, "has no option|unknown option 'neighbours'"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        build_filter("local-density", options)


def test_too_few_pairs(squares: PairDataset, encoder: DualEncoder) -> None:
    few = squares.where(np.arange(len(squares)) < 5)
    with pytest.raises(InputError, match="5 points have no 16 neighbours each"):
        filter_pairs(few, encoder, LocalDensity(), inputs=prepare_pixels(encoder, few))
