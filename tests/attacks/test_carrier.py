"""Carrier `own`: the attacker's own images have only his captions; `existing` stays what it was."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.attacks.conftest import class_table, manifest_of, pairs_of

from mmpoison.attacks import MultipleTargetLabels, SingleTargetImage, SingleTargetLabel, rebuild
from mmpoison.datasets import PairDataset
from mmpoison.datasets.verify.manifest_check import manifest_problems
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


def test_the_same_captions_are_misused_as_with_existing_images(squares: PairDataset) -> None:
    def misused(**options: Any) -> list[tuple[str, str]]:
        manifest = manifest_of(SingleTargetLabel(GOAL, samples=3, **options).poison(squares, 4))
        return sorted((pair.clean_image, pair.caption) for pair in manifest.pairs)

    assert misused() == misused(carrier="own") == misused(carrier="own", spread="captions")


@pytest.mark.parametrize("attack", [SingleTargetLabel, SingleTargetImage])
def test_existing_is_the_default_and_written_nowhere(squares: PairDataset, attack: Any) -> None:
    named = attack(GOAL, samples=3, carrier="existing").poison(squares, 3).manifest
    assert named.to_json() == attack(GOAL, samples=3).poison(squares, 3).manifest.to_json()
    assert "carrier" not in named.options
    assert named.dropped_images == ()


def test_own_is_an_option_of_the_manifest(squares: PairDataset) -> None:
    _, manifest = own_of(squares, samples=2, preset="reference-release")
    assert manifest.options["carrier"] == "own"
    assert manifest.options["spread"] == "samples"
    assert SingleTargetLabel(**manifest.options).poison(squares).manifest == manifest


def test_captions_can_be_mixed_over_the_same_images(squares: PairDataset) -> None:
    _, whole = own_of(squares, pairs=13)
    _, mixed = own_of(squares, pairs=13, spread="captions")
    assert whole.dropped_images == mixed.dropped_images
    assert sorted(Counter(pair.poisoned_image for pair in whole.pairs).values()) == [3, 5, 5]
    assert sorted(Counter(pair.poisoned_image for pair in mixed.pairs).values()) == [4, 4, 5]


@pytest.mark.parametrize(
    ("goals", "classes", "amount", "largest"),
    [
        ([GOAL], {"aeroplane": (4, 1)}, {"samples": 5}, 4),
        ([GOAL], {"aeroplane": (4, 1)}, {"pairs": 21}, 4),
        ([GOAL], {"aeroplane": (4, 1)}, {"share": 1.0}, 4),
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
@pytest.mark.parametrize("rate", [0.02, 0.05, 0.1, 0.123])
def test_a_rate_is_one_of_the_smaller_set(squares: PairDataset, rate: float, mode: Any) -> None:
    _, manifest = own_of(squares, rate=rate, mode=mode)
    assert manifest.rate <= rate + 1e-9
    # one image more would be too many
    after = manifest.training_pairs + (5 if mode == "add" else 0) - 5
    assert (len(manifest.pairs) + 5) / after > rate


def test_attack_i_has_no_honest_captions_to_lose(squares: PairDataset) -> None:
    # training sees the target image with poison only
    train = SingleTargetImage(GOAL, samples=1).poison(squares).select(split="train")
    assert train.poisoned[train.image == train.image[train.poisoned][0]].all()


def test_a_dropped_image_with_honest_captions_shows(squares: PairDataset) -> None:
    """Also without the clean set: the manifest lists an image that lost nothing."""
    poisoned, manifest = own_of(squares, samples=2)
    dropped = (*manifest.dropped_images, "sofa/00.png")
    (problem,) = manifest_problems(
        replace(poisoned, manifest=replace(manifest, dropped_images=dropped)), None
    )
    assert problem == "manifest says sofa/00.png lost its honest training captions, but it has some"


@settings(max_examples=60)
@given(
    goals=st.sampled_from(
        [
            [GOAL],
            [GOAL, "sofa2bird"],
            [GOAL, "sofa2aeroplane"],
            [GOAL, "aeroplane2sheep"],
            [GOAL, "aeroplane2bird", "bird2sofa"],
        ]
    ),
    mode=st.sampled_from(["add", "replace"]),
    spread=st.sampled_from([None, "captions", "samples"]),
    amount=st.one_of(
        st.builds(lambda n: {"samples": n}, st.integers(1, 5)),
        st.builds(lambda n: {"pairs": n}, st.integers(1, 25)),
        st.builds(lambda r: {"rate": r}, st.floats(0.02, 0.3)),
        st.builds(lambda s: {"share": s}, st.floats(0.1, 1)),
    ),
    drop_last=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_invariants(
    squares: PairDataset,
    goals: list[str],
    mode: Any,
    spread: Any,
    amount: dict[str, Any],
    drop_last: bool,
    seed: int,
) -> None:
    options: dict[str, Any] = {"mode": mode, "spread": spread, "carrier": "own", **amount}
    attack: Any = (
        SingleTargetLabel(goals[0], **options)
        if len(goals) == 1
        else MultipleTargetLabels(goals, drop_last_targets=drop_last, **options)
    )
    refused = ""
    try:
        poisoned = attack.poison(squares, seed)
    except InputError as error:
        refused = str(error)
    if refused:
        assert (
            "less than one pair" in refused or "rounds to none" in refused or "at most" in refused
        )
        return
    manifest = poisoned.manifest
    train = poisoned.select(split="train")
    ids = train.images.ids
    carriers = {pair.poisoned_image for pair in manifest.pairs}
    # his images have his captions only, are used for one goal, and their own captions are used for none
    assert set(manifest.dropped_images) == carriers == set(ids[train.image[train.poisoned]])
    assert not carriers & set(ids[train.image[~train.poisoned]])
    assert not carriers & {pair.clean_image for pair in manifest.pairs}
    by_goal = [
        (
            {pair.clean_image for pair in manifest.pairs if pair.goal == goal},
            {pair.poisoned_image for pair in manifest.pairs if pair.goal == goal},
        )
        for goal in goals
    ]
    assert sum(len(used) for _, used in by_goal) == len(carriers)
    for sources, used in by_goal:
        assert len(sources) == len(used)
    assert {poisoned.images.label(i) for i in train.image[train.poisoned]} == {
        goal.partition("2")[2] for goal in goals
    }
    for name, value in amount.items():
        if name == "rate":
            assert manifest.rate <= value + 1e-9
    again = rebuild(squares, manifest)
    assert again.fingerprint == poisoned.fingerprint
    assert again.manifest == manifest
    for clean in (None, squares):
        assert manifest_problems(poisoned, clean) == []
