"""Goals planted as a test: what a scan of the data would have found."""

from __future__ import annotations

import numpy as np
import pytest

from mmpoison.defenses.filters.suspicious_groups import Views, plant_goals
from mmpoison.defenses.filters.suspicious_groups._scan import PlantedSize


def views(topics: int, pairs: int = 2000, *, joined: bool = True, seed: int = 0) -> Views:
    """Captions and images of a few topics; not `joined`, an image has nothing to do with its caption."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(2, topics, 32))
    topic = rng.integers(0, topics, pairs)
    other = topic if joined else rng.permutation(topic)
    text, image = (
        side[which] + 0.4 * rng.normal(size=(pairs, 32))
        for side, which in zip(centres, (topic, other), strict=True)
    )
    own = np.arange(pairs)
    return Views.of(text, image, own, own)


def test_large_goals_are_found_in_clear_data_and_none_where_captions_say_nothing() -> None:
    clear = plant_goals(views(20, 3000), sizes=(3, 60), goals=3)
    assert [size.pairs for size in clear] == [3, 60]
    assert clear[1].planted == 3
    assert clear[1].found >= 2
    assert clear[0].found < 3
    unrelated = plant_goals(views(20, 3000, joined=False), sizes=(60,), goals=3)
    assert unrelated == [PlantedSize(60, 3, 0)]


def test_the_data_stay_as_they_are_and_the_seed_decides() -> None:
    data = views(10, 2000)
    before = data.caption_of.copy()
    steps: list[tuple[int, int]] = []
    first = plant_goals(
        data, sizes=(10, 40, 500), goals=2, seed=3, progress=lambda *at: steps.append(at)
    )
    assert first == plant_goals(data, sizes=(10, 40), goals=2, seed=3)
    assert np.array_equal(data.caption_of, before)
    assert steps == [(n, 4) for n in range(1, 5)]


@pytest.mark.parametrize("pairs", [60, 450])
def test_of_too_few_pairs_nothing_is_said(pairs: int) -> None:
    assert plant_goals(views(3, pairs)) == []
