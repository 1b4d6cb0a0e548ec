"""Where to cut: each rule against what it says of itself, on distances whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpoison.defenses.filters.thresholds import (
    AUTOMATIC_LOSS,
    automatic_threshold,
    has_distant_group,
    label_threshold,
    loss_threshold,
    separating_distance,
)
from mmpoison.errors import InputError

Values = npt.NDArray[np.float64]
RNG = np.random.default_rng


def clean(seed: int, count: int = 10_000, kind: str = "normal") -> Values:
    rng = RNG(seed)
    if kind == "lognormal":
        return 0.2 * rng.lognormal(0, 0.4, count)
    if kind == "exponential":
        return 0.1 + rng.exponential(0.1, count)
    width = np.where(rng.random(count) < 0.9, 0.05, 0.15) if kind == "two widths" else 0.05
    return rng.normal(0.4, width, count)


KINDS = ["normal", "lognormal", "exponential", "two widths"]


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
    from mmpoison.defenses.filters.pair_labels import pairs_to_label

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
    assert "no labelled pair is to be dropped" in cut.note
    assert (distances > cut.value).mean() == pytest.approx(AUTOMATIC_LOSS, abs=1e-3)


@pytest.mark.parametrize("labels", [[], [True, True]])
def test_labels_that_tell_nothing_apart(labels: list[bool]) -> None:
    with pytest.raises(InputError, match="label some pairs that are to be kept too"):
        label_threshold(clean(0), np.array([0.5] * len(labels)), np.array(labels, dtype=bool))


# -- by nothing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_clean_set_loses_one_in_a_hundred_at_most(kind: str) -> None:
    lost = []
    for seed in range(30):
        distances = clean(seed, kind=kind)
        mismatched = RNG(seed).normal(0.9, 0.1, 2000)
        cut = automatic_threshold(distances, mismatched)
        lost.append(float((distances > cut.value).mean()))
        assert cut.rule == "automatic"
    # the test for a group may be wrong in one of a thousand
    assert sorted(lost)[-2] <= AUTOMATIC_LOSS + 1e-4


@pytest.mark.parametrize("share", [0.03, 0.1, 0.3])
def test_a_group_of_distant_pairs_is_dropped(share: float) -> None:
    for seed in range(5):
        good, evil = clean(seed), RNG(seed).normal(0.9, 0.1, int(10_000 * share))
        distances = np.concatenate([good, evil])
        cut = automatic_threshold(distances, RNG(seed + 1).normal(0.9, 0.1, 2000))
        assert (evil > cut.value).mean() > 0.98
        assert (good > cut.value).mean() < 0.01
        assert "a group of their own" in cut.note


def test_a_poor_judge_is_not_let_drop_much() -> None:
    """There is a group, but random images lie as close as clean pairs."""
    distances = np.concatenate([clean(0), RNG(0).normal(0.9, 0.05, 1000)])
    assert has_distant_group(distances)
    cut = automatic_threshold(distances, RNG(1).normal(0.42, 0.06, 2000))
    assert (distances > cut.value).mean() == pytest.approx(AUTOMATIC_LOSS, abs=1e-3)


def test_where_all_lie_close_less_is_dropped() -> None:
    distances = clean(0)
    cut = automatic_threshold(distances, np.full(100, 1.2))
    assert (distances > cut.value).mean() < 0.001
    assert "nearly all pairs" in cut.note


@pytest.mark.parametrize("distances", [np.full(50, 0.3), np.array([0.3]), np.array([0.1, 0.9])])
def test_sets_that_are_no_distribution(distances: Values) -> None:
    assert not has_distant_group(distances)
    cut = automatic_threshold(distances, np.array([]))
    assert (distances <= cut.value).any()


@settings(max_examples=50)
@given(
    *(st.lists(st.integers(0, 9).map(float), min_size=1, max_size=20) for _ in range(2)),
)
def test_the_separating_distance_is_the_best_of_all(one: list[float], other: list[float]) -> None:
    def gain(cut: Any) -> float:
        return float(np.mean(np.array(other) > cut) - np.mean(np.array(one) > cut))

    found = separating_distance(np.array(one), np.array(other))
    assert gain(found) == pytest.approx(max(gain(cut) for cut in [*one, *other]))
