"""The test of a judge: its AUROC against counting, its interval, who is refused, and what is said of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from mmpoison.datasets import load_dataset
from mmpoison.defenses import RelevanceFilter, filter_pairs
from mmpoison.defenses.scan.cut.judging import check_judge, is_refused, judge_note
from mmpoison.models import load_encoder
from mmpoison.statistics import Estimate, true_pair_auroc

Floats = npt.NDArray[np.float64]
METHOD = RelevanceFilter(clean_loss=0.01)


def embedded(
    pairs: int, signal: float, *, seed: int = 0, images: int = 100_000, poisoned: float = 0.0
) -> tuple[Floats, Floats]:
    """Captions that say `signal` of their images, poisoned ones of others; the modalities lie apart, as CLIP's do."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(pairs, 32))[np.sort(rng.integers(0, images, pairs)) % pairs]
    meant = image.copy()
    bad = rng.random(pairs) < poisoned
    meant[bad] = rng.normal(size=(int(bad.sum()), 32))
    text = signal * meant + rng.normal(size=(pairs, 32)) + np.full(32, 0.5)
    return tuple(v / np.linalg.norm(v, axis=1, keepdims=True) for v in (text, image))


def measured(*arrays: Floats) -> tuple[float, float, float]:
    found = true_pair_auroc(*arrays)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    return found.value, found.low, found.high


def test_it_equals_counting() -> None:
    text, image = embedded(60, 0.3)
    image[30:45] = image[:15]  # images in several pairs
    text[20:35] = text[:15]  # captions of several images
    text[50] = text[5] * (1 + 1e-7)
    caption = [*range(20), *range(15), *range(35, 50), 5, *range(51, 60)]
    wins, comparisons = 0.0, 0
    distance = 1 - text @ image.T
    shuffled = [
        distance[i, j]
        for i in range(60)
        for j in range(60)
        if not np.array_equal(image[i], image[j]) and caption[i] != caption[j]
    ]
    for true in np.diag(distance):
        wins += sum((true < d) + (true == d) / 2 for d in shuffled)
        comparisons += len(shuffled)
    assert measured(text, image)[0] == pytest.approx(wins / comparisons)


def test_the_interval_holds_the_value_of_all_pairs() -> None:
    for signal in (0.0, 0.1, 0.3):
        whole = np.mean([measured(*embedded(1024, signal, seed=n))[0] for n in range(100, 106)])
        held = [
            low <= whole <= high
            for _, low, high in (measured(*embedded(64, signal, seed=n)) for n in range(60))
        ]
        assert np.mean(held) > 0.85


def test_captions_of_one_image_are_no_further_evidence() -> None:
    text, image = embedded(100, 0.3)
    once, often = measured(text, image), measured(*(np.repeat(v, 5, axis=0) for v in (text, image)))
    assert often[0] == pytest.approx(once[0], abs=0.01)
    assert often[2] - often[1] == pytest.approx(once[2] - once[1], rel=0.05)


def test_few_images_say_nothing() -> None:
    text, image = embedded(29, 0.0)
    assert true_pair_auroc(text, image) is None
    assert true_pair_auroc(*(np.repeat(v, 9, axis=0) for v in (text, image))) is None
    assert true_pair_auroc(np.empty((0, 0)), np.empty((0, 0))) is None
    # captions that are all the same say nothing either
    assert true_pair_auroc(np.repeat(text[:1], 60, axis=0), embedded(60, 0.0)[1]) is None
    assert not is_refused(None)
    check_judge(None, METHOD, "some")


def test_guessing_is_refused_and_a_good_judge_is_not() -> None:
    for seed in range(40):
        assert is_refused(true_pair_auroc(*embedded(64, 0.0, seed=seed)))
        # AUROC 0.84
        assert not is_refused(true_pair_auroc(*embedded(64, 0.3, seed=seed)))


def test_what_is_said() -> None:
    guess, weak, good = (
        Estimate(512, 400, value, value - 0.02, value + 0.02) for value in (0.53, 0.8, 0.97)
    )
    for sound in (weak, good):
        check_judge(sound, METHOD, "towers")
    tells = "judge: distinguishes true from shuffled pairs in {} of comparisons (95% confidence {} to {})"
    assert judge_note(good) == tells.format("97.0%", "95.0%", "99.0%")
    assert judge_note(weak).endswith(": a weak judge, which misses much of the poison")
    assert judge_note(guess).endswith("so its verdicts say nothing about the pairs")


def test_openmoji_is_known_to_its_model() -> None:
    scenes = load_dataset("openmoji", options={"unlabelled": 60, "per_class": 4, "held_out": 2})
    encoder = load_encoder("openmoji-mini")
    knows = filter_pairs(scenes, encoder, clean_loss=0.01)
    assert knows.judge is not None
    assert knows.judge.value > 0.97
    assert knows.facts()["judge_auroc"] == knows.judge.to_json()
    # a method that compares no caption with an image takes any judge
    assert filter_pairs(scenes, encoder, "local-density", k=3).judge is None
