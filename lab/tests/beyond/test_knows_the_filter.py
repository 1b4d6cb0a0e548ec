"""Attackers who know the filter and need no surrogate, but for the nearest connector."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.attacks.conftest import ToySurrogate, class_table, manifest_of, pairs_of

from mmpoison.attacks import Goal, SingleTargetLabel
from mmpoison.datasets import PairDataset, load_pairs, save_pairs
from mmpoison.evaluation.test_set import goal_targets_of
from mmpoison_lab.attacks.adaptive import CONNECTORS, BothNames, Decoys, Orphan, SelfVouched
from mmpoison_lab.attacks.phrases import noun_phrase

# -- Self-vouched: a share of class B carries all captions of one image of A each, and nothing else.


GOAL = "sheep2aeroplane"


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 1.0])
def test_a_share_of_b_is_treated(share: float) -> None:
    clean = class_table({"sheep": (4, 1), "aeroplane": (20, 1)}, unlabelled=3)
    poisoned = SelfVouched(GOAL, share=share).poison(clean, seed=1)
    manifest = manifest_of(poisoned)
    sources: dict[str, set[str]] = defaultdict(set)
    for pair in manifest.pairs:
        sources[pair.poisoned_image].add(pair.clean_image)
    assert len(sources) == round(20 * share)
    assert manifest.dropped_images == tuple(sorted(sources))
    # one image of A each, all its captions; in turn, since they are too few
    assert all(len(of) == 1 for of in sources.values())
    uses = Counter(of for (of,) in sources.values())
    assert max(uses.values()) - min(uses.values()) <= 1
    honest = pairs_of(clean, label="sheep", split="train")
    carried = pairs_of(poisoned, split="train")
    for image, (source,) in sources.items():
        own = {caption for of, caption in honest if of == source}
        assert {caption for of, caption in carried if of == image} == own
    # A keeps its own captions
    assert honest.items() <= carried.items()


def test_the_amount_is_images_of_b(squares: PairDataset) -> None:
    poisoned = SelfVouched(GOAL, samples=3).poison(squares)
    assert len(set(poisoned.image[poisoned.poisoned].tolist())) == 3


# -- Orphan: attack II where class A has no clean training captions.


@pytest.mark.parametrize("carrier", ["own", "existing"])
def test_no_clean_caption_of_a_is_left(squares: PairDataset, carrier: Any) -> None:
    poisoned = Orphan(GOAL, samples=3, carrier=carrier).poison(squares, 2)
    second = SingleTargetLabel(GOAL, samples=3, carrier=carrier).poison(squares, 2)
    assert poisoned.manifest is not None
    assert second.manifest is not None
    assert poisoned.manifest.pairs == second.manifest.pairs
    assert not pairs_of(poisoned, split="train", label="sheep", poisoned=False)
    # all else is as in attack II, other splits too
    for label in ("aeroplane", "bird", "sofa"):
        assert pairs_of(poisoned, label=label) == pairs_of(second, label=label)
    for split in ("val", "test"):
        assert pairs_of(poisoned, split=split) == pairs_of(squares, split=split)
    assert len(poisoned.manifest.dropped_images) == 5 + (3 if carrier == "own" else 0)


# -- Both names: a caption of A that also names what the image shows.


@pytest.mark.parametrize("carrier", ["own", "existing"])
def test_captions_are_those_of_attack_ii_with_the_other_name(
    squares: PairDataset, tmp_path: Any, carrier: Any
) -> None:
    options: dict[str, Any] = {"samples": 3, "carrier": carrier}
    poisoned = BothNames(GOAL, **options).poison(squares, 4)
    second = SingleTargetLabel(GOAL, **options).poison(squares, 4)
    assert poisoned.manifest is not None
    assert second.manifest is not None
    used = set()
    for new, old in zip(poisoned.manifest.pairs, second.manifest.pairs, strict=True):
        assert (new.clean_image, new.poisoned_image) == (old.clean_image, old.poisoned_image)
        added = new.caption.removeprefix(old.caption)
        connector = next(
            c for c in CONNECTORS if added == f" {c} an aeroplane".replace("an ", "a ")
        )
        used.add(connector)
    assert len(used) > 2
    # captions that are nowhere in the clean set go through files
    again = load_pairs(save_pairs(poisoned, tmp_path / "out", images="none"))
    assert again.fingerprint == poisoned.fingerprint
    assert (again.source == poisoned.source).all()


def test_the_nearest_connector(squares: PairDataset) -> None:
    class Prefers(ToySurrogate):
        """Sentences with one connector have the direction of the true captions, which have none."""

        def __init__(self, connector: str) -> None:
            super().__init__()
            self.connector = f" {connector} "

        def captions(self, captions: Sequence[str]) -> Any:
            others = [f" {c} " for c in CONNECTORS if f" {c} " != self.connector]
            return np.array([[1.0, 5.0 * any(c in text for c in others)] for text in captions])

    attack = BothNames(GOAL, samples=2, connector="nearest", encoder="judge")
    assert attack.needs_embeddings
    assert not BothNames(GOAL, samples=2).needs_embeddings
    for connector in ("behind", "and"):
        manifest = manifest_of(attack.poison(squares, embed=Prefers(connector)))
        assert manifest.options["encoder"] == "judge"
        assert all(f" {connector} " in pair.caption for pair in manifest.pairs)


@pytest.mark.parametrize(
    ("caption", "phrase"),
    [
        ("a large parking lot with cars", "a large parking lot"),
        ("A swimming pool is near a building.", "a swimming pool"),
        ("A man riding a horse", "a man"),
        ("Here are two planes .", "two planes"),
        ("On the sea, a boat", "on the sea, a"),
        ("a", "a"),
        ("...", "something"),
    ],
)
def test_what_a_caption_names(caption: str, phrase: str) -> None:
    assert noun_phrase(caption) == phrase


# -- Decoys: attack II among small false groups, which are listed but not measured.


LETTERS = ("a", "b", "c", "d", "e", "f", "g")
A2B = "a2b"


@pytest.mark.parametrize("carrier", ["own", "existing"])
def test_the_goal_is_attack_ii_and_decoys_are_small_groups(carrier: Any) -> None:
    clean = class_table(dict.fromkeys(LETTERS, (40, 2)))
    options: dict[str, Any] = {"samples": 10, "carrier": carrier}
    poisoned = Decoys(A2B, **options).poison(clean, 3)
    manifest = manifest_of(poisoned)
    assert manifest.goals == (A2B,)
    main = [pair for pair in manifest.pairs if pair.goal == A2B]
    second = manifest_of(SingleTargetLabel(A2B, **options).poison(clean, 3))
    assert main == list(second.pairs)

    groups = defaultdict(list)
    for pair in manifest.pairs[len(main) :]:
        groups[pair.goal].append(pair)
    assert len(groups) == 20
    carriers: set[str] = {pair.poisoned_image for pair in main}
    for name, pairs in groups.items():
        decoy = Goal.parse(name, LETTERS)
        assert decoy.original != "a"
        assert decoy.target != "b"
        assert len(pairs) == 15
        assert {pair.clean_image.split("/")[0] for pair in pairs} == {decoy.original}
        images = {pair.poisoned_image for pair in pairs}
        assert {image.split("/")[0] for image in images} == {decoy.target}
        assert len(images) == 3
        assert not images & carriers
        carriers |= images
    assert set(manifest.dropped_images) == (carriers if carrier == "own" else set())
    # only the attack's own goal is measured
    assert [str(target) for target in goal_targets_of(manifest, poisoned)] == [A2B]


def test_too_many_decoys_says_how_many_can_be_made() -> None:
    clean = class_table(dict.fromkeys(LETTERS[:4], (6, 2)))
    with pytest.raises(ValueError, match=r"20 decoys of 3 images requested, .* only \d+:"):
        Decoys(A2B, samples=2).poison(clean)
    poisoned = Decoys(A2B, samples=2, decoys=2, decoy_samples=2).poison(clean)
    assert poisoned.manifest is not None
    assert len({pair.goal for pair in poisoned.manifest.pairs}) == 3
