"""Attackers with a surrogate: what they estimate with it, and which pairs they choose."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linprog
from tests.attacks.conftest import ToySurrogate, class_table, manifest_of

from mmpoison.attacks import SingleTargetLabel, VectorSurrogate
from mmpoison.attacks.settings import Goal, Settings, original_of_auto
from mmpoison.base.seeding import generator
from mmpoison.datasets import ImageTable, PairDataset
from mmpoison.errors import InputError
from mmpoison_lab.attacks.adaptive import NearestAssigned, NearestGoal, assign, pair_greedily
from mmpoison_lab.attacks.candidates import draw_candidates
from mmpoison_lab.attacks.matching import Matching, nearest_classes

# -- What an attacker knows: vectors of captions and images, and how well they match.


FIVE = ("sheep", "goat", "plane", "boat", "sofa")


def test_vectors_that_were_computed_before(squares: Any) -> None:
    known = VectorSurrogate(["a", "b"], [[1.0, 0.0], [0.0, 1.0]], [4, 7], [[2.0], [3.0]])
    assert known.captions(["b", "a", "b"]).tolist() == [[0, 1], [1, 0], [0, 1]]
    assert known(squares, np.array([7, 4], np.int32)).tolist() == [[3], [2]]
    with pytest.raises(InputError, match="no vector for caption 'c'"):
        known.captions(["a", "c"])
    with pytest.raises(InputError, match=f"no vector for image '{squares.images.ids[5]}'"):
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
    clean = class_table(dict.fromkeys(FIVE, (10, 1)), unlabelled=2)
    near = nearest_classes(
        clean, ToySurrogate(FIVE, near={"goat": "sheep"}, aligned=False), count=2
    )
    assert set(near) == set(FIVE)
    assert near["sheep"][0] == "goat"
    assert near["goat"][0] == "sheep"
    assert all(len(others) == 2 and name not in others for name, others in near.items())


@pytest.mark.parametrize("aligned", [True, False])
def test_matching_distinguishes_true_pairs(aligned: bool) -> None:
    clean = class_table(dict.fromkeys(FIVE, (60, 1))).select(split="train")
    surrogate = ToySurrogate(FIVE, aligned=aligned)
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
    clean = class_table(dict.fromkeys(FIVE, (10, 1)))

    class Broken(ToySurrogate):
        def captions(self, captions: Any) -> Any:
            return np.full((len(captions), 3), np.nan)

    with pytest.raises(InputError, match="infinite or NaN"):
        Matching(clean, Broken(), 0)


# -- Nearest assignment: false pairs that look true to a surrogate.


CLASSES = ("sheep", "goat", "plane", "boat")
NEAR = {"goat": "sheep"}
SURROGATE = ToySurrogate(CLASSES, near=NEAR, noise=0.8)
UNALIGNED = ToySurrogate(CLASSES, near=NEAR, noise=0.8, aligned=False)


@pytest.fixture(scope="module")
def clean() -> PairDataset:
    return class_table(dict.fromkeys(CLASSES, (30, 2)), captions=3)


@pytest.mark.parametrize("carrier", ["own", "existing"])
@pytest.mark.parametrize("surrogate", [SURROGATE, UNALIGNED])
def test_pairs_look_truer_than_those_of_attack_ii(
    clean: PairDataset, surrogate: ToySurrogate, carrier: Any
) -> None:
    def conflict(poisoned: PairDataset) -> Any:
        bad = poisoned.select(poisoned=True)
        return 1 - (matching.captions(list(bad.captions)) * matching.images(bad.image)).sum(axis=1)

    matching = Matching(clean.select(split="train"), surrogate, 5)
    options: dict[str, Any] = {"samples": 6, "carrier": carrier}
    poisoned = NearestAssigned("sheep2goat", unseen=0.9, **options).poison(
        clean, 5, embed=surrogate
    )
    manifest = manifest_of(poisoned)
    second = SingleTargetLabel("sheep2goat", **options).poison(clean, 5)
    assert conflict(poisoned).mean() < conflict(second).mean() - 0.1
    assert conflict(poisoned).max() <= matching.usual_conflict(0.9) + 1e-6
    assert {pair.clean_image.split("/")[0] for pair in manifest.pairs} == {"sheep"}
    images = Counter(pair.poisoned_image for pair in manifest.pairs)
    assert {image.split("/")[0] for image in images} == {"goat"}
    assert max(images.values()) <= (3 if carrier == "own" else 1)
    assert len(manifest.pairs) <= 18
    assert set(manifest.dropped_images) == (set(images) if carrier == "own" else set())


def test_fewer_pairs_than_requested_are_noted(clean: PairDataset) -> None:
    def poison(unseen: float, goal: str = "sheep2goat") -> Any:
        return NearestAssigned(goal, samples=6, unseen=unseen).poison(clean, embed=SURROGATE)

    few = poison(0.12).manifest
    (note,) = few.notes
    assert 0 < len(few.pairs) < 18
    assert note.startswith(f"only {len(few.pairs)} of 18 requested pairs: ")
    assert few.to_json()["notes"] == [note]
    everything = poison(1).manifest
    assert len(everything.pairs) == 18
    assert "notes" not in everything.to_json()
    with pytest.raises(InputError, match=r"goal sheep2plane: with this surrogate"):
        poison(0.01, "sheep2plane")


@pytest.mark.parametrize("seed", range(5))
def test_assign_is_the_best_there_is(seed: int) -> None:
    """By the linear program of the same assignment."""
    rng = np.random.default_rng(seed)
    cosine = rng.uniform(-1, 1, (7, 4)).astype(np.float32)
    load, least = 2, 0.2
    caption, image = assign(cosine, load, least)
    assert (cosine[caption, image] >= least).all()
    assert len(set(caption.tolist())) == len(caption)
    assert max(Counter(image.tolist()).values(), default=0) <= load
    # a pair counts far more than its cosine
    worth = np.where(cosine >= least, 100 + cosine, 0).astype(float)
    rows = np.kron(np.eye(7), np.ones(4))
    columns = np.kron(np.ones(7), np.eye(4))
    best = linprog(-worth.ravel(), np.vstack([rows, columns]), np.r_[np.ones(7), np.full(4, load)])
    assert worth[caption, image].sum() == pytest.approx(-best.fun, abs=1e-4)


# -- Nearest goal: typical captions of A on typical images of a near class.


def unit_rows(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("aligned", [True, False])
def test_it_is_the_formula(clean: PairDataset, aligned: bool) -> None:
    """Against a plain version."""
    surrogate = ToySurrogate(CLASSES, near=NEAR, noise=0.8, aligned=aligned)
    manifest = manifest_of(
        NearestGoal("sheep2plane", pairs=20).poison(clean, seed=3, embed=surrogate)
    )
    train = clean.select(split="train")
    matching = Matching(train, surrogate, 3)
    # 20 captions are those of seven images, the last of which has two
    planes = clean.images.indices(split="train", label="plane")
    shown = matching.images(planes)
    mean = unit_rows(shown.mean(axis=0))
    near = sorted(range(len(planes)), key=lambda n: -float(shown[n] @ mean))[:7]
    images = {str(clean.images.ids[planes[n]]) for n in near}
    assert {pair.poisoned_image for pair in manifest.pairs} == images
    load = Counter(pair.poisoned_image for pair in manifest.pairs)
    assert sorted(load.values()) == [2, 3, 3, 3, 3, 3, 3]
    # the captions that he knows, drawn as the attack draws them
    goal, rng = Goal("sheep", "plane"), generator(3, "attack/nearest-goal/sheep2plane")
    rows = draw_candidates(clean, goal, Settings.of(None, pairs=20), rng).rows
    assert len(rows) == 24 * 3
    sheep = [str(c) for c in train.captions[rows]]
    text = matching.captions(sheep)
    mean = unit_rows(text.mean(axis=0))
    typical = sorted(range(len(sheep)), key=lambda n: -float(text[n] @ mean))[:20]
    assert {pair.caption for pair in manifest.pairs} == {sheep[n] for n in typical}
    # pairs are chosen one after the other: no free image was nearer
    vector = dict(zip(clean.images.ids[planes], shown, strict=True))
    left = {image: load[image] for image in images}
    text_of = dict(zip(sheep, text, strict=True))
    for place, pair in enumerate(manifest.pairs):
        best = max(
            float(text_of[later.caption] @ vector[image])
            for later in manifest.pairs[place:]
            for image, free in left.items()
            if free
        )
        own = float(text_of[pair.caption] @ vector[pair.poisoned_image])
        assert own == pytest.approx(best, abs=1e-5)
        left[pair.poisoned_image] -= 1


def slow_pairs(cosine: Any) -> list[tuple[int, int]]:
    """Take the largest cosine that is left, as long as the image may carry another caption."""
    captions, images = cosine.shape
    left, found = set(range(captions)), []
    carried = [0] * images
    while left:
        full = sum(c > captions // images for c in carried)
        places = [
            (caption, image)
            for caption in left
            for image in range(images)
            if carried[image] < captions // images
            or (carried[image] == captions // images and full < captions % images)
        ]
        caption, image = max(places, key=lambda place: (cosine[place], -place[0], -place[1]))
        left.remove(caption)
        carried[image] += 1
        found.append((caption, image))
    return found


@pytest.mark.parametrize(("captions", "images"), [(7, 3), (6, 3), (5, 1), (1, 1), (4, 6), (12, 5)])
@pytest.mark.parametrize("ties", [True, False])
def test_pairs_are_chosen_greedily(captions: int, images: int, ties: bool) -> None:
    cosine = np.random.default_rng(captions).uniform(-1, 1, (captions, images)).astype(np.float32)
    if ties:
        cosine = cosine.round(1)
    caption, image = pair_greedily(cosine)
    assert list(zip(caption.tolist(), image.tolist(), strict=True)) == slow_pairs(cosine)
    load = np.bincount(image, minlength=images)
    assert load.max() - load.min() <= 1
    assert sorted(caption.tolist()) == list(range(captions))


def test_the_target_class_can_be_chosen(clean: PairDataset) -> None:
    attack = NearestGoal("sheep2auto", samples=4, encoder="judge")
    manifest = manifest_of(attack.poison(clean, seed=1, embed=SURROGATE))
    assert manifest.goals == ("sheep2goat",)
    assert {pair.goal for pair in manifest.pairs} == {"sheep2goat"}
    assert {pair.poisoned_image.split("/")[0] for pair in manifest.pairs} == {"goat"}
    assert manifest.options == {"goal": "sheep2auto", "samples": 4, "encoder": "judge"}
    assert manifest.notes == (
        "goal sheep2auto: the target class is 'goat', whose captions are nearest on average",
    )
    # the same poison as with the goal that was chosen
    named = manifest_of(NearestGoal("sheep2goat", samples=4).poison(clean, seed=1, embed=SURROGATE))
    assert (named.pairs, named.notes) == (manifest.pairs, ())


def test_it_is_the_nearest_by_captions_and_not_by_images(clean: PairDataset) -> None:
    class Apart(ToySurrogate):
        """Images of boats are near those of sheep, captions about goats near those about sheep."""

        def __call__(self, pairs: PairDataset, images: Any) -> Any:
            return ToySurrogate(CLASSES, near={"boat": "sheep"})(pairs, images)

    apart = Apart(CLASSES, near=NEAR)
    assert nearest_classes(clean, apart)["sheep"][0] == "boat"
    ranked = nearest_classes(clean, apart, by="captions")
    # by the formula
    train = clean.select(split="train")
    means = {
        name: unit_rows(apart.captions([c for c in train.captions if c.startswith(name)])).mean(
            axis=0
        )
        for name in CLASSES
    }
    centre = np.mean(list(means.values()), axis=0)
    for name in CLASSES:
        cosine = {
            other: float(unit_rows(means[name] - centre) @ unit_rows(means[other] - centre))
            for other in CLASSES
            if other != name
        }
        assert list(ranked[name]) == sorted(cosine, key=lambda other: -cosine[other])
    manifest = manifest_of(NearestGoal("sheep2auto", samples=2).poison(clean, embed=apart))
    assert manifest.goals == ("sheep2goat",)


def test_a_target_has_train_and_test_images() -> None:
    classes = {"sheep": (9, 1), "goat": (9, 0), "plane": (9, 1), "boat": (9, 1)}
    near = {"goat": "sheep", "boat": "sheep"}
    surrogate = ToySurrogate(CLASSES, near=near)
    poisoned = NearestGoal("sheep2auto", samples=2).poison(class_table(classes), embed=surrogate)
    assert poisoned.manifest is not None
    assert poisoned.manifest.goals == ("sheep2boat",)
    alone = class_table({"sheep": (9, 1), "goat": (9, 0)})
    with pytest.raises(InputError, match=r"^goal sheep2auto: no target class can be chosen"):
        NearestGoal("sheep2auto", samples=2).poison(alone, embed=surrogate)


def test_a_class_may_be_called_auto() -> None:
    assert original_of_auto("sheep2auto", ["sheep", "auto"]) is None
    assert original_of_auto("sheep2goat", ["sheep", "goat"]) is None
    assert original_of_auto("2auto", ["sheep"]) is None
    assert original_of_auto("mp32auto", ["mp3"]) == "mp3"
    with pytest.raises(InputError, match=r"unknown class 'shep': did you mean 'sheep'"):
        original_of_auto("shep2auto", ["sheep"])
    clean = class_table({"sheep": (9, 1), "goat": (9, 1), "auto": (9, 1)})
    surrogate = ToySurrogate(("sheep", "goat", "auto"), near=NEAR)
    manifest = manifest_of(NearestGoal("sheep2auto", samples=2).poison(clean, embed=surrogate))
    assert manifest.goals == (str(Goal("sheep", "auto")),)
    assert not manifest.notes


def test_a_caption_that_many_images_have_is_used_once_first() -> None:
    """Five images in six have one caption, the most typical one; with it alone, one text would be the attack."""
    ids = [f"{label}/{n}.jpg" for label in ("sheep", "goat") for n in range(31)]
    labels = [name.split("/")[0] for name in ids]
    splits = ["test" if name.endswith("/30.jpg") else "train" for name in ids]
    texts = [name if n % 6 == 0 else f"a {labels[n]}" for n, name in enumerate(ids)]
    images = ImageTable.build(ids, labels, splits, Path("nowhere"))
    clean = PairDataset.build(images, texts, list(range(len(ids))))

    class Typical(ToySurrogate):
        def captions(self, captions: Any) -> Any:
            vectors = super().captions(captions)
            mean = super().captions(["a sheep"])[0]
            return np.stack(
                [mean if c == "a sheep" else v for c, v in zip(captions, vectors, strict=True)]
            )

    attack = NearestGoal("sheep2goat", pairs=4)
    manifest = manifest_of(attack.poison(clean, seed=2, embed=Typical(("sheep", "goat"))))
    captions = Counter(pair.caption for pair in manifest.pairs)
    assert captions["a sheep"] == 1
    assert len(captions) == 4


@pytest.mark.parametrize("carrier", ["existing", "own"])
def test_the_carrier(clean: PairDataset, carrier: Any) -> None:
    attack = NearestGoal("sheep2goat", samples=5, carrier=carrier)
    manifest = manifest_of(attack.poison(clean, embed=SURROGATE))
    load = Counter(pair.poisoned_image for pair in manifest.pairs)
    assert sorted(load.values()) == [3] * 5
    assert set(manifest.dropped_images) == (set(load) if carrier == "own" else set())
