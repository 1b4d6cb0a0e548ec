"""The canary: associations that a repair weakens, and others that merely move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmpoison.defenses.checks.canary import (
    Kinds,
    Rise,
    association,
    conspicuous,
    rises,
    still_weakening,
)
from mmpoison.errors import InputError
from mmpoison.evaluation import TestEmbeddings, TestSet
from mmpoison.pairs.table import ImageTable, PairDataset

KINDS, A_KIND, CAPTIONS, WIDTH = 10, 12, 2, 24
WORDS = [f"kind{number}" for number in range(KINDS)]


def held_out(images: int = KINDS * A_KIND, *, labelled: bool = False) -> TestSet:
    kind = np.arange(images) % KINDS
    table = ImageTable.build(
        [f"{number:03d}.png" for number in range(images)],
        [WORDS[k] if labelled else None for k in kind],
        ["val"] * images,
        Path("nowhere"),
    )
    owner = np.repeat(np.arange(images), CAPTIONS)
    captions = [f"a {WORDS[kind[i]]} seen {n} times" for n, i in enumerate(owner)]
    return TestSet(PairDataset.build(table, captions, owner), np.arange(images, dtype=np.int32))


def embed(images: int = KINDS * A_KIND, *, poison: float = 0.0, noise: int = 0) -> TestEmbeddings:
    """Images and captions about the centre of their kind; poison pulls captions of kind 3 to images of kind 7."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(KINDS, WIDTH))
    kind = np.arange(images) % KINDS
    own = centres[kind] + 0.6 * rng.normal(size=(images, WIDTH))
    said = np.repeat(own, CAPTIONS, axis=0)
    said = said + 0.6 * rng.normal(size=said.shape)
    said[np.repeat(kind, CAPTIONS) == 3] += poison * centres[7]
    moved = np.random.default_rng(noise)
    parts = [part + 0.3 * moved.normal(size=part.shape) for part in (own, said)]
    image, text = (
        (part / np.linalg.norm(part, axis=1, keepdims=True)).astype(np.float32) for part in parts
    )
    return TestEmbeddings(image, text)


def test_association_equals_counting() -> None:
    test, seen = held_out(40, labelled=True), embed(40)
    kinds = Kinds.find(test, seen, 0)
    table = association(seen, test, kinds)
    expected = np.zeros((KINDS, KINDS))
    for a in range(KINDS):
        for b in range(KINDS):
            ranks = []
            for caption, image in enumerate(test.caption_image):
                if image % KINDS != a:
                    continue
                similar = seen.images @ seen.texts[caption]
                best = max(similar[i] for i in range(40) if i % KINDS == b)
                ranks.append(np.log2(1 + sum(similar > best)))
            expected[a, b] = np.mean(ranks)
    assert kinds.of == "classes"
    assert kinds.caption_names == kinds.image_names == tuple(WORDS)
    np.testing.assert_allclose(table, expected)


@pytest.mark.parametrize("labelled", [True, False])
def test_the_poison_weakens_most(labelled: bool) -> None:
    test, poisoned = held_out(labelled=labelled), embed(poison=1.2)
    kinds = Kinds.find(test, poisoned, 0)
    assert kinds.of == ("classes" if labelled else "neighbours")
    before = association(poisoned, test, kinds)
    found = conspicuous(rises(before, association(embed(noise=1), test, kinds), kinds))
    assert found
    assert "kind3" in found[0].captions
    assert "kind7" in found[0].images
    assert found[0].after > 2 * found[0].before
    assert all("kind3" in one.captions for one in found)


@pytest.mark.parametrize("labelled", [True, False])
def test_in_a_clean_model_nothing_is_unusual(labelled: bool) -> None:
    test, start = held_out(labelled=labelled), embed()
    kinds = Kinds.find(test, start, 0)
    before = association(start, test, kinds)
    for noise in range(1, 6):
        found = rises(before, association(embed(noise=noise), test, kinds), kinds)
        assert found
        assert not conspicuous(found)
    assert not conspicuous(rises(before, before, kinds))


def test_what_nobody_sees_does_not_count() -> None:
    before = np.array([[0.0, 6.0], [0.2, 6.1]])
    kinds = Kinds(np.eye(2), np.array([0, 1]), ("a", "b"), ("A", "B"), "classes")
    after = before + np.array([[0.0, 9.0], [0.1, 0.0]])
    assert {one.images for one in rises(before, after, kinds)} == {"A"}
    assert rises(before + 9, after + 9, kinds) == []


def test_still_weakening_until_nothing_moves() -> None:
    test, poisoned = held_out(labelled=True), embed(poison=1.2)
    kinds = Kinds.find(test, poisoned, 0)
    start, half, now = (
        association(embed(poison=poison, noise=noise), test, kinds)
        for poison, noise in ((1.2, 0), (0.6, 1), (0.0, 2))
    )
    still = still_weakening(start, half, now, kinds)
    assert [one.captions for one in still] == ["kind3"]
    assert still[0].images == "kind7"
    assert still[0].before == pytest.approx(2 ** half[3, 7] - 1)
    # as far from the start, but no more than half the steps ago
    assert still_weakening(start, now, now, kinds) == []
    # and what moves now but was not found before is nothing to wait for
    assert "kind7" not in {one.images for one in still_weakening(now, now, start, kinds)}


def test_a_small_rise_is_none_however_still_the_others_are() -> None:
    assert conspicuous([Rise("a", "b", 3.0, 9.0, 50.0)])
    assert not conspicuous([Rise("a", "b", 3.0, 6.0, 50.0)])
    assert not conspicuous([Rise("a", "b", 3.0, 90.0, 5.0)])


def test_too_few_images() -> None:
    with pytest.raises(InputError, match="20 held-out images are too few to find kinds"):
        Kinds.find(held_out(20), embed(20), 0)
    assert Kinds.find(held_out(20, labelled=True), embed(20), 0).of == "classes"
