"""Carrier `own`: the attacker's own images have only his captions; `existing` stays what it was."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

import pytest
from tests.attacks.conftest import class_table, pairs_of

from mmpoison.attacks import MultipleTargetLabels, SingleTargetLabel
from mmpoison.datasets import PairDataset
from mmpoison.datasets.verify import manifest_problems
from mmpoison.errors import InputError
from mmpoison.pairs.manifest import PoisonManifest

GOAL = "sheep2aeroplane"


def own_of(clean: PairDataset, **options: Any) -> tuple[PairDataset, PoisonManifest]:
    poisoned = SingleTargetLabel(GOAL, carrier="own", **options).poison(clean)
    assert poisoned.manifest is not None
    return poisoned, poisoned.manifest


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_each_carrier_has_the_captions_of_one_image_and_nothing_else(
    squares: PairDataset, mode: Any
) -> None:
    poisoned, manifest = own_of(squares, samples=3, mode=mode)
    captions: dict[str, set[str]] = defaultdict(set)
    sources: dict[str, set[str]] = defaultdict(set)
    for pair in manifest.pairs:
        captions[pair.poisoned_image].add(pair.caption)
        sources[pair.poisoned_image].add(pair.clean_image)
    honest = pairs_of(squares, split="train", label="sheep")
    assert len(sources) == len(set.union(*sources.values())) == 3
    for image, (source,) in sources.items():
        assert captions[image] == {caption for of, caption in honest if of == source}
    assert manifest.dropped_images == tuple(sorted(sources))
    # the clean set without the carriers' honest pairs, and in `replace` without the misused ones
    left = pairs_of(squares, split="train")
    gone = {key for key in left if key[0] in sources}
    if mode == "replace":
        gone |= {(pair.clean_image, pair.caption) for pair in manifest.pairs}
    expected = Counter({key: count for key, count in left.items() if key not in gone})
    assert pairs_of(poisoned, split="train", poisoned=False) == expected
    assert pairs_of(poisoned, split="test") == pairs_of(squares, split="test")


@pytest.mark.parametrize(
    ("goals", "classes", "amount", "largest"),
    [
        ([GOAL], {"aeroplane": (4, 1)}, {"samples": 5}, 4),
        ([GOAL], {"aeroplane": (4, 1)}, {"rate": 0.4}, 4),
        ([GOAL, "sofa2aeroplane"], {"sofa": (8, 1), "aeroplane": (7, 1)}, {"samples": 4}, 3),
        ([GOAL, "sofa2sheep"], {"sofa": (8, 1), "aeroplane": (8, 1)}, {"samples": 5}, 4),
    ],
)
def test_too_few_images_says_how_many_can_be_used(
    goals: list[str], classes: Any, amount: Any, largest: int
) -> None:
    pairs = class_table({"sheep": (8, 1), **classes})

    def poison(**amount: Any) -> PairDataset:
        if len(goals) == 1:
            return SingleTargetLabel(goals[0], carrier="own", **amount).poison(pairs)
        return MultipleTargetLabels(goals, carrier="own", **amount).poison(pairs)

    with pytest.raises(
        InputError, match=rf"carrier 'own' needs .*at most samples={largest}$"
    ) as error:
        poison(**amount)
    assert len(str(error.value).splitlines()) == 1
    assert poison(samples=largest).poisoned.sum() == 5 * largest * len(goals)
    with pytest.raises(InputError):
        poison(samples=largest + 1)


@pytest.mark.parametrize("mode", ["add", "replace"])
@pytest.mark.parametrize("rate", [0.05, 0.123])
def test_a_rate_is_one_of_the_smaller_set(squares: PairDataset, rate: float, mode: Any) -> None:
    _, manifest = own_of(squares, rate=rate, mode=mode)
    assert manifest.rate <= rate + 1e-9
    # one image more would be too many
    after = manifest.training_pairs + (5 if mode == "add" else 0) - 5
    assert (len(manifest.pairs) + 5) / after > rate


def test_a_dropped_image_with_honest_captions_shows(squares: PairDataset) -> None:
    """Also without the clean set: the manifest lists an image that lost nothing."""
    poisoned, manifest = own_of(squares, samples=2)
    dropped = (*manifest.dropped_images, "sofa/00.png")
    (problem,) = manifest_problems(
        replace(poisoned, manifest=replace(manifest, dropped_images=dropped)), None
    )
    assert problem == "manifest says sofa/00.png lost its honest training captions, but it has some"
