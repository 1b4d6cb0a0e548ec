"""What attacks refuse, in one line: options when they are built, and data when they poison."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.attacks.conftest import PixelToy, ToySurrogate, class_table, table
from tests.conftest import refusal

from mmpoison.attacks import ATTACKS, SingleTargetLabel

GOAL = "sheep2aeroplane"
NAN = float("nan")

II = "single-target-label"

OUT_OF_RANGE: dict[str, dict[str, tuple[Any, ...]]] = {
    # of the wrong kind too: these come from recipes, so they are the user's input
    II: {
        "samples": (0, 2.5, True),
        "pairs": (0,),
        "rate": (0, 1),
        "share": (0, 1.01),
        "words": ([], ["sheep", 3]),
    },
    "single-target-image": {"target_image": (3, "")},
    "decoys": dict.fromkeys(("decoys", "decoy_samples"), (0,)),
    "under-the-grid": {"per_cell": (0, 1.5, True)},
    "nearest-assigned": {"unseen": (0, 1.1, True, "x")},
    "toxic-text": {"spread": ("samples",), "synonym_rate": (-0.1, 1.1, True, "x", NAN)},
    "patch-backdoor": {"place": ("left", 3), "drawn_from": ("sheep",), "mode": ("both",)},
    "blend-backdoor": {"noise": ("none",), "cell": (0, 225, "4")},
    "badclip": {
        "steps": (0, 1.5, True),
        "learning_rate": (0, 1.1, "x"),
        "triplet_weight": (-1, NAN),
        "margin": (-0.1, 2.1, True),
    },
    "feature-collision": {"epsilon": (0, 256, 1.5, True), "steps": (0, 1.5, True)},
}


def build(name: str, **options: Any) -> Any:
    """Build an attack with the goals that it takes, and an amount where none is given."""
    if name in ("multiple-target-labels", "under-the-grid"):
        options = {"goals": [GOAL, "sofa2bird"], **options}
    else:
        options = {"goal": GOAL, **options}
    amount = {"samples", "pairs", "rate", "share", "preset"} & options.keys()
    return ATTACKS[name](**(options if amount else {"samples": 1, **options}))


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        (name, option, value)
        for name, options in OUT_OF_RANGE.items()
        for option, values in options.items()
        for value in values
    ],
)
def test_a_value_out_of_range_is_named(name: str, option: str, value: Any) -> None:
    assert refusal(build, name, **{option: value}).startswith(f"{option} ")


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("self-vouched", {"samples": None}, "give exactly one of samples and share to set"),
        (
            "single-target-image",
            {"encoder": "x"},
            "encoder 'x' applies to target_image 'centre' only, not to 'random'",
        ),
        ("multiple-target-labels", {"goals": []}, "for one goal use single-target-label"),
        ("multiple-target-labels", {"goals": GOAL}, "for one goal use single-target-label"),
        ("both-names", {"encoder": "judge"}, "encoder 'judge' applies to connector 'nearest' only"),
        ("under-the-grid", {"goals": []}, "goals []: List should have at least 1 item"),
        ("toxic-text", {"carrier": "own"}, "has no effect with spread 'one-image'"),
    ],
)
def test_options_that_do_not_fit(name: str, options: dict[str, Any], says: str) -> None:
    assert says in refusal(build, name, **options)


# -- data ------------------------------------------------------------------------------------------

CLASSES = ("aeroplane", "bird", "sheep", "sofa")
SMALL = class_table({"sheep": (8, 1), "aeroplane": (3, 1), "bird": (3, 1), "sofa": (5, 1)})
SHARED = "class 'sheep' is the original class of several goals"
GALLERY = f"goal {GOAL}: target image "


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        (II, {"share": 0.05}, "rounds to none: give at least one image, share=0.125"),
        ("self-vouched", {"share": 0.01}, "rounds to none: give at least one image, share=0.3333"),
        ("nearest-assigned", {"samples": 4}, "at most samples=3"),
        ("nearest-goal", {"samples": 4, "carrier": "own"}, "at most samples=3"),
        ("patch-backdoor", {"samples": 12}, "all classes but 'sheep' have 11 train images"),
        (
            "blend-backdoor",
            {"pairs": 16, "drawn_from": "target"},
            "class 'aeroplane' has 15 train captions: give at most pairs=15",
        ),
        ("patch-backdoor", {"rate": 1e-6}, "give at least rate"),
        ("multiple-target-labels", {"goals": [GOAL, "sheep2bird"]}, SHARED),
        ("under-the-grid", {"goals": [GOAL, "sheep2bird"]}, SHARED),
        (II, {"words": ["ewe"]}, "no train caption of class 'sheep' has any of the words ewe"),
        *(
            ("single-target-image", {"target_image": image}, f"{GALLERY}{image!r} {says}")
            for image, says in {
                "aeroplane/0.jpg": "is not in the gallery, but in split 'train': class 'aeroplane'",
                "sheep/8.jpg": "is of class 'sheep', not 'aeroplane'",
                "aeroplan/3.jpg": "is not in the gallery: did you mean 'aeroplane/3.jpg'",
                "x": "is not in the gallery: class 'aeroplane' has 1 there, for example 'aeropla",
            }.items()
        ),
    ],
)
def test_data_that_do_not_suffice(name: str, options: dict[str, Any], says: str) -> None:
    assert says in refusal(build(name, **options).poison, SMALL, embed=ToySurrogate(CLASSES))


TARGETS = [("aeroplane", "train", 5), ("aeroplane", "test", 5)]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([("sheep", "train", 5), TARGETS[0]], "class 'aeroplane' has no test image"),
        ([("sheep", "train", 5), TARGETS[1]], "class 'aeroplane' has no train image"),
        ([("sheep", "test", 5), *TARGETS], "class 'sheep' has 0 train images"),
        ([("sheep", "train", 0), *TARGETS], "class 'sheep' has 0 train images with captions"),
        ([(None, "train", 5), (None, "test", 5)], "the data have no labels"),
        ([("sheep", "train", 5), ("aeroplan", "test", 5)], "did you mean 'aeroplan'"),
    ],
)
def test_a_goal_that_cannot_be_reached(rows: list[tuple[str | None, str, int]], says: str) -> None:
    assert says in refusal(build(II).poison, table(*rows))
    if "no test image" in says:
        assert says in refusal(build("single-target-image").poison, table(*rows))


def test_a_negative_seed() -> None:
    assert "seed -1 is not a whole number" in refusal(build(II).poison, SMALL, seed=-1)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("nearest-assigned", {}, "needs a surrogate that embeds"),
        ("nearest-goal", {"goal": "sheep2auto"}, "needs a surrogate that embeds"),
        ("both-names", {"connector": "nearest"}, "needs a surrogate that embeds"),
        ("single-target-image", {"target_image": "centre"}, "'centre' needs an encoder"),
        ("badclip", {}, "give a surrogate with an image encoder"),
        ("feature-collision", {}, "give a surrogate with an image encoder"),
    ],
)
def test_a_missing_surrogate(name: str, options: dict[str, Any], says: str) -> None:
    attack = build(name, **options)
    assert says in refusal(attack.poison, SMALL)
    if getattr(attack, "needs_pixels", False):
        # vectors alone are not enough
        assert says in refusal(attack.poison, SMALL, embed=ToySurrogate())
    else:
        assert attack.needs_embeddings


def test_a_class_without_an_image_to_resemble() -> None:
    none = class_table({"sheep": (0, 1), "aeroplane": (3, 1), "bird": (3, 1)})
    said = refusal(build("badclip").poison, none, embed=PixelToy())
    assert "class 'sheep' has no train image to resemble" in said


def test_a_number_of_numpy_is_a_number() -> None:
    attack = SingleTargetLabel("sheep2aeroplane", np.int64(5))  # type: ignore[arg-type]
    assert attack.options["samples"] == 5
    assert type(attack.options["samples"]) is int
    assert SingleTargetLabel("sheep2aeroplane", share=np.float64(0.5)).options["share"] == 0.5
