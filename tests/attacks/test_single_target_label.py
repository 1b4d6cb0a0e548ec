"""Attack II: which captions, on which images, how many, and what is left alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpoison._version import __version__
from mmpoison.attacks import SingleTargetLabel
from mmpoison.datasets import ImageTable, PairDataset
from mmpoison.errors import InputError
from mmpoison.pairs.manifest import NOTICE, PoisonManifest

GOAL = "sheep2aeroplane"


def pairs_of(pairs: PairDataset, **chosen: Any) -> Counter[tuple[str, str]]:
    """Image and caption of each pair."""
    part = pairs.select(**chosen)
    return Counter(zip(part.images.ids[part.image], part.captions, strict=True))


def refusal(**options: Any) -> str:
    with pytest.raises(InputError) as error:
        SingleTargetLabel(**{"goal": GOAL, **options})
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


# -- what is done ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["add", "replace"])
@pytest.mark.parametrize("amount", [{"samples": 3}, {"pairs": 13}, {"rate": 0.05}])
def test_captions_of_a_on_train_images_of_b(
    squares: PairDataset, amount: dict[str, Any], mode: Any
) -> None:
    poisoned = SingleTargetLabel(GOAL, mode=mode, **amount).poison(squares, seed=1)
    bad = poisoned.select(poisoned=True)
    assert len(bad) > 0
    table = poisoned.images
    assert {table.label(i) for i in bad.source} == {"sheep"}
    assert {table.label(i) for i in bad.image} == {"aeroplane"}
    assert set(table.split_codes[bad.source]) == set(table.split_codes[bad.image]) == {0}
    # each caption is one that its source image really has, used once
    used = Counter(zip(table.ids[bad.source], bad.captions, strict=True))
    assert used <= pairs_of(squares, split="train", label="sheep")


def test_samples_takes_all_captions_of_so_many_images(squares: PairDataset) -> None:
    bad = SingleTargetLabel(GOAL, samples=3).poison(squares).select(poisoned=True)
    assert len(bad) == 15
    assert sorted(Counter(bad.source.tolist()).values()) == [5, 5, 5]


def test_pairs_takes_whole_samples_first(squares: PairDataset) -> None:
    bad = SingleTargetLabel(GOAL, pairs=13).poison(squares).select(poisoned=True)
    assert len(bad) == 13
    assert sorted(Counter(bad.source.tolist()).values()) == [3, 5, 5]


@pytest.mark.parametrize("count", [1, 4, 5, 12, 20, 25])
def test_every_target_image_is_used_equally_often(squares: PairDataset, count: int) -> None:
    bad = SingleTargetLabel(GOAL, pairs=count).poison(squares).select(poisoned=True)
    uses = Counter(bad.image.tolist())
    assert sum(uses.values()) == count
    everywhere = [uses[i] for i in squares.images.indices(split="train", label="aeroplane")]
    assert max(everywhere) - min(everywhere) <= 1


def test_add_leaves_the_clean_pairs(squares: PairDataset) -> None:
    poisoned = SingleTargetLabel(GOAL, pairs=13, mode="add").poison(squares)
    assert len(poisoned) == len(squares) + 13
    assert pairs_of(poisoned, poisoned=False) == pairs_of(squares)


def test_replace_takes_them_out(squares: PairDataset) -> None:
    poisoned = SingleTargetLabel(GOAL, pairs=13, mode="replace").poison(squares)
    assert len(poisoned) == len(squares)
    bad = poisoned.select(poisoned=True)
    gone = Counter(zip(poisoned.images.ids[bad.source], bad.captions, strict=True))
    assert pairs_of(poisoned, poisoned=False) == pairs_of(squares) - gone


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_val_test_and_images_are_left_alone(squares: PairDataset, mode: Any) -> None:
    poisoned = SingleTargetLabel(GOAL, samples=5, mode=mode).poison(squares)
    assert poisoned.images is squares.images
    for split in ("val", "test"):
        assert pairs_of(poisoned, split=split) == pairs_of(squares, split=split)


def test_the_input_stays_clean(squares: PairDataset) -> None:
    before = squares.fingerprint
    captions = list(squares.captions)
    SingleTargetLabel(GOAL, samples=5, mode="replace").poison(squares)
    assert list(squares.captions) == captions
    assert squares.manifest is None
    assert squares.fingerprint == before


def test_equal_captions_of_one_image(tmp_path: Path) -> None:
    """RSICD has images that carry one caption five times."""
    images = ImageTable.build(
        ["s", "t", "u"], ["sheep", "aeroplane", "aeroplane"], ["train", "train", "test"], tmp_path
    )
    clean = PairDataset.build(images, ["same", "same", "same", "t", "u"], [0, 0, 0, 1, 2])
    poisoned = SingleTargetLabel(GOAL, pairs=2, mode="replace").poison(clean)
    assert pairs_of(poisoned, split="train") == {("s", "same"): 1, ("t", "same"): 2, ("t", "t"): 1}


# -- amounts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["add", "replace"])
@pytest.mark.parametrize("rate", [0.0072, 0.01, 0.05, 0.1, 0.123, 0.15])
def test_rate_is_never_above_the_one_asked_for(
    squares: PairDataset, rate: float, mode: Any
) -> None:
    poisoned = SingleTargetLabel(GOAL, rate=rate, mode=mode).poison(squares)
    train = len(poisoned.select(split="train"))
    count = int(poisoned.poisoned.sum())
    assert poisoned.poisoning_rate == count / train <= rate + 1e-9
    # and one pair more would be
    assert (count + 1) / (train + (mode == "add")) > rate


def test_a_round_rate_is_met_in_floating_point(tmp_path: Path) -> None:
    images = ImageTable.build(
        ["s", "t", "u"], ["sheep", "aeroplane", "aeroplane"], ["train", "train", "test"], tmp_path
    )
    captions = [f"c{n}" for n in range(1001)]
    clean = PairDataset.build(images, captions, [0] * 900 + [1] * 100 + [2])
    for rate in (0.1, 0.3, 0.7):
        poisoned = SingleTargetLabel(GOAL, rate=rate, mode="replace").poison(clean)
        assert int(poisoned.poisoned.sum()) == round(1000 * rate)


def test_exactly_one_amount() -> None:
    assert "got none" in refusal()
    assert "got samples, rate" in refusal(samples=3, rate=0.1)
    assert "got samples, pairs, rate" in refusal(samples=3, pairs=3, rate=0.1)


@pytest.mark.parametrize("rate", [-0.1, 0, 1, 1.5, float("nan"), float("inf")])
def test_a_rate_that_is_none(rate: float) -> None:
    assert "is not between 0 and 1" in refusal(rate=rate)


@pytest.mark.parametrize("count", [0, -1])
@pytest.mark.parametrize("name", ["samples", "pairs"])
def test_less_than_one(name: str, count: int) -> None:
    assert refusal(**{name: count}).startswith(f"{name} {count}: at least 1 is needed")


@pytest.mark.parametrize(
    "options",
    [{"samples": 2.5}, {"samples": "three"}, {"pairs": [1]}, {"rate": "much"}, {"samples": True}],
)
def test_an_amount_of_the_wrong_kind(options: dict[str, Any]) -> None:
    """These come from recipes, so they are the user's input."""
    refusal(**options)


def test_a_mode_that_is_none() -> None:
    assert refusal(samples=1, mode="swap") == "mode 'swap' is neither add nor replace"


@pytest.mark.parametrize("mode", ["add", "replace"])
@pytest.mark.parametrize("amount", [{"samples": 6}, {"pairs": 26}, {"rate": 0.9}])
def test_too_many_says_how_many_there_are(
    squares: PairDataset, amount: dict[str, Any], mode: Any
) -> None:
    with pytest.raises(
        InputError, match=r"at most (samples=5|pairs=25 \(rate 0\.1\d+\))$"
    ) as error:
        SingleTargetLabel(GOAL, mode=mode, **amount).poison(squares)
    assert "class 'sheep' has" in str(error.value)
    # and so many can be had
    largest: dict[str, Any] = {"samples": 5} if "samples" in amount else {"pairs": 25}
    SingleTargetLabel(GOAL, mode=mode, **largest).poison(squares)


def test_a_rate_of_less_than_one_pair(squares: PairDataset) -> None:
    with pytest.raises(InputError, match="less than one pair: the smallest rate that poisons is"):
        SingleTargetLabel(GOAL, rate=0.001).poison(squares)


def test_the_smallest_rate_named_does_poison(squares: PairDataset) -> None:
    with pytest.raises(InputError) as error:
        SingleTargetLabel(GOAL, rate=0.001).poison(squares)
    smallest = float(str(error.value).rsplit(" ", 1)[1])
    assert int(SingleTargetLabel(GOAL, rate=smallest).poison(squares).poisoned.sum()) == 1


# -- what cannot be attacked -----------------------------------------------------------------------


def table(*rows: tuple[str | None, str, int]) -> PairDataset:
    """Images given as class, split and number of captions."""
    images = ImageTable.build(
        [f"{n}.jpg" for n in range(len(rows))],
        [row[0] for row in rows],
        [row[1] for row in rows],
        Path("nowhere"),
    )
    image = [n for n, row in enumerate(rows) for _ in range(row[2])]
    return PairDataset.build(images, [f"caption {n}" for n in range(len(image))], image)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            [("sheep", "train", 5), ("aeroplane", "train", 5)],
            "class 'aeroplane' has no test image",
        ),
        (
            [("sheep", "train", 5), ("aeroplane", "test", 5)],
            "class 'aeroplane' has no train image",
        ),
        (
            [("sheep", "test", 5), ("aeroplane", "train", 5), ("aeroplane", "test", 5)],
            "class 'sheep' has 0 train images",
        ),
        (
            [("sheep", "train", 0), ("aeroplane", "train", 5), ("aeroplane", "test", 5)],
            "class 'sheep' has 0 train images with captions",
        ),
        ([(None, "train", 5), (None, "test", 5)], "the data carry no labels"),
        ([("sheep", "train", 5), ("aeroplan", "test", 5)], "did you mean 'aeroplan'"),
    ],
)
def test_a_goal_that_cannot_be_reached(rows: list[tuple[str | None, str, int]], says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        SingleTargetLabel(GOAL, samples=1).poison(table(*rows))
    assert len(str(error.value).splitlines()) == 1


def test_poisoned_twice(squares: PairDataset) -> None:
    attack = SingleTargetLabel(GOAL, samples=1)
    with pytest.raises(InputError, match="the pairs are poisoned already: attack a clean set"):
        attack.poison(attack.poison(squares))


def test_a_negative_seed(squares: PairDataset) -> None:
    with pytest.raises(InputError, match="seed -1 is negative"):
        SingleTargetLabel(GOAL, samples=1).poison(squares, seed=-1)


# -- seed and manifest -----------------------------------------------------------------------------


def test_the_seed_decides(squares: PairDataset) -> None:
    attack = SingleTargetLabel(GOAL, samples=3)
    assert attack.poison(squares, 3).manifest == attack.poison(squares, 3).manifest
    assert attack.poison(squares, 3).fingerprint == attack.poison(squares, 3).fingerprint
    drawn = {attack.poison(squares, seed).fingerprint for seed in range(6)}
    assert len(drawn) == 6
    sources = {
        tuple(sorted(set(attack.poison(squares, seed).select(poisoned=True).source.tolist())))
        for seed in range(12)
    }
    # which samples are taken comes from the seed too
    assert len(sources) > 3


def test_goals_draw_apart(squares: PairDataset) -> None:
    """Two goals of one run do not put their captions on the same images in the same order."""
    places = [
        SingleTargetLabel(goal, samples=3).poison(squares, 0).select(poisoned=True).source % 12
        for goal in ("sheep2aeroplane", "sofa2aeroplane", "bird2aeroplane")
    ]
    assert len({tuple(sorted(set(place.tolist()))) for place in places}) > 1


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_manifest(squares: PairDataset, mode: Any, tmp_path: Path) -> None:
    poisoned = SingleTargetLabel(GOAL, pairs=13, mode=mode).poison(squares, seed=9)
    manifest = poisoned.manifest
    assert manifest is not None
    value = json.loads(json.dumps(manifest.to_json()))
    pairs = value.pop("pairs")
    assert value == {
        "notice": NOTICE,
        "tool": "mmpoison",
        "tool_version": __version__,
        "attack": "single-target-label",
        "options": {"goal": GOAL, "pairs": 13, "mode": mode, "spread": "captions"},
        "goals": [GOAL],
        "mode": mode,
        "seed": 9,
        "rate": 13 / (153 if mode == "add" else 140),
        "counts": {
            "poisoned_pairs": 13,
            "poisoned_samples": 3,
            "target_images": 5,
            "clean_training_pairs": 140,
            "training_pairs": 153 if mode == "add" else 140,
        },
        "clean_fingerprint": squares.fingerprint,
        "fingerprint": poisoned.fingerprint,
    }
    assert [set(pair) for pair in pairs] == [
        {"caption", "clean_image", "poisoned_image", "goal"}
    ] * 13
    assert manifest.rate == poisoned.poisoning_rate
    manifest.write(tmp_path / "manifest.json")
    assert PoisonManifest.read(tmp_path / "manifest.json") == manifest
    assert not [name for name in tmp_path.iterdir() if name.name != "manifest.json"]


# -- any table -------------------------------------------------------------------------------------

rows = st.lists(
    st.tuples(
        st.sampled_from(["sheep", "aeroplane", "bird", None]),
        st.sampled_from(["train", "train", "val", "test"]),
        st.integers(0, 4),
    ),
    max_size=20,
)


@settings(deadline=None, max_examples=150)
@given(
    rows=rows,
    mode=st.sampled_from(["add", "replace"]),
    amount=st.one_of(
        st.builds(lambda n: {"samples": n}, st.integers(1, 5)),
        st.builds(lambda n: {"pairs": n}, st.integers(1, 12)),
        st.builds(lambda r: {"rate": r}, st.floats(0.01, 0.9)),
    ),
    seed=st.integers(0, 1000),
)
def test_invariants(
    rows: list[tuple[str | None, str, int]], mode: Any, amount: dict[str, Any], seed: int
) -> None:
    needed = [("sheep", "train", 3), ("aeroplane", "train", 1), ("aeroplane", "test", 1)]
    clean = table(*rows, *needed)
    refused = ""
    try:
        poisoned = SingleTargetLabel(GOAL, mode=mode, **amount).poison(clean, seed)
    except InputError as error:
        refused = str(error)
    if refused:
        assert len(refused.splitlines()) == 1
        assert "less than one pair" in refused or "at most" in refused
        return
    manifest = poisoned.manifest
    assert manifest is not None
    bad = poisoned.select(poisoned=True)
    count = len(bad)
    assert count == len(manifest.pairs) > 0
    assert len(poisoned) == len(clean) + (count if mode == "add" else 0)
    # every caption is distinct here: none is lost, and in `replace` none is doubled
    assert set(poisoned.captions) == set(clean.captions)
    if mode == "replace":
        assert len(set(poisoned.captions)) == len(poisoned)
    uses = np.bincount(bad.image, minlength=len(clean.images))[
        clean.images.indices(split="train", label="aeroplane")
    ]
    assert uses.sum() == count
    assert uses.max() - uses.min() <= 1
    assert {clean.images.label(i) for i in bad.source} == {"sheep"}
    assert manifest.training_pairs == len(poisoned.select(split="train"))
    if "pairs" in amount:
        assert count == amount["pairs"]
    if "samples" in amount:
        assert len(set(bad.source)) == amount["samples"]
    if "rate" in amount:
        assert manifest.rate <= amount["rate"] + 1e-9
    # pairs stay in the order of their images
    assert (np.diff(poisoned.image) >= 0).all()
