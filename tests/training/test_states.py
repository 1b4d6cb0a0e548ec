"""A training that was stopped goes on to the same last bit; its state is whole or not there."""

from __future__ import annotations

import errno
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from tests.training.conftest import Make, Stop, Tune, moved, stop_after
from torch import Tensor, nn

from mmpoison.datasets import PairDataset
from mmpoison.errors import InputError
from mmpoison.models import DualEncoder
from mmpoison.training import Checkpoints, Step


@pytest.fixture
def tune(tune: Tune) -> Tune:
    """Two epochs of batches of 32 from 140 pairs: five steps each, the last one short."""
    return partial(tune, epochs=2)


@pytest.fixture(scope="module")
def make_dropout_encoder(make_encoder: Make, vit_config: dict[str, Any]) -> Make:
    """An encoder that draws random numbers in every step, and one with running statistics."""

    def make(seed: int = 0) -> DualEncoder:
        encoder = make_encoder(seed, vit_config)
        visual: Any = encoder.module.visual
        visual.ln_post = nn.Sequential(visual.ln_post, nn.Dropout(0.3))
        return encoder

    return make


@pytest.mark.parametrize("kind", ["statistics", "dropout", "chunks"])
def test_stopped_anywhere_the_weights_are_the_same_bits(
    make_encoder: Make,
    make_dropout_encoder: Make,
    tune: Tune,
    tmp_path: Path,
    kind: str,
) -> None:
    encoder = make_encoder() if kind == "statistics" else make_dropout_encoder()
    run = partial(tune, encoder, chunk_size=11 if kind == "chunks" else None)
    whole = run()
    checkpoints = Checkpoints(tmp_path / "states", steps=2)
    resumed = []
    for stop in (3, 6, 9, None):
        try:
            result = run(checkpoints=checkpoints, on_step=stop_after(stop) if stop else None)
        except Stop:
            continue
        resumed.append(result.resumed_from)
        assert not moved(result.encoder, whole.encoder)
        assert result.steps == whole.steps == 10
        for one, other in zip(result.epochs, whole.epochs, strict=True):
            assert (one["loss"], one["learning_rate"]) == (other["loss"], other["learning_rate"])
    assert resumed == [8]
    # a finished training is not done again
    steps: list[Step] = []
    again = run(checkpoints=checkpoints, on_step=lambda step, _: steps.append(step))
    assert not steps
    assert not moved(again.encoder, whole.encoder)


# -- what is on the disk ---------------------------------------------------------------------------


def begun(tune: Tune, checkpoints: Checkpoints) -> Checkpoints:
    """The states of a training that stopped after step 6."""
    with pytest.raises(Stop):
        tune(checkpoints=checkpoints, on_step=stop_after(6))
    return checkpoints


def test_the_last_states_are_kept(tune: Tune, tmp_path: Path) -> None:
    checkpoints = begun(tune, Checkpoints(tmp_path / "states", steps=1, keep=3))
    names = sorted(path.name for path in checkpoints.folder.iterdir())
    assert names == [f"step-00000000{n}.safetensors" for n in (3, 4, 5)]
    checkpoints.clear()
    assert not checkpoints.folder.exists()


def test_one_is_kept_after_every_epoch(tune: Tune, tmp_path: Path) -> None:
    checkpoints = begun(tune, Checkpoints(tmp_path / "states", seconds=3600))
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-000000005.safetensors"]


def test_a_broken_state_is_passed_over(tune: Tune, tmp_path: Path) -> None:
    checkpoints = begun(tune, Checkpoints(tmp_path / "states", steps=1))
    newest = max(checkpoints.folder.iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    (checkpoints.folder / ".step-000000007.safetensors.mmpoison-ab12_xyz").write_bytes(b"half")
    result = tune(checkpoints=checkpoints)
    assert result.resumed_from == 4
    assert not list(checkpoints.folder.glob(".*"))
    assert not moved(result.encoder, tune().encoder)


def test_the_state_of_another_training_is_refused(
    make_encoder: Make, train: PairDataset, tune: Tune, tmp_path: Path
) -> None:
    checkpoints = begun(tune, Checkpoints(tmp_path / "states", steps=1))
    changes: dict[str, dict[str, Any]] = {
        "learning_rate": {"learning_rate": 2e-3},
        "seed": {"seed": 1},
        "model": {"encoder": make_encoder(1)},
        "pairs": {"pairs": train.where(train.image > 0)},
    }
    for other, change in changes.items():
        says = rf"to another training \({other} is .* choose another"
        with pytest.raises(InputError, match=says):
            tune(checkpoints=checkpoints, **change)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (
            errno.ENOSPC,
            r"the state of step 3 cannot be saved .*the disk is full.*resumes at step-000000002",
        ),
        (errno.EIO, r"the state of step 3 cannot be saved .*resumes at step-000000002"),
    ],
)
def test_a_state_that_cannot_be_saved_is_said_and_the_one_before_stays(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int, says: str
) -> None:
    checkpoints = Checkpoints(tmp_path / "states", steps=1)
    save = safetensors.torch.save_file

    def full(tensors: dict[str, Tensor], path: Path, **more: Any) -> None:
        if "step-000000003" in path.name:
            path.write_bytes(b"half")
            raise OSError(fault, "No luck", str(path))
        save(tensors, path, **more)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(InputError, match=says):
        tune(checkpoints=checkpoints)
    assert len(list(checkpoints.folder.iterdir())) == 2
