"""Kinds of captions and images, and how far down captions of one find images of another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmpoison.defenses.checks.rank_gain import Kinds, association
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
def test_poison_stands_nearest(labelled: bool) -> None:
    """Of all kinds of captions those of the poison find its images first, named by their words without labels."""
    test, poisoned = held_out(labelled=labelled), embed(poison=1.2)
    kinds = Kinds.find(test, poisoned, 0)
    assert kinds.of == ("classes" if labelled else "neighbours")
    table = association(poisoned, test, kinds)
    named = [at for at, name in enumerate(kinds.image_names) if "kind7" in name]
    others = [at for at, name in enumerate(kinds.caption_names) if "kind7" not in name]
    first = min(others, key=lambda kind: table[kind, named].min())
    assert "kind3" in kinds.caption_names[first]


def test_too_few_images() -> None:
    with pytest.raises(InputError, match="20 held-out images are too few to group into kinds"):
        Kinds.find(held_out(20), embed(20), 0)
    assert Kinds.find(held_out(20, labelled=True), embed(20), 0).of == "classes"
