"""Nearest assignment: false pairs that look true to a surrogate."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linprog
from tests.attacks.conftest import ToySurrogate, class_table

from mmpoison.attacks import NearestAssigned, SingleTargetLabel
from mmpoison.attacks.adaptive import assign
from mmpoison.attacks.surrogate import Matching
from mmpoison.datasets import PairDataset
from mmpoison.errors import InputError

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
    manifest = poisoned.manifest
    assert manifest is not None
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
    assert note.startswith(f"{len(few.pairs)} pairs of 18 requested: ")
    assert few.to_json()["notes"] == [note]
    everything = poison(1).manifest
    assert len(everything.pairs) == 18
    assert "notes" not in everything.to_json()
    with pytest.raises(InputError, match=r"goal sheep2plane: the surrogate expects every pair to"):
        poison(0.01, "sheep2plane")


def test_what_it_refuses(clean: PairDataset) -> None:
    with pytest.raises(InputError, match="needs a surrogate"):
        NearestAssigned("sheep2goat", samples=2).poison(clean)
    for unseen in (0, 1.1, True, "x"):
        with pytest.raises(InputError, match="unseen"):
            NearestAssigned("sheep2goat", samples=2, unseen=unseen)  # type: ignore[arg-type]
    small = class_table({"sheep": (8, 1), "goat": (3, 1), "plane": (3, 1)})
    with pytest.raises(InputError, match=r"at most samples=3$"):
        NearestAssigned("sheep2goat", samples=4).poison(small, embed=SURROGATE)


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
