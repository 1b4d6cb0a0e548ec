"""The split by two Gaussians, against EM written from the formulas."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpoison.datasets import PairDataset
from mmpoison.defenses import GmmSplit, build_filter, filter_pairs
from mmpoison.defenses.filters.pair_vectors import memory_shard
from mmpoison.defenses.filters.similarity import facts_of
from mmpoison.defenses.filters.suspicious_groups import passes
from mmpoison.defenses.filters.suspicious_groups.passes import read_memory
from mmpoison.defenses.filters.suspicious_groups.shard import VectorShard
from mmpoison.errors import InputError, ResultError
from mmpoison.models import DualEncoder, prepare_pixels
from mmpoison.statistics import TwoGaussians, fit_two_gaussians, true_pair_auroc


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


def test_a_far_pair_is_not_safe_because_the_wide_gaussian_wins() -> None:
    """With matching pairs wider spread than mismatched ones the plain posterior calls the farthest pair safe."""
    mixture = TwoGaussians(np.array([0.2, 0.5]), np.array([0.03, 0.15]), np.array([0.2, 0.8]))
    far = -0.3
    raw = [
        share * normal(far, mean, deviation)
        for share, mean, deviation in zip(
            mixture.shares, mixture.means, mixture.deviations, strict=True
        )
    ]
    assert raw[1] / sum(raw) > 0.9
    score = mixture.log_odds(np.array([far, 0.2, 0.5]))
    assert score[0] > score[1] > 0 > math.log(1 / 9) > score[2]
    # and the other way round: the closest pair is not dropped because the mismatched ones are wider
    wide = TwoGaussians(np.array([0.2, 0.5]), np.array([0.3, 0.05]), np.array([0.5, 0.5]))
    assert normal(1.0, 0.2, 0.3) > 9 * normal(1.0, 0.5, 0.05)
    assert wide.log_odds(np.array([1.0]))[0] < wide.log_odds(np.array([0.5]))[0]


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


def test_the_order_is_that_of_the_distances(poisoned: PairDataset, judge: DualEncoder) -> None:
    train = poisoned.select(split="train")
    read = read_memory(memory_shard(judge, prepare_pixels(judge, train), train, True))
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
    monkeypatch.setattr(passes, "true_pair_auroc", partial(true_pair_auroc, fewest=5))
    with pytest.raises(ResultError, match=r"gmm-split needs 0\.7"):
        filter_pairs(poisoned, judge, "gmm-split", clean_loss=0.1)
    filter_pairs(poisoned, judge, "gmm-split", clean_loss=0.1, force=True)


def test_the_default_cut() -> None:
    assert vars(build_filter("gmm-split", {}).cut)["threshold"] == pytest.approx(-math.log(9))
