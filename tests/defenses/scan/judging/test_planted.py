"""Goals planted as a test: what a scan of the data would have seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.defenses.scan.groups.conftest import Made, made

from mmpoison.defenses.scan.groups import planted
from mmpoison.defenses.scan.groups.planted import PlantedSize, plant_goals


def test_large_goals_are_seen_in_clear_data_and_none_where_captions_say_nothing() -> None:
    clear = made(0, images=2000, poison=0)
    found = plant_goals(clear.reduced(), 0.1, sizes=(2, 40), goals=2)
    assert [size.images for size in found] == [2, 40]
    assert found[0].found == 0
    assert found[1].planted == 2
    assert found[1].found >= 1
    unrelated = Made(
        clear.text, np.random.default_rng(0).permutation(clear.image), clear.image_of, clear.bad
    )
    assert plant_goals(unrelated.reduced(), 0.1, sizes=(40,), goals=2) == [PlantedSize(40, 2, 0)]


def test_the_data_stay_as_they_are_and_the_seed_decides() -> None:
    pairs = made(1, captions=3, images=600, poison=0).reduced()
    before = pairs.text.copy(), pairs.image_at.copy()
    steps: list[tuple[int, int]] = []
    options = {"sizes": (8, 500), "goals": 2, "seed": 3}
    first = plant_goals(pairs, 0.1, progress=lambda *at: steps.append(at), **options)  # type: ignore[arg-type]
    assert first == plant_goals(pairs, 0.1, **options)  # type: ignore[arg-type]
    # no kind has 500 images
    assert [size.images for size in first] == [8]
    assert steps[-1] == (4, 4)
    np.testing.assert_array_equal(pairs.text, before[0])
    np.testing.assert_array_equal(pairs.image_at, before[1])


def test_goals_are_between_the_kinds_that_labels_say(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = made(2, images=600, poison=0).reduced()
    labels = np.arange(600) % 3
    labels[:100] = -1
    drawn: list[Any] = []
    original = planted._draw

    def draw(*args: Any) -> Any:
        drawn.append(original(*args))
        return drawn[-1]

    monkeypatch.setattr(planted, "_draw", draw)
    plant_goals(pairs, 0.1, labels, sizes=(10,), goals=4)
    for kind, images in drawn:
        assert kind in (0, 1, 2)
        (target,) = set(labels[images].tolist())
        assert target not in (kind, -1)


@pytest.mark.parametrize("own", [False, True])
def test_own_images_lose_their_captions_and_existing_ones_keep_them(own: bool) -> None:
    pairs = made(3, captions=3, images=200, poison=0).reduced()
    images, kind = np.array([4, 9, 30]), np.arange(200) % 2
    rng = np.random.default_rng(0)
    poisoned, bad = planted._poisoned(pairs, kind, 1, images, 3, rng, own=own)
    assert bad.sum() == 9
    assert sorted(poisoned.image_at[bad].tolist()) == sorted(np.repeat(images, 3).tolist())
    honest = np.isin(poisoned.image_at[~bad], images).sum()
    assert honest == (0 if own else 9)


def test_of_too_few_pairs_nothing_is_said() -> None:
    assert plant_goals(made(4, images=30, poison=0).reduced(), 0.1) == []
