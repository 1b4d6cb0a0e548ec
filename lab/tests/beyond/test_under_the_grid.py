"""Under the grid: few poisoned images in each cell of the attacker's clusterings."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from tests.attacks.conftest import ToySurrogate, class_table, manifest_of

from mmpoison.base.seeding import generator
from mmpoison.datasets import PairDataset
from mmpoison_lab.attacks.adaptive import Grid, UnderTheGrid

CLASSES = ("sheep", "goat", "plane", "boat", "sofa", *(f"kind{n}" for n in range(9)))
SURROGATE = ToySurrogate(CLASSES, noise=1.0)
GOALS = ["sheep2sofa", "goat2sofa", "plane2sofa"]


@pytest.fixture(scope="module")
def clean() -> PairDataset:
    return class_table(dict.fromkeys(CLASSES, (40, 2)), captions=2)


@pytest.mark.parametrize("per_cell", [1, 2, 3])
@pytest.mark.parametrize("carrier", ["own", "existing"])
def test_no_cell_has_more(clean: PairDataset, per_cell: int, carrier: Any) -> None:
    attack = UnderTheGrid(GOALS, samples=30, per_cell=per_cell, carrier=carrier)
    poisoned = attack.poison(clean, 2, embed=SURROGATE)
    manifest = manifest_of(poisoned)
    assert manifest.goals == tuple(GOALS)
    train = clean.select(split="train")
    originals = np.isin(clean.images.class_codes, [clean.classes.index(c) for c in CLASSES[:3]])
    rows = np.flatnonzero(originals[train.source]).astype(np.int32)
    images = clean.images.indices(split="train", label="sofa")
    # the attacker's clusterings, made again
    grid = Grid(
        train, SURROGATE, rows, images, generator(2, "attack/under-the-grid/clusters"), per_cell
    )
    row = {(int(train.source[r]), str(train.captions[r])): n for n, r in enumerate(rows)}
    place = {int(image): n for n, image in enumerate(images)}
    bad = poisoned.select(poisoned=True)
    assert len(grid.clusterings) == 9
    for caption, image in grid.clusterings:
        cells = {
            (int(caption[row[int(s), str(c)]]), int(image[place[int(i)]]), int(i))
            for c, s, i in zip(bad.captions, bad.source, bad.image, strict=True)
        }
        assert max(Counter(cell[:2] for cell in cells).values()) <= per_cell
    # one image of A for each image of B
    sources = {(int(s), int(i)) for s, i in zip(bad.source, bad.image, strict=True)}
    assert len(sources) == len({s for s, _ in sources}) == len({i for _, i in sources})
    assert len(manifest.dropped_images) == (len(sources) if carrier == "own" else 0)
    # what did not fit is said, goal by goal
    for note, goal in zip(manifest.notes, GOALS, strict=True):
        found = len({p.poisoned_image for p in manifest.pairs if p.goal == goal})
        assert note.startswith(f"goal {goal}: only {found} of the 30 requested images fit")
        assert note.endswith(f"at most {per_cell} in each cell")


def test_more_goals_and_more_a_cell_make_room(clean: PairDataset) -> None:
    def room(goals: list[str], per_cell: int) -> int:
        attack = UnderTheGrid(goals, samples=30, per_cell=per_cell)
        return len(attack.poison(clean, embed=SURROGATE).select(poisoned=True).used_images())

    assert 1 <= room(GOALS[:1], 1) < room(GOALS, 1) < room(GOALS, 3)


def test_goals_that_use_each_other(clean: PairDataset) -> None:
    """No image whose captions are used carries any."""
    attack = UnderTheGrid(["sheep2goat", "goat2sheep"], share=0.9, per_cell=40)
    manifest = manifest_of(attack.poison(clean, embed=SURROGATE))
    assert not {p.clean_image for p in manifest.pairs} & {p.poisoned_image for p in manifest.pairs}
