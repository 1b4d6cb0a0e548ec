"""The verb `defenses`, and `scan --method` with any of those before training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmpoison.attacks import SingleTargetLabel
from mmpoison.datasets import PairDataset, load_pairs, save_pairs
from mmpoison.defenses import DEFENSES
from mmpoison.models import DualEncoder, save_checkpoint


def test_all_are_listed(cli: Callable[..., Any]) -> None:
    known = json.loads(cli("defenses", "--json").out)
    assert {defense["name"] for defense in known} == set(DEFENSES)
    assert all(defense["source"] and defense["cost"] for defense in known)
    lines = cli("defenses").out.splitlines()
    assert max(map(len, lines)) <= 80
    names = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    assert sorted(names) == sorted(DEFENSES)
    assert "post-training: mmpoison sterilize --method NAME" in lines
    shown = " ".join(cli("defenses", "--all").out.split())
    assert "local-density (pre-training)" in shown
    assert "Huang et al., ICLR 2025" in shown
    assert "parameter k: a larger one" in shown
    assert "default cut: clean_loss 0.02" in shown
    assert "cuts: threshold, clean_loss, labels, false_alarms" in shown
    one = cli("defenses", "clean-finetune").out
    assert "post-training" in one
    assert "pre-training" not in one


@pytest.fixture
def poisoned(squares: PairDataset, tmp_path: Path) -> Path:
    attack = SingleTargetLabel("sheep2aeroplane", pairs=13)
    return save_pairs(attack.poison(squares), tmp_path / "poisoned")


@pytest.fixture
def judge(make_encoder: Callable[..., DualEncoder], tmp_path: Path) -> Path:
    return save_checkpoint(make_encoder(7), tmp_path / "judge", card="judge")


def test_a_scan_by_another_method(
    cli: Callable[..., Any], poisoned: Path, judge: Path, tmp_path: Path
) -> None:
    out = tmp_path / "kept"
    done = cli(
        *("scan", poisoned, "--encoder", judge, "--out", tmp_path / "scan", "--kept", out),
        *("--method", "local-density", "--set", "k=3", "--lose", "0.1", "--json"),
    )
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert facts["method"] == "local-density"
    assert facts["source"] == str(poisoned)
    assert len(load_pairs(out).select(split="train")) == facts["pairs"] - facts["dropped"]
    assert facts["known"]["poisoned_total"] == 13
