"""Workers and their GPUs: faked lists of GPUs, real processes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mmpoison.base import workers as module
from mmpoison.base.workers import (
    LocalWorker,
    Placement,
    environment,
    make_workers,
    place_workers,
)
from mmpoison.errors import InputError
from mmpoison.runs.run_all import RunTask

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Writes:
    """A task that writes which GPUs its process sees."""

    out: Path
    id: str = "one"
    group: tuple[str, ...] = ()

    def run(self, loaded: Any, progress: Any) -> None:
        self.out.mkdir(parents=True)
        (self.out / "seen").write_text(os.environ.get(VISIBLE, "none"))


def seen_by(worker: Any, out: Path) -> str:
    worker.submit(Writes(out))
    until = time.monotonic() + 60
    while (reply := worker.reply()) is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert reply.error is None, reply
    return (out / "seen").read_text()


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def make(count: int) -> None:
        monkeypatch.delenv(VISIBLE, raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(module, "cores", lambda: 16)

    return make


def test_a_worker_on_each_gpu_and_not_on_each_core(gpus: Callable[[int], None]) -> None:
    gpus(2)
    assert place_workers(None, "auto") == Placement(2, "cuda", 1, ("0", "1"), None, False)
    assert place_workers(None, "cuda:1").gpus == ("1",)
    assert place_workers(None, "cuda:1").count == 1
    # the CPU is as it was
    assert place_workers(None, "cpu", threads=4) == Placement(4, "cpu", 4, (), None, False)
    assert place_workers(3, "cpu") == Placement(3, "cpu")
    gpus(0)
    assert place_workers(None, "auto") == Placement(16, "cpu", 1, (), None, False)
    with pytest.raises(InputError, match="torch finds no GPU"):
        place_workers(None, "cuda")


def test_a_process_sees_its_gpu_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE, "GPU-1a,GPU-2b")
    worker = LocalWorker(1, "GPU-2b")
    try:
        assert seen_by(worker, tmp_path / "runs" / "own") == "GPU-2b"
    finally:
        worker.stop()
    assert os.environ[VISIBLE] == "GPU-1a,GPU-2b"  # of this process nothing changed
    assert VISIBLE not in environment(1)
    assert environment(1, "3")[VISIBLE] == "3"


def test_a_task_finds_its_device_in_its_own_process(
    tmp_path: Path, gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(1)
    given: list[torch.device] = []
    monkeypatch.setattr(
        "mmpoison.runs.run.run_recipe", lambda *a, device, **more: given.append(device)
    )
    for device in ("cuda", "auto", "cpu"):
        task = RunTask("one", None, tmp_path / device, False, device)  # type: ignore[arg-type]
        task.run({}, None)  # type: ignore[arg-type]
    assert given == [torch.device("cuda", 0), torch.device("cuda", 0), torch.device("cpu")]


class FakeRay(ModuleType):
    """As much of Ray as makes workers, with so many GPUs in its cluster."""

    def __init__(self, gpus: int) -> None:
        super().__init__("ray")
        self.gpus, self.asked = gpus, list[dict[str, Any]]()

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 8.0, **({"GPU": float(self.gpus)} if self.gpus else {})}

    def remote(self, *what: Any) -> Any:
        return self

    def options(self, **asked: Any) -> Any:
        self.asked.append(asked)
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *given: Any, **more: Any) -> Any:
        return self


@pytest.mark.parametrize(
    ("device", "in_cluster", "workers", "made", "each"),
    [
        ("auto", 3, None, 3, 1),
        ("auto", 3, 5, 5, 1),  # Ray makes the others wait
        ("auto", 0, None, 6, 0),
        ("cpu", 3, None, 6, 0),
    ],
)
def test_ray_reserves_a_gpu_for_each_worker(
    gpus: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    in_cluster: int,
    workers: int | None,
    made: int,
    each: int,
    tmp_path: Path,
) -> None:
    ray = FakeRay(in_cluster)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(module, "connect", lambda *given: None)
    gpus(0)  # the machine that gives the tasks needs none
    chosen = place_workers(workers, device, ray="auto")
    assert chosen.device == device  # each worker finds its own
    crew = make_workers(chosen, 6)
    assert len(crew) == made
    crew[0].submit(Writes(tmp_path))
    assert [asked["num_gpus"] for asked in ray.asked] == [each]
    assert crew[0].at == ("waiting for a free GPU" if each else "waiting for a free core")


def test_what_a_cluster_cannot_give_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="Ray chooses the GPU of each worker: write cuda"):
        place_workers(None, "cuda:1", ray="auto")
    with pytest.raises(InputError, match="write auto, cpu, cuda or cuda:N"):
        place_workers(None, "gpu", ray="auto")
    monkeypatch.setitem(sys.modules, "ray", FakeRay(0))
    with pytest.raises(InputError, match="the Ray cluster has no GPU"):
        module.cluster_gpus("cuda")


def test_workers_of_a_cluster_are_described() -> None:
    assert Placement(2, "auto", ray="auto", chosen=False).describe() == (
        "one worker for each GPU of the cluster, or 2 workers without GPUs"
    )
    assert Placement(2, "auto", ray="auto").describe() == "2 workers"
    assert Placement(2, "cpu", ray="auto", chosen=False).describe() == "2 workers"
