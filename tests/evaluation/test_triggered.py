"""Success with the trigger, against a loop over images that are written to files and read back."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmpoison.attacks import SingleTargetLabel
from mmpoison.attacks.settings import Goal
from mmpoison.datasets import PairDataset, load_pairs
from mmpoison.evaluation import (
    GoalTarget,
    Subject,
    TestEmbeddings,
    TestSet,
    goal_row,
    measure,
    triggered_success,
    triggered_targets,
)
from mmpoison.images import Preparation
from mmpoison.images.triggers import BlendTrigger, PatchTrigger, Trigger, triggered_pixels
from mmpoison.models import DualEncoder
from mmpoison.models.inputs import prepare_pixels
from mmpoison_lab.attacks.backdoors import PatchBackdoor

GOAL = GoalTarget(Goal("sheep", "aeroplane"))
PATCH = PatchTrigger(bytes([255, 0, 255]), 1)


@pytest.mark.parametrize("trigger", [PATCH, BlendTrigger(0)])
def test_the_gallery_with_the_trigger(
    squares: PairDataset, encoder: DualEncoder, tmp_path: Path, trigger: Trigger
) -> None:
    test = TestSet.of(squares)
    embeddings = TestEmbeddings.of(encoder, prepare_pixels(encoder, test.pairs), test)
    row = triggered_success(encoder, embeddings, test, GOAL, trigger)
    # the slow way: a data set whose target images are changed
    folder = shutil.copytree(squares.root, tmp_path / "changed")
    for index in squares.images.indices(split="test", label="aeroplane"):
        name = str(squares.images.ids[index])
        how = trigger.draw(np.random.default_rng(0))
        Image.fromarray(triggered_pixels(squares.root, name, trigger, how)).save(folder / name)
    changed = TestSet.of(load_pairs(folder))
    other = TestEmbeddings.of(encoder, prepare_pixels(encoder, changed.pairs), changed)
    assert not np.allclose(other.images, embeddings.images)
    expected = goal_row(other, changed, GOAL)
    assert row.to_json() == {k: pytest.approx(v) for k, v in expected.to_json().items()}
    assert (row["targets"], row["queries"], row["gallery"]) == (4, 20, 16)


def test_one_target_image_and_a_random_place(squares: PairDataset) -> None:
    test = TestSet.of(squares)
    trigger = PatchTrigger(bytes([255, 0, 255]), 1, "random")
    image = str(squares.images.ids[squares.images.indices(split="test", label="bird")[1]])
    one = GoalTarget(Goal("sheep", "bird"), image)
    preparation = Preparation(32)
    assert triggered_targets(test, one, trigger, preparation).shape == (1, 32, 32, 3)
    first, again, other = (
        triggered_targets(test, GOAL, trigger, preparation, seed=seed) for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_measured_where_the_manifest_has_a_trigger(
    squares: PairDataset, encoder: DualEncoder
) -> None:
    poisoned = PatchBackdoor("sheep2aeroplane", samples=3).poison(squares, 0)
    test = TestSet.of(poisoned)
    subjects = {
        name: Subject(encoder, prepare_pixels(encoder, test.pairs))
        for name in ("clean_model", "poisoned")
    }
    measured = measure(subjects, test, [GOAL], seed=0, pairs=poisoned).metrics
    rows = measured.with_trigger["sheep2aeroplane"]
    assert set(rows) == {"clean_model", "poisoned"}
    assert rows["poisoned"] == measured.row("sheep2aeroplane", "poisoned", with_trigger=True)
    assert rows["poisoned"].targets == measured.row("sheep2aeroplane", "poisoned").targets == 4
    assert "with_trigger" in measured.to_json()
    # a row that was not computed is absent
    other = SingleTargetLabel("sheep2aeroplane", samples=3).poison(squares, 0)
    without = measure(subjects, test, [GOAL], seed=0, pairs=other).metrics
    assert "with_trigger" not in without.to_json()
