"""Scan, train, trace, train: what is dropped and said, and that a stopped run resumes."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
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
    assert len(by_scan) == (~scan.keep).sum() == round(0.1 * len(train))
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


def test_nothing_found_trains_no_third_time(
    encoder: DualEncoder, squares: PairDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = squares.select(split="train")
    nothing = np.zeros(len(train), dtype=bool)
    monkeypatch.setattr(scan_trace, "traced", lambda *_: (nothing, ""))
    done = ScanTrace().apply(encoder, train, prepare_pixels(encoder, train), QUICK, seed=0)
    assert done.notes[1:] == ("trace 1: 0 pairs dropped",)
    assert done.steps == 2 * 2


def test_pairs_like_those_of_a_group_go_too(
    encoder: DualEncoder, squares: PairDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scan drops pairs 0 to 4 and calls 2 and 3 poisoning; what is like these is given here."""
    train = squares.select(split="train")
    inputs, number = prepare_pixels(encoder, train), np.arange(len(train))
    group = SimpleNamespace(rows={0: np.array([2, 3])})
    found = SimpleNamespace(joined=lambda: (None, number > 4), likely=(group,))
    monkeypatch.setattr(scan_trace, "_judged", lambda *_: found)
    monkeypatch.setattr(scan_trace, "traced", lambda *_: (number < 0, ""))

    def like_those(known: Any, shard: VectorShard) -> Any:
        assert [np.flatnonzero(group).tolist() for group in known] == [[2, 3]]
        assert len(shard) == len(train)
        return np.isin(number, [2, 3, 11])

    monkeypatch.setattr(scan_trace, "like_those", like_those)
    log = LogOptions(tmp_path / "log")
    done = ScanTrace().apply(encoder, train, inputs, QUICK, seed=3, log=log)
    assert (
        done.notes[0] == "scan: 5 pairs dropped, and 1 more that are like those it calls poisoning"
    )
    rows = list(csv.DictReader((tmp_path / "log" / "dropped.csv").open(encoding="utf-8")))
    assert [row["dropped_by"] for row in rows] == ["scan"] * 5 + ["alike"]
    skip = np.isin(number, [0, 1, 2, 3, 4, 11])
    plain = finetune(encoder, train, inputs, QUICK, seed=3, skip=skip)
    assert done.encoder.digest() == plain.encoder.digest()
