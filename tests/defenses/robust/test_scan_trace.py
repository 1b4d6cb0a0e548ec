"""Scan, train, trace, train: what is dropped and said, and that a stopped run resumes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import refusal

from mmpoison.datasets import PairDataset
from mmpoison.defenses import ScanTrace, filter_pairs
from mmpoison.defenses.scan.cut import scan_trace
from mmpoison.defenses.scan.read.vector_shard import VectorShard
from mmpoison.defenses.scan.read.vectors import memory_shard
from mmpoison.models import DualEncoder, prepare_pixels
from mmpoison.training import Checkpoints, LogOptions, TrainingSettings, finetune

QUICK = TrainingSettings(epochs=1, batch_size=16, max_steps=2, precision="fp32")


def test_options_are_checked() -> None:
    assert "lose 1: must be less than 1" in refusal(ScanTrace, lose=1)
    assert "rounds 0: must be" in refusal(ScanTrace, rounds=0)


@pytest.mark.parametrize("rounds", [1, 2])
def test_each_trace_drops_more_until_nothing_is_found(
    encoder: DualEncoder,
    squares: PairDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rounds: int,
) -> None:
    """Traces are given here: the first finds two pairs, the second one of them and no other."""
    train = squares.select(split="train")
    inputs = prepare_pixels(encoder, train)
    seen: list[VectorShard] = []
    scan = filter_pairs(train, encoder, "suspicious-groups", inputs=inputs, seed=3, clean_loss=0.1)
    one, two = np.flatnonzero(scan.keep)[[3, 7]]
    answers = iter([[one, two], [two]])

    def traced(suspect: VectorShard, *_: Any) -> tuple[Any, str]:
        seen.append(suspect)
        found = np.zeros(len(train), dtype=bool)
        found[next(answers)] = True
        return found, "; captions about X"

    monkeypatch.setattr(scan_trace, "traced", traced)
    log, states = LogOptions(tmp_path / "log"), Checkpoints(tmp_path / "states", steps=1)
    done = ScanTrace(lose=0.1, rounds=rounds).apply(
        encoder, train, inputs, QUICK, seed=3, log=log, checkpoints=states
    )
    rows = list(csv.DictReader((tmp_path / "log" / "dropped.csv").open(encoding="utf-8")))
    by_scan = [row for row in rows if row["dropped_by"] == "scan"]
    # captions of one image may have one score: they stay together
    assert 0 <= round(0.1 * len(train)) - len(by_scan) <= 1
    assert len(by_scan) == (~scan.keep).sum()
    dropped = {(row["image"], row["caption"]) for row in rows}
    names = [(train.images.ids[i], c) for i, c in zip(train.image, train.captions, strict=True)]
    assert {names[one], names[two]} <= dropped
    skip = np.array([name in dropped for name in names])
    # the result is a plain training without the dropped pairs, and the suspect one on all
    plain = finetune(encoder, train, inputs, QUICK, seed=3, skip=skip)
    assert done.encoder.digest() == plain.encoder.digest()
    every = finetune(encoder, train, inputs, QUICK, seed=3).encoder
    by_every = memory_shard(every, inputs, train, True)
    for one in seen:
        np.testing.assert_array_equal(one.text, by_every.text)
        np.testing.assert_array_equal(one.image, by_every.image)
    assert done.notes[0] == f"scan: {len(by_scan)} pairs dropped"
    assert done.notes[1] == "trace 1: 2 pairs dropped; captions about X"
    assert len(done.notes) == 1 + rounds
    assert rounds == 1 or done.notes[2].startswith("trace 2: 0 pairs dropped")
    assert done.steps == 3 * plain.steps
    assert done.summary().to_json()["notes"] == list(done.notes)
    assert not (tmp_path / "states").exists() or not any((tmp_path / "states").rglob("*.*"))
