"""Filters that give each pair a score: local density and two Gaussians against formulas, and chance."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from mmpoison.datasets import PairDataset
from mmpoison.defenses import filter_pairs
from mmpoison.defenses.scan.read import pass_runner
from mmpoison.defenses.scan.read.pass_runner import ReadPairs, read_memory
from mmpoison.defenses.scan.read.vector_shard import VectorShard
from mmpoison.defenses.scan.read.vectors import embed_pairs
from mmpoison.errors import InputError, ResultError
from mmpoison.models import DualEncoder, PixelInputs
from mmpoison.statistics import true_pair_auroc
from mmpoison_lab.defenses import local_density
from mmpoison_lab.defenses.gmm_split import GmmSplit, facts_of
from mmpoison_lab.defenses.local_density import LocalDensity, Score, nearest_others, sparsity
from mmpoison_lab.defenses.random_drop import RandomDrop
from mmpoison_lab.defenses.two_gaussians import TwoGaussians, fit_two_gaussians

# -- the filter by local density -------------------------------------------------------------------


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


@pytest.mark.parametrize("score", ["k-dist", "slof", "dao"])
def test_what_is_a_point(
    train: PairDataset, judge: DualEncoder, inputs: PixelInputs, read: ReadPairs, score: Score
) -> None:
    text, image = embed_pairs(judge, inputs, train)
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


def test_a_reference_sample_is_of_the_seed(read: ReadPairs) -> None:
    def scores(reference: int | None, seed: int = 0) -> Any:
        method = LocalDensity(k=3, reference=reference)
        return method.score(replace(read, seed=seed)).of(0)

    np.testing.assert_array_equal(scores(40), scores(40))
    assert (scores(40) != scores(40, seed=1)).any()
    assert (scores(40) >= scores(None) - 1e-6).all()  # fewer neighbours to choose from
    np.testing.assert_array_equal(scores(10**6), scores(None))
    with pytest.raises(InputError, match="3 points have fewer than 3 neighbours"):
        scores(3)


# -- the split by two gaussians --------------------------------------------------------------------


def normal(x: float, mean: float, deviation: float) -> float:
    return math.exp(-((x - mean) ** 2) / (2 * deviation**2)) / (deviation * math.sqrt(2 * math.pi))


def slow_em(values: list[float]) -> list[tuple[float, float, float]]:
    """Mean, deviation and share of two Gaussians, the smaller mean first; starts from the outer quarters."""
    values = sorted(values)
    quarter = len(values) // 4
    parts = [(sum(part) / len(part), 0.1, 0.5) for part in (values[:quarter], values[-quarter:])]
    for _ in range(400):
        weights = []
        for x in values:
            raw = [share * normal(x, mean, deviation) for mean, deviation, share in parts]
            weights.append([r / sum(raw) for r in raw])
        new = []
        for j in (0, 1):
            total = sum(w[j] for w in weights)
            mean = sum(w[j] * x for w, x in zip(weights, values, strict=True)) / total
            square = sum(w[j] * (x - mean) ** 2 for w, x in zip(weights, values, strict=True))
            new.append((mean, math.sqrt(square / total + 1e-6), total / len(values)))
        parts = new
    return sorted(parts)


def two_kinds(seed: int, far: int = 60, near: int = 240) -> Any:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(0.1, 0.08, far), rng.normal(0.6, 0.05, near)])


@pytest.mark.parametrize("seed", [0, 1])
def test_against_em_from_the_formulas(seed: int) -> None:
    values = two_kinds(seed)
    found, expected = fit_two_gaussians(values, seed=seed), slow_em(values.tolist())
    for i, (mean, deviation, share) in enumerate(expected):
        assert found.means[i] == pytest.approx(mean, abs=1e-4)
        assert found.deviations[i] == pytest.approx(deviation, abs=1e-4)
        assert found.shares[i] == pytest.approx(share, abs=1e-4)
    (m0, s0, w0), (m1, s1, w1) = expected
    between = np.linspace(m0, m1, 50)
    posterior = [
        w1 * normal(x, m1, s1) / (w0 * normal(x, m0, s0) + w1 * normal(x, m1, s1)) for x in between
    ]
    np.testing.assert_allclose(1 / (1 + np.exp(found.log_odds(between))), posterior, atol=1e-3)
    # the default threshold is a posterior of 0.9
    threshold = GmmSplit().cut.threshold
    assert threshold is not None
    keep = found.log_odds(between) <= threshold
    clear = np.abs(np.array(posterior) - 0.9) > 1e-3
    np.testing.assert_array_equal(keep[clear], (np.array(posterior) >= 0.9)[clear])
    assert 0 < keep.sum() < len(keep)
    assert found.separation == pytest.approx((m1 - m0) / math.sqrt((s0**2 + s1**2) / 2), abs=1e-3)
    facts = facts_of(found)
    assert facts["matching"]["mean"] > facts["mismatched"]["mean"]
    assert facts["separation"] == pytest.approx(found.separation, abs=1e-4)


@given(
    st.floats(-0.9, 0.8),
    st.floats(0.01, 1.0),
    st.floats(0.01, 0.5),
    st.floats(0.01, 0.5),
    st.floats(0.01, 0.99),
)
def test_the_score_falls_with_the_cosine(
    mean: float, gap: float, first: float, second: float, share: float
) -> None:
    mixture = TwoGaussians(
        np.array([mean, mean + gap]), np.array([first, second]), np.array([share, 1 - share])
    )
    grid = np.linspace(-1, 1, 401)
    assert (np.diff(mixture.log_odds(grid)) < 0).all()


def test_equal_cosines_are_refused() -> None:
    same = np.tile(np.eye(1, 4, dtype=np.float32), (50, 1))
    with pytest.raises(InputError, match="pairs are all equally far apart"):
        GmmSplit().score(read_memory(VectorShard(0, same, same)))


def test_the_order_is_that_of_the_distances(read: ReadPairs) -> None:
    order = np.argsort(read.distance(0), kind="stable")
    assert (np.diff(GmmSplit().score(read).of(0)[order]) >= -1e-9).all()


def test_the_report_says_how_far_the_gaussians_are_apart(
    poisoned: PairDataset, judge: DualEncoder
) -> None:
    result = filter_pairs(poisoned, judge, "gmm-split", clean_loss=0.1)
    mixture = result.facts()["mixture"]
    assert {"mismatched", "matching", "separation"} == set(mixture)
    assert 0 < mixture["separation"] < 2
    assert any("the two Gaussians overlap" in note for note in result.notes)


def test_a_judge_that_cannot_distinguish_is_refused(
    poisoned: PairDataset, judge: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pass_runner, "true_pair_auroc", partial(true_pair_auroc, fewest=5))
    with pytest.raises(ResultError, match=r"gmm-split needs 0\.7"):
        filter_pairs(poisoned, judge, "gmm-split", clean_loss=0.1)
    filter_pairs(poisoned, judge, "gmm-split", clean_loss=0.1, force=True)


# -- the control that drops pairs at random --------------------------------------------------------


@pytest.mark.parametrize("number", [1, 100])
def test_it_drops_exactly_as_many_pairs_as_another_filter(
    number: int, train: PairDataset, judge: DualEncoder, inputs: PixelInputs
) -> None:
    result = filter_pairs(train, judge, RandomDrop(clean_loss=number / len(train)), inputs=inputs)
    assert int((~result.keep).sum()) == number


def test_scores_are_even_and_of_the_seed_alone(read: ReadPairs) -> None:
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
