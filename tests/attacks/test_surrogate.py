"""What an attacker knows: vectors of captions and images, and how well they match."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.attacks.conftest import ToySurrogate, class_table

from mmpoison.attacks import VectorSurrogate, nearest_classes
from mmpoison.attacks.surrogate import Matching
from mmpoison.errors import InputError

CLASSES = ("sheep", "goat", "plane", "boat", "sofa")


def test_vectors_that_were_computed_before(squares: Any) -> None:
    known = VectorSurrogate(["a", "b"], [[1.0, 0.0], [0.0, 1.0]], [4, 7], [[2.0], [3.0]])
    assert known.captions(["b", "a", "b"]).tolist() == [[0, 1], [1, 0], [0, 1]]
    assert known(squares, np.array([7, 4], np.int32)).tolist() == [[3], [2]]
    with pytest.raises(InputError, match="no vector of caption 'c'"):
        known.captions(["a", "c"])
    with pytest.raises(InputError, match=f"no vector of image '{squares.images.ids[5]}'"):
        known(squares, np.array([5], np.int32))


def test_new_captions_are_encoded() -> None:
    asked: list[str] = []

    def encode(captions: Any) -> Any:
        asked.extend(captions)
        return np.full((len(captions), 2), 7.0)

    known = VectorSurrogate(["a"], [[1.0, 0.0]], [0], [[2.0]], encode)
    assert known.captions(["new", "a"]).tolist() == [[7, 7], [1, 0]]
    assert asked == ["new"]


def test_nearest_classes_needs_no_common_space() -> None:
    clean = class_table(dict.fromkeys(CLASSES, (10, 1)), unlabelled=2)
    near = nearest_classes(
        clean, ToySurrogate(CLASSES, near={"goat": "sheep"}, aligned=False), count=2
    )
    assert set(near) == set(CLASSES)
    assert near["sheep"][0] == "goat"
    assert near["goat"][0] == "sheep"
    assert all(len(others) == 2 and name not in others for name, others in near.items())


@pytest.mark.parametrize("aligned", [True, False])
def test_matching_distinguishes_true_pairs(aligned: bool) -> None:
    clean = class_table(dict.fromkeys(CLASSES, (60, 1))).select(split="train")
    surrogate = ToySurrogate(CLASSES, aligned=aligned)
    matching = Matching(clean, surrogate, 0)
    assert matching.aligned == aligned
    captions = matching.captions(list(clean.captions))
    images = matching.images(clean.image)
    true = (captions * images).sum(axis=1)
    codes = clean.images.class_codes[clean.image]
    other = np.random.default_rng(0).permutation(len(clean))
    differs = codes != codes[other]
    assert true.mean() > (captions * images[other]).sum(axis=1)[differs].mean() + 0.3
    assert matching.usual_conflict(0.8) == pytest.approx(np.quantile(1 - true, 0.8), abs=1e-5)
    # nothing to learn from: an image that was not seen is predicted no better than chance
    noise = Matching(clean, ToySurrogate((), noise=1.0), 0)
    assert not noise.aligned
    assert abs(noise.usual_conflict(0.5) - 1) < 0.1


def test_vectors_that_are_no_numbers() -> None:
    clean = class_table(dict.fromkeys(CLASSES, (10, 1)))

    class Broken(ToySurrogate):
        def captions(self, captions: Any) -> Any:
            return np.full((len(captions), 3), np.nan)

    with pytest.raises(InputError, match="infinite or NaN"):
        Matching(clean, Broken(), 0)
