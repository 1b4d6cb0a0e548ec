"""The scan for goals on a folder: what it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra analysis")

from mmpoison.attacks import SingleTargetLabel
from mmpoison.datasets import PairDataset, load_pairs, save_pairs
from mmpoison.datasets.verify.pairs_check import verify_pairs
from mmpoison.defenses.filters.suspicious_groups import SuspiciousGroups
from mmpoison.errors import InputError
from mmpoison.models import DualEncoder, prepare_pixels
from mmpoison.runs.goal_scan import GOALS_FILE, scan_goals

Make = Callable[..., DualEncoder]


@pytest.fixture(scope="module")
def poisoned(squares: PairDataset) -> PairDataset:
    return SingleTargetLabel("sheep2aeroplane", pairs=13).poison(squares, seed=1)


@pytest.fixture(scope="module")
def folder(poisoned: PairDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pairs(poisoned, tmp_path_factory.mktemp("poisoned") / "pairs")


@pytest.mark.parametrize("false_alarms", [0.01, 1 - 1e-12])
def test_a_folder_becomes_what_the_scan_in_memory_says(
    folder: Path, poisoned: PairDataset, make_encoder: Make, tmp_path: Path, false_alarms: float
) -> None:
    encoder = make_encoder(7)
    defense = SuspiciousGroups(false_alarms)
    result = scan_goals(folder, encoder, tmp_path / "out", defense)
    train = poisoned.select(split="train")
    expected = defense.apply(train, encoder, prepare_pixels(encoder, train))
    assert np.array_equal(result.keep, expected.keep)
    kept = load_pairs(tmp_path / "out")
    assert list(kept.select(split="train").captions) == list(train.captions[result.keep])
    assert len(kept.select(split="test")) == len(poisoned.select(split="test"))
    assert verify_pairs(kept).problems == []
    said = json.loads((tmp_path / "out" / GOALS_FILE).read_text())
    assert said["false_alarms"] == false_alarms
    assert [goal["sentence"] for goal in said["goals"]] == [str(goal) for goal in result.goals]
    lines = (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()
    assert [json.loads(line)["keep"] for line in lines] == result.keep.tolist()


def test_a_set_without_training_pairs_is_one_line(
    squares: PairDataset, make_encoder: Make, tmp_path: Path
) -> None:
    data = save_pairs(squares.select(split="test"), tmp_path / "test-only")
    with pytest.raises(InputError, match="split 'train' has no pairs to scan"):
        scan_goals(data, make_encoder(7), tmp_path / "out", SuspiciousGroups())
    assert not (tmp_path / "out").exists()
