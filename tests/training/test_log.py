"""The log: a line a step, none twice, and other people's trackers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmpoison.datasets import PairDataset
from mmpoison.errors import InputError
from mmpoison.models import DualEncoder, prepare_pixels
from mmpoison.training import Checkpoints, LogOptions, Step, TrainingSettings, finetune

Make = Callable[..., DualEncoder]

QUICK = TrainingSettings(epochs=2, batch_size=32, learning_rate=1e-3, precision="fp32")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def test_a_line_a_step_also_over_a_stop(
    make_encoder: Make, squares: PairDataset, tmp_path: Path
) -> None:
    encoder = make_encoder()
    train = squares.select(split="train")
    inputs = prepare_pixels(encoder, train)
    log = LogOptions(tmp_path / "log")
    keep: dict[str, Any] = {"seed": 0, "checkpoints": Checkpoints(tmp_path / "states", steps=2)}

    def stop(step: Step, _: DualEncoder) -> None:
        if step.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(encoder, train, inputs, QUICK, log=log, on_step=stop, **keep)
    assert [line["step"] for line in lines(log.folder)] == [1, 2, 3, 4, 5]
    with (log.folder / "steps.jsonl").open("a") as stream:
        stream.write('{"step": 6, "lo')  # a process that was killed while it wrote
    finetune(encoder, train, inputs, QUICK, log=log, **keep)
    logged = lines(log.folder)
    assert [line["step"] for line in logged] == list(range(1, 11))
    assert [line["epoch"] for line in logged] == [0] * 5 + [1] * 5
    assert set(logged[0]) == {
        "step",
        "steps",
        "epoch",
        "loss",
        "learning_rate",
        "pairs_per_second",
        "logit_scale",
    }
    # the same losses as without a stop
    finetune(encoder, train, inputs, QUICK, seed=0, log=LogOptions(tmp_path / "whole"))
    assert [line["loss"] for line in lines(tmp_path / "whole")] == [line["loss"] for line in logged]


def test_tensorboard(make_encoder: Make, squares: PairDataset, tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs the extra tensorboard",
    )
    encoder = make_encoder()
    train = squares.select(split="train")
    log = LogOptions(tmp_path, ["tensorboard"])
    finetune(encoder, train, prepare_pixels(encoder, train), QUICK, seed=0, log=log)
    events = [path for path in tmp_path.rglob("*tfevents*") if path.parent.name == "mmpoison"]
    assert len(events) == 1
    found = event_accumulator.EventAccumulator(str(events[0]))
    found.Reload()
    losses = found.Scalars("train/loss")
    assert [event.step for event in losses] == [1, 10]
    assert losses[1].value == pytest.approx(lines(tmp_path)[-1]["loss"], rel=1e-6)


def test_trackers_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tracker 'notebook' is not known: tensorboard, mlflow"):
        LogOptions(tmp_path, ["notebook"]).check()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'mmpoison\[wandb\]'"):
        LogOptions(tmp_path, ["wandb"]).check()
