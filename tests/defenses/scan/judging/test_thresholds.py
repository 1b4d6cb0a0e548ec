"""Where to cut: each rule against what it says of itself, on distances whose truth is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpoison.defenses.scan.cut.thresholds import (
    LOSS,
    label_threshold,
    loss_threshold,
)

Values = npt.NDArray[np.float64]
RNG = np.random.default_rng


def clean(seed: int, count: int = 10_000) -> Values:
    return RNG(seed).normal(0.4, 0.05, count)


# -- by a share ------------------------------------------------------------------------------------


def test_the_interval_of_a_loss_covers_the_truth() -> None:
    truth = np.quantile(clean(99, 400_000), 0.95)
    covered, lost = 0, 0
    for seed in range(40):
        cut = loss_threshold(clean(seed, 500), 0.05, trusted=clean(seed + 100, 800))
        assert cut.interval is not None
        assert cut.loss_interval is not None
        covered += bool(cut.interval[0] <= truth <= cut.interval[1])
        lost += bool(
            cut.loss_interval[0] <= (clean(99, 50_000) > cut.value).mean() <= cut.loss_interval[1]
        )
    assert covered >= 33
    assert lost >= 33


def test_captions_of_one_image_are_no_independent_evidence() -> None:
    images = np.repeat(np.arange(200), 5)
    trusted = clean(0, 200)[images]
    together = loss_threshold(clean(1), 0.1, trusted=trusted, groups=images).interval
    apart = loss_threshold(clean(1), 0.1, trusted=trusted).interval
    assert together is not None
    assert apart is not None
    assert together[1] - together[0] > 1.5 * (apart[1] - apart[0])


# -- by labels -------------------------------------------------------------------------------------


def best_by_hand(distances: Values, bad: npt.NDArray[np.bool_], loss: float | None) -> float:
    """The largest difference of the shares dropped, over all thresholds, one by one."""
    best = -np.inf
    for cut in distances:
        lost, caught = (distances[~bad] > cut).mean(), (distances[bad] > cut).mean()
        if loss is None or lost <= loss:
            best = max(best, caught - lost)
    return float(best)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([None, 0.05, 0.3]))
def test_with_all_labels_it_is_the_best_cut(seed: int, loss: float | None) -> None:
    rng = RNG(seed)
    # bad pairs in a block of their own: then a chance that grows with the distance describes the labels exactly
    good, evil = rng.uniform(0.2, 0.6, 60), rng.uniform(0.6, 0.9, 15)
    distances = np.concatenate([good, evil])
    bad = np.arange(75) >= 60
    cut = label_threshold(distances, distances, bad, loss)
    got = (evil > cut.value).mean() - (good > cut.value).mean()
    assert got == pytest.approx(best_by_hand(distances, bad, loss)) == 1
    assert cut.loss == pytest.approx(0)


def test_a_few_labels_where_it_matters_are_enough() -> None:
    """Overlapping kinds, 1 % poison, 160 labels taken mostly from the tail."""
    from mmpoison.defenses.scan.cut.labels import pairs_to_label

    rng = RNG(3)
    good, evil = clean(3, 19_800), rng.normal(0.62, 0.06, 200)
    distances = np.concatenate([good, evil])
    bad = np.arange(20_000) >= 19_800
    places = pairs_to_label(distances, 160)
    assert bad[places].sum() > 20  # a plain random subset would hold one or two
    cut = label_threshold(distances, distances[places], bad[places])
    lost, caught = (good > cut.value).mean(), (evil > cut.value).mean()
    assert caught - lost > best_by_hand(distances[::20], bad[::20], None) - 0.08
    assert cut.interval is not None
    assert cut.interval[0] <= cut.value <= cut.interval[1]
    assert cut.loss == pytest.approx(lost, abs=0.02)
    bounded = label_threshold(distances, distances[places], bad[places], 0.001)
    assert bounded.value > cut.value
    assert (good > bounded.value).mean() < 0.004


def test_labels_without_a_bad_pair_say_so() -> None:
    distances = clean(0)
    few = distances[:50]
    cut = label_threshold(distances, few, np.zeros(50, dtype=bool))
    assert "no pair is labelled drop" in cut.note
    assert (distances > cut.value).mean() == pytest.approx(LOSS, abs=1e-3)
