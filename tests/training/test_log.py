"""The log: a line a step, none twice, and other people's trackers."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.conftest import Stop, Tune, state, stop_after

from mmpoison.errors import InputError
from mmpoison.models import DualEncoder, load_checkpoint
from mmpoison.training import Checkpoints, DivergedError, LogOptions, Step
from mmpoison.training.log import LossGuard


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def test_a_line_a_step_also_over_a_stop(tune: Tune, tmp_path: Path) -> None:
    log = LogOptions(tmp_path / "log")
    run = partial(tune, epochs=2, log=log, checkpoints=Checkpoints(tmp_path / "states", steps=2))
    with pytest.raises(Stop):
        run(on_step=stop_after(5))
    assert [line["step"] for line in lines(log.folder)] == [1, 2, 3, 4, 5]
    with (log.folder / "steps.jsonl").open("a") as stream:
        stream.write('{"step": 6, "lo')  # a process that was killed while it wrote
    run()
    logged = lines(log.folder)
    assert [line["step"] for line in logged] == list(range(1, 11))
    assert [line["epoch"] for line in logged] == [0] * 5 + [1] * 5
    step = {"step", "steps", "epoch", "loss", "learning_rate", "pairs_per_second"}
    assert set(logged[0]) == {*step, "logit_scale"}
    # the same losses as without a stop
    tune(epochs=2, log=LogOptions(tmp_path / "whole"))
    assert [line["loss"] for line in lines(tmp_path / "whole")] == [line["loss"] for line in logged]


def test_tensorboard(tune: Tune, tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs the extra tensorboard",
    )
    tune(epochs=2, log=LogOptions(tmp_path, ["tensorboard"]))
    events = [path for path in tmp_path.rglob("*tfevents*") if path.parent.name == "mmpoison"]
    assert len(events) == 1
    found = event_accumulator.EventAccumulator(str(events[0]))
    found.Reload()
    losses = found.Scalars("train/loss")
    assert [event.step for event in losses] == [1, 10]
    assert losses[1].value == pytest.approx(lines(tmp_path)[-1]["loss"], rel=1e-6)


def test_trackers_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown tracker 'notebook': choose one of tensorboard"):
        LogOptions(tmp_path, ["notebook"]).check()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'mmpoison\[wandb\]'"):
        LogOptions(tmp_path, ["wandb"]).check()


# -- a training that goes wrong stops, and what was good before is kept ------------------------------


def test_an_explosion_is_noticed_and_a_spike_is_not() -> None:
    guard = LossGuard(batch_size=32, factor=3)
    for step in range(100):
        # every seventh step is ten times as bad: a mean of 2.4 times log(32)
        guard.check(35.0 if step > 20 and step % 7 == 0 else 3.4, step)
    for step in range(100, 120):  # the end of the spikes is in the window still
        guard.check(5.0, step)
    for step in range(120, 135):
        guard.check(12.0, step)
    with pytest.raises(DivergedError, match=r"has exploded: .* on average over the last 20"):
        guard.check(12.0, 135)


@pytest.mark.parametrize("kept", [True, False])
def test_the_last_good_model_is_kept_and_named(tune: Tune, tmp_path: Path, kept: bool) -> None:
    good: dict[str, torch.Tensor] = {}

    def spoil(step: Step, student: DualEncoder) -> None:
        if step.step == 4:
            good.update(state(student))
        if step.step == 5:
            with torch.no_grad():
                student.module.text_projection.fill_(float("nan"))  # type: ignore[operator]

    checkpoints = Checkpoints(tmp_path / "states", steps=1) if kept else None
    with pytest.raises(DivergedError) as caught:
        tune(epochs=2, on_step=spoil, checkpoints=checkpoints)
    message = str(caught.value)
    assert message.startswith("the loss is nan at step 6: lower the learning rate (0.001); ")
    assert "\n" not in message
    if not kept:
        assert "no earlier state was saved" in message
        return
    folder = tmp_path / "states" / "last-good"
    assert f"the last good model, of step 4, is in {folder}" in message
    model = load_checkpoint(folder)
    assert all(torch.equal(v, good[k]) for k, v in model.module.state_dict().items())
