"""Workers of a sweep on a Ray cluster: one actor each. Nothing is shared but the file system.

Data, the cache folder and the sweep's folder must lie on a disk that all nodes see under the same path, and mmpoison
with the extra `ray` must be installed on each.
"""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmpoison.base.extras import require
from mmpoison.errors import InputError
from mmpoison.runs.sweeps.workers import DIED, Reply, Task, TaskRunner, environment

LOCAL, AUTO = "local", "auto"
KNOCK_S = 5.0
"""How long a cluster may take to answer at its address; Ray itself tries for minutes."""


def connect(address: str, workers: int, threads: int) -> None:
    """Join a cluster, or start one on this machine.

    Args:
        address: `local`, `auto`, `HOST:PORT` or `ray://HOST:PORT`.
        workers: How many workers there will be; a local cluster gets as many cores.
        threads: Of each.

    Raises:
        InputError: If Ray is not installed, or there is no cluster.
    """
    ray = require("ray", "--ray needs Ray")
    if address not in (LOCAL, AUTO):
        _knock(address)
    if ray.is_initialized():
        return
    options: dict[str, Any] = {
        "runtime_env": {"env_vars": environment(threads)},
        "log_to_driver": False,
        "logging_level": "error",
    }
    try:
        if address == LOCAL:
            ray.init(address=LOCAL, num_cpus=workers * threads, include_dashboard=False, **options)
        else:
            ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"--ray {address}: no Ray cluster answers ({reason})") from None


def cluster_gpus(device: str) -> int:
    """Count the GPUs of the cluster that workers may take; 0 if they compute on the CPU.

    Args:
        device: `auto`, `cpu` or `cuda`.

    Raises:
        InputError: If the device is `cuda` and the cluster has no GPU.
    """
    if device == "cpu":
        return 0
    ray = require("ray", "--ray needs Ray")
    count = int(ray.cluster_resources().get("GPU", 0))
    if device == "cuda" and not count:
        raise InputError(
            f"--device {device}: the Ray cluster has no GPU: write auto or cpu, or start a node with --num-gpus"
        )
    return count


def _knock(address: str) -> None:
    """Refuse an address where nothing listens."""
    parts = re.fullmatch(
        r"(?:ray://)?(?:\[(?P<six>[^\]]+)\]|(?P<host>[^:/\s]+)):(?P<port>\d+)", address
    )
    if parts is None or not 0 < int(parts["port"]) < 1 << 16:
        raise InputError(f"--ray {address}: local, auto, HOST:PORT or ray://HOST:PORT are possible")
    try:
        with socket.create_connection((parts["six"] or parts["host"], int(parts["port"])), KNOCK_S):
            pass
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"--ray {address}: no Ray cluster answers ({reason})") from None


class RayWorker:
    """An actor of a Ray cluster.

    Args:
        threads: Of its process, and the cores that Ray reserves for it.
        gpus: GPUs that Ray reserves for it; it sees no others.
    """

    def __init__(self, threads: int, gpus: int = 0) -> None:
        self._threads, self._gpus = threads, gpus
        self._actor: Any = None
        self._begun: Any = None
        self._reply: Any = None
        self.at = ""
        self.waits = False

    def submit(self, task: Task) -> None:
        """Start a task, and an actor if there is none."""
        import ray

        if self._actor is None:
            runner = ray.remote(_Actor).options(
                num_cpus=self._threads, num_gpus=self._gpus, max_concurrency=2
            )
            self._actor = runner.remote(self._threads, str(Path.cwd()))
            self._begun = self._actor.pid.remote()
            free = "GPU" if self._gpus else "core"
            self.at, self.waits = f"waiting for a free {free}", True
        else:
            self.at = "running"
        self._reply = self._actor.do.remote(task)

    def reply(self) -> Reply | None:
        """Return the reply of the task, or None if it is not done."""
        import ray

        if self.waits and ray.wait([self._begun], timeout=0)[0]:
            self.at, self.waits = "running", False
        ready, _ = ray.wait([self._reply], timeout=0)
        if not ready:
            return None
        try:
            reply: Reply = ray.get(self._reply)
        except ray.exceptions.RayError:
            self._actor, self.waits = None, False
            return DIED
        return reply

    def pid(self) -> int:
        """Return the id of the process."""
        import ray

        return int(ray.get(self._actor.pid.remote()))

    def stop(self) -> None:
        """End the actor."""
        import ray

        if self._actor is not None and ray.is_initialized():
            ray.kill(self._actor)
            self._actor, self.waits = None, False


class _Actor:
    def __init__(self, threads: int, folder: str) -> None:
        # Ray starts processes where the node was started; relative paths are those of the driver's folder
        with suppress(OSError):
            os.chdir(folder)
        self._runner = TaskRunner(threads)

    def do(self, task: Task) -> Reply:
        return self._runner(task)

    def pid(self) -> int:
        return os.getpid()
