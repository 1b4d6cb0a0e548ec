"""Two processes that share a batch do what one does with all of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tests.training.conftest import Make, fake_processes
from torch import Tensor

import mmpoison
from mmpoison.datasets import PairDataset
from mmpoison.errors import InputError, MmpoisonWarning
from mmpoison.models import load_checkpoint, prepare_pixels, save_checkpoint
from mmpoison.training import TrainingSettings, finetune
from mmpoison.training.processes import Processes
from mmpoison.training.settings import Plan

HERE = Path(__file__).parent


def in_processes(count: int, command: list[str], folder: Path) -> None:
    """Run a command in several processes, as `torchrun` starts them, which itself takes seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ,
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    running = []
    for rank in range(count):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)}
        with (folder / f"log{rank}").open("w") as log:
            running.append(
                subprocess.Popen(
                    command, env={**common, **place}, stdout=log, stderr=subprocess.STDOUT
                )
            )
    try:
        codes = [process.wait(900) for process in running]
    finally:
        for process in running:
            process.kill()
    logs = "\n".join((folder / f"log{rank}").read_text() for rank in range(count))
    assert codes == [0] * count, logs


@pytest.fixture(scope="module")
def vit_checkpoint(
    make_encoder: Make, vit_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Without batch normalisation, which would see half a batch."""
    out = tmp_path_factory.mktemp("models") / "vit"
    return save_checkpoint(make_encoder(0, vit_config), out, card="# vit\n")


@pytest.fixture(scope="module")
def both(
    square_folder: Path, vit_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What one process finds, and what two find."""
    sys.path.insert(0, str(HERE))
    try:
        from two_processes import train  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(HERE))
    folder = tmp_path_factory.mktemp("processes")
    out = folder / "found.safetensors"
    script = str(HERE / "two_processes.py")
    in_processes(
        2, [sys.executable, script, str(square_folder), str(vit_checkpoint), str(out)], folder
    )
    return train(square_folder, vit_checkpoint, None), safetensors.torch.load_file(out)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["plain", "chunks", "image"])
@pytest.mark.parametrize("what", ["losses", "gradient", "weights"])
def test_two_find_what_one_finds(
    both: tuple[dict[str, Tensor], dict[str, Tensor]], variant: str, what: str
) -> None:
    one, two = both
    names = {name for name in one if name.startswith(f"{variant}/{what}")}
    assert names
    assert names == {name for name in two if name.startswith(f"{variant}/{what}")}
    for name in names:
        error = (one[name] - two[name]).norm() / one[name].norm().clamp_min(1e-9)
        assert error < 1e-5, (name, float(error))


@pytest.mark.slow
def test_the_command_line_in_two_processes(
    square_folder: Path, vit_checkpoint: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 32, "precision": "fp32"}
    settings |= {"eps": 0.01, "learning_rate": 1e-3}
    one = tmp_path / "one"
    mmpoison.finetune(
        vit_checkpoint, square_folder, out=one, device="cpu", progress=False, **settings
    )
    command = [
        *(sys.executable, "-m", "mmpoison", "train", "--data", str(square_folder)),
        *("--model", str(vit_checkpoint), "--device", "cpu", "--out", str(tmp_path / "two")),
        *(word for name, value in settings.items() for word in ("--set", f"{name}={value}")),
    ]
    logs = tmp_path / "logs"
    logs.mkdir()
    in_processes(2, command, logs)
    assert "5 steps" in (logs / "log0").read_text()
    alone, both = (load_checkpoint(tmp_path / name).module.state_dict() for name in ("one", "two"))
    for key, value in alone.items():
        torch.testing.assert_close(value, both[key], atol=1e-5, rtol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "one", "two"]
    lines = (tmp_path / "two" / "logs" / "steps.jsonl").read_text().splitlines()
    assert len(lines) == 5


def test_every_pair_of_a_batch_is_taken_once() -> None:
    settings = TrainingSettings(batch_size=31, chunk_size=4)
    plan = Plan(100, settings, seed=0, processes=3)
    for step in range(plan.steps_per_epoch):
        batch = plan.batch(step)
        taken: list[int] = []
        counts = set()
        for rank in range(3):
            processes = Processes(torch.device("cpu"))
            processes.rank, processes.count = rank, 3
            chunks = plan.chunks(processes.share(batch), processes.shares(len(batch)))
            assert all(0 < len(chunk) <= 4 for chunk in chunks)
            counts.add(len(chunks))
            taken += [int(pair) for chunk in chunks for pair in chunk]
        assert taken == batch.tolist()
        # DDP averages once a step: everyone must have as many forward passes
        assert len(counts) == 1


def test_a_batch_too_small_to_share(
    make_encoder: Make, squares: PairDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make_encoder()
    train = squares.select(split="train")

    fake_processes(monkeypatch, 8)
    settings = TrainingSettings(batch_size=12)
    with pytest.raises(InputError, match="batch size 12 is too small for 8 processes"):
        finetune(encoder, train, prepare_pixels(encoder, train), settings, seed=0)


def test_batch_normalisation_sees_a_share(
    make_encoder: Make, squares: PairDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make_encoder()
    train = squares.select(split="train")

    def stop(self: Processes, module: object) -> None:
        raise InterruptedError

    fake_processes(monkeypatch, 2)
    monkeypatch.setattr(Processes, "wrap", stop)
    inputs = prepare_pixels(encoder, train)
    with (
        pytest.warns(MmpoisonWarning, match="which sees the share of one of 2 processes"),
        pytest.raises(InterruptedError),
    ):
        finetune(encoder, train, inputs, TrainingSettings(batch_size=12), seed=0)
