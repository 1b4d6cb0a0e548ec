"""The workers of a sweep. Each runs one task at a time in its own process, which caches loaded data and models."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from mmpoison.base.extras import require
from mmpoison.base.files import atomic_file, no_memory, refused_without_room
from mmpoison.base.processes import (
    begin_worker,
    cores,
    find_gpus,
    gpu_number,
    only_gpu,
)
from mmpoison.base.progress import Progress, RunProgress, StepProgress, silent
from mmpoison.base.registry import plugin_fault
from mmpoison.base.text import count_of
from mmpoison.errors import InputError, ResultError, WorkStopped

Report = Callable[[str], None]


class Task(Protocol):
    """A unit of work for a worker process: a run, part of a matrix, or a shard of a scan."""

    @property
    def id(self) -> str:
        """The task's name, unique among the tasks."""
        ...

    @property
    def group(self) -> tuple[str, ...]:
        """What it shares with other tasks, in order: for example data, then a model.

        Longer common prefixes share more.
        """
        ...

    @property
    def out(self) -> Path:
        """The output folder. Two processes never work on the same one at a time."""
        ...

    def run(self, shared: dict[str, Any], progress: RunProgress) -> None:
        """Run the task, or do nothing if it is done.

        Args:
            shared: Objects shared by this worker's tasks, such as loaded data; includes `threads` if it is set.
            progress: Reports the progress.

        Raises:
            InputError: If the input is at fault, so a retry would also fail.
        """
        ...


@dataclass(frozen=True)
class Reply:
    """The outcome of a task.

    Attributes:
        error: None if the task is done; else the reason in one line.
        detail: Stack trace of an unexpected error.
        retry: Whether a retry may succeed: not if the input or a plug-in is at fault.
        stops: Whether other tasks would fail too: disk full, out of memory, changed input, a killed process.
    """

    error: str | None = None
    detail: str = ""
    retry: bool = False
    stops: bool = False


DIED = Reply(
    "the process that ran it died (was it killed, or out of memory?)", retry=True, stops=True
)


class Worker(Protocol):
    """The interface of workers: `LocalWorker`, or `RayWorker` on a cluster."""

    at: str
    """What its task is doing, as text for display."""

    waits: bool
    """Whether its task is waiting for a core held by other workers."""

    def submit(self, task: Task) -> None:
        """Start a task after the previous one is done. A dead process is replaced."""

    def reply(self) -> Reply | None:
        """Return the task's reply, or None if it is not done; update `at`."""

    def stop(self) -> None:
        """End the worker."""


class TaskRunner:
    """Runs tasks in the worker process."""

    def __init__(self, threads: int | None) -> None:
        self._shared: dict[str, Any] = {} if threads is None else {"threads": threads}

    def __call__(self, task: Task, report: Report = lambda text: None) -> Reply:
        """Run a task. Only exceptions that end the process propagate."""
        try:
            with refused_without_room(task.out), _folder_lock(task.out):
                task.run(self._shared, TaskProgress(report))
            return Reply()
        except (InputError, ResultError) as error:
            return Reply(" ".join(str(error).split()), stops=isinstance(error, WorkStopped))
        except Exception as error:
            fault = None if no_memory(error) else plugin_fault(error)
            line = fault or " ".join(f"{type(error).__name__}: {error}".split())
            retry = fault is None or isinstance(error, OSError)
            return Reply(line, traceback.format_exc(), retry, isinstance(error, MemoryError))


def _folder_lock(out: Path) -> Any:
    """Return a lock on a run folder, which the system releases if the process dies."""
    from filelock import FileLock

    locks = out.parent.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / f"{out.parent.name}-{out.name}.lock", poll_interval=0.2)


class TaskProgress:
    """Reports briefly what a task is doing."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def say(self, message: str) -> None:
        """Drop the line: with many runs at a time nobody would read it."""

    def progress(self, what: str) -> Progress:
        """Report the step once."""
        self._report(what)
        return silent(what)

    def training(self, what: str) -> StepProgress:
        """Report every fifty training steps."""
        self._report(what)

        def step(done: Any, encoder: Any) -> None:
            if done.step % 50 == 0 or done.step == done.steps:
                self._report(f"{what} {done.step}/{done.steps}")

        return step


def environment(threads: int, gpu: str | None = None) -> dict[str, str]:
    """Return the environment of a worker process, which must be set before it imports torch.

    Args:
        threads: Of the process.
        gpu: The only GPU it sees, named as in `CUDA_VISIBLE_DEVICES`; None inherits the environment's.
    """
    from mmpoison.base.files import cache_folder

    number = str(threads)
    return {
        "OMP_NUM_THREADS": number,
        "MKL_NUM_THREADS": number,
        "MMPOISON_CACHE": str(cache_folder().absolute()),
        **({} if gpu is None else only_gpu(gpu)),
        **({"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}),
    }


class ThisProcess:
    """A worker that runs tasks in the calling process, one after another. Scripts need no `__main__` guard."""

    def __init__(self) -> None:
        self._runner = TaskRunner(None)
        self._reply: Reply | None = None
        self.at = ""
        self.waits = False

    def submit(self, task: Task) -> None:
        """Run a task."""
        self.at = task.id
        self._reply = self._runner(task)

    def reply(self) -> Reply | None:
        """Return the reply of the last task."""
        return self._reply

    def stop(self) -> None:
        """Do nothing."""


class LocalWorker:
    """A process on this machine, which receives tasks through a pipe.

    Args:
        threads: Of the process.
        gpu: The only GPU it sees, named as in `CUDA_VISIBLE_DEVICES`.
    """

    def __init__(self, threads: int, gpu: str | None = None) -> None:
        self._threads, self._gpu = threads, gpu
        self._process: Any = None
        self._pipe: Any = None
        self.at = ""
        self.waits = False

    def submit(self, task: Task) -> None:
        """Start a task, and the process if there is none."""
        if self._process is None or not self._process.is_alive():
            self._start()
        self.at = "starting"
        try:
            self._pipe.send(task)
        except OSError:
            self._start()
            self._pipe.send(task)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        own = environment(self._threads, self._gpu)
        before = {name: os.environ.get(name) for name in own}
        os.environ.update(own)
        try:
            self._process = context.Process(
                target=_work, args=(theirs, self._threads, os.getpid()), daemon=True
            )
            self._process.start()
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                os.environ.update({} if value is None else {name: value})
        theirs.close()

    def reply(self) -> Reply | None:
        """Return the task's reply, or None if it is not done; update `at`."""
        try:
            while self._pipe.poll():
                received = self._pipe.recv()
                if isinstance(received, Reply):
                    return received
                self.at = str(received)
        except (EOFError, OSError):
            self._process.join(5)
            self._process = None
            return DIED
        return None

    def pid(self) -> int:
        """Return the id of the process."""
        return int(self._process.pid)

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.terminate()
            self._process.join(10)


def _work(pipe: Connection, threads: int, parent: int) -> None:
    begin_worker(parent)
    runner = TaskRunner(threads)
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(runner(task, pipe.send))


# -- Workers of a sweep on a Ray cluster: one actor each. They share only the file system.


LOCAL, AUTO = "local", "auto"
KNOCK_S = 5.0
"""Seconds that a cluster has to answer at its address; Ray itself tries for minutes."""


def connect(address: str, workers: int, threads: int) -> None:
    """Join a cluster, or start one on this machine.

    Args:
        address: `local`, `auto`, `HOST:PORT` or `ray://HOST:PORT`.
        workers: Number of workers; also the number of cores of a local cluster.
        threads: Threads per worker.

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
    """Count the cluster's GPUs available to workers; 0 if they compute on the CPU.

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
    """Refuse an address that does not answer."""
    parts = re.fullmatch(
        r"(?:ray://)?(?:\[(?P<six>[^\]]+)\]|(?P<host>[^:/\s]+)):(?P<port>\d+)", address
    )
    if parts is None or not 0 < int(parts["port"]) < 1 << 16:
        raise InputError(f"--ray {address}: give local, auto, HOST:PORT or ray://HOST:PORT")
    try:
        with socket.create_connection((parts["six"] or parts["host"], int(parts["port"])), KNOCK_S):
            pass
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"--ray {address}: no Ray cluster answers ({reason})") from None


class RayWorker:
    """An actor of a Ray cluster.

    Args:
        threads: Threads of its process, and cores that Ray reserves for it.
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
        """Return the task's reply, or None if it is not done."""
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
        # Ray starts processes in the node's folder; relative paths refer to the driver's
        with suppress(OSError):
            os.chdir(folder)
        self._runner = TaskRunner(threads)

    def do(self, task: Task) -> Reply:
        return self._runner(task)

    def pid(self) -> int:
        return os.getpid()


# -- Chooses the number of workers of a sweep and their devices.


@dataclass(frozen=True)
class Placement:
    """The workers of a sweep.

    Attributes:
        count: Number of workers.
        device: Device name that each worker resolves in its own process (`find_device`).
        threads: Threads per worker.
        gpus: GPUs of this machine that workers take in turn, named as in `CUDA_VISIBLE_DEVICES`; empty on the CPU and
            on a cluster.
        ray: Address of a Ray cluster, or `local`; None runs on this machine without Ray.
        chosen: Whether the user chose the count.
    """

    count: int
    device: str = "cpu"
    threads: int = 1
    gpus: tuple[str, ...] = ()
    ray: str | None = None
    chosen: bool = True

    @property
    def by_cluster(self) -> bool:
        """Whether the cluster's number of GPUs, if any, sets the number of workers."""
        return self.ray is not None and self.device != "cpu" and not self.chosen

    def gpu(self, worker: int) -> str | None:
        """Return the GPU of a worker on this machine. Workers share GPUs if there are more workers than GPUs."""
        return self.gpus[worker % len(self.gpus)] if self.gpus else None

    def describe(self, tasks: int | None = None) -> str:
        """Describe the workers as text, counting no more workers than tasks.

        >>> Placement(4, "cuda", gpus=("0", "1")).describe()
        '4 workers on 2 GPUs'
        """
        count = max(1, self.count if tasks is None else min(self.count, tasks))
        if self.by_cluster:
            return f"one worker for each GPU of the cluster, or {count_of(count, 'worker')} without GPUs"
        used = min(count, len(self.gpus))
        return count_of(count, "worker") + (f" on {count_of(used, 'GPU')}" if used else "")


def place_workers(
    workers: int | None, device: str, *, threads: int = 1, ray: str | None = None
) -> Placement:
    """Choose the number of workers and their devices, without starting them.

    Args:
        workers: Number of workers; by default one per GPU, or the number that this machine's cores can serve.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; on a cluster each worker finds its own.
        threads: Threads per worker.
        ray: Address of a cluster, or None.

    Raises:
        InputError: If there is no such device, or a GPU number is given for a cluster.
    """
    number = gpu_number(device)
    by_cores = workers or max(1, cores() // threads)
    if ray is not None:
        if number is not None:
            raise InputError(f"--device {device}: Ray chooses the GPU of each worker: write cuda")
        return Placement(by_cores, device, threads, (), ray, workers is not None)
    gpus = find_gpus(device)
    if gpus:
        return Placement(workers or len(gpus), "cuda", threads, gpus, None, workers is not None)
    return Placement(by_cores, "cpu", threads, (), None, workers is not None)


# -- Dispatches tasks to workers, and tracks their progress.


POLL, SHOW_EVERY = 0.02, 0.5


@dataclass(frozen=True)
class Failure:
    """A run that failed.

    Attributes:
        run: Its id.
        error: The reason, in one line.
        tries: Number of attempts.
        detail: The stack trace, unless the user's input is at fault.
        stops: As for `Reply`.
    """

    run: str
    error: str
    tries: int
    detail: str = ""
    stops: bool = False


@dataclass
class SweepState:
    """The progress of a sweep, or of a matrix.

    Attributes:
        total: Runs in all.
        found: Runs that were already complete.
        done: Runs finished now: id and seconds.
        failed: Runs that failed for good.
        at: For each busy worker, its task and what the task is doing.
    """

    total: int
    found: int = 0
    done: list[tuple[str, float]] = field(default_factory=list)
    failed: dict[str, Failure] = field(default_factory=dict)
    at: list[tuple[str, str]] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Number of runs that are neither done nor failed for good."""
        return self.total - self.found - len(self.done) - len(self.failed)


OnChange = Callable[[SweepState], None]


def make_workers(placement: Placement, tasks: int, *, alone_here: bool = False) -> Sequence[Worker]:
    """Create workers on this machine or on a Ray cluster.

    Args:
        placement: Number of workers and their devices.
        tasks: Number of tasks, the upper limit for workers.
        alone_here: If there is a single worker and no cluster, run its tasks in this process.

    Raises:
        InputError: If there is no such cluster, or it lacks a requested GPU.
    """
    threads, ray = placement.threads, placement.ray
    count = max(1, min(placement.count, tasks))
    if ray is None and count == 1 and alone_here:
        return [ThisProcess()]
    if ray is None:
        return [LocalWorker(threads, placement.gpu(number)) for number in range(count)]

    connect(ray, count, threads)
    gpus = cluster_gpus(placement.device)
    if gpus and placement.by_cluster:
        count = max(1, min(gpus, tasks))
    return [RayWorker(threads, gpus=1 if gpus else 0) for _ in range(count)]


def shared(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """Return the length of the common prefix of two groups.

    >>> shared(("data", "model"), ("data", "other")), shared(("data",), ())
    (1, 0)
    """
    same = (a == b for a, b in zip(one, other, strict=False))
    return sum(takewhile(bool, same))


class Dispatch:
    """Dispatches tasks to workers until all are done or have failed.

    Args:
        state: The progress, changed in place.
        retries: Number of retries for a task after a crash or a machine error.
        on_change: Called with the state twice a second and at every change.
        on_failure: Called with all failures when there is a new one.
    """

    def __init__(
        self,
        state: SweepState,
        retries: int,
        on_change: OnChange,
        on_failure: Callable[[dict[str, Failure]], None],
    ) -> None:
        self.state, self.retries = state, retries
        self.on_change, self.on_failure = on_change, on_failure
        self.waiting: list[Task] = []
        self.tries: dict[str, int] = {}

    def run(self, tasks: list[Task], workers: Sequence[Worker]) -> None:
        """Run the tasks."""
        self.waiting = tasks
        busy: dict[int, tuple[Task, float]] = {}
        last: dict[int, tuple[str, ...]] = {}
        shown = 0.0
        while self.waiting or busy:
            for number, worker in enumerate(workers):
                if number not in busy and self.waiting:
                    task = self._next(last.get(number, ()), set(last.values()))
                    busy[number] = (task, time.monotonic())
                    last[number] = task.group
                    worker.submit(task)
                    shown = 0.0
            if any(workers[number].waits for number in busy):
                # with fewer cores than workers, idle workers must return their core; otherwise the task waits forever
                for number in set(range(len(workers))) - set(busy):
                    workers[number].stop()
            for number in list(busy):
                reply = workers[number].reply()
                if reply is None:
                    continue
                task, begun = busy.pop(number)
                self._end(task, reply, time.monotonic() - begun)
                shown = 0.0
            if time.monotonic() - shown > SHOW_EVERY:
                shown = time.monotonic()
                self._show(workers, busy)
            time.sleep(POLL)

    def _next(self, last: tuple[str, ...], groups: set[tuple[str, ...]]) -> Task:
        """Choose the task that shares most with the worker's loaded data and is in no other worker's group."""
        chosen = min(
            self.waiting, key=lambda task: (-shared(task.group, last), task.group in groups)
        )  # among equals, the first in task order
        self.waiting.remove(chosen)
        return chosen

    def _end(self, task: Task, reply: Reply, seconds: float) -> None:
        tries = self.tries[task.id] = self.tries.get(task.id, 0) + 1
        if reply.error is None:
            self.state.done.append((task.id, seconds))
        elif reply.retry and tries <= self.retries:
            self.waiting.append(task)
        else:
            self.state.failed[task.id] = Failure(
                task.id, reply.error, tries, reply.detail, reply.stops
            )
            self.on_failure(self.state.failed)

    def _show(self, workers: Sequence[Worker], busy: dict[int, tuple[Task, float]]) -> None:
        self.state.at = [
            (task.id, workers[number].at) for number, (task, _) in sorted(busy.items())
        ]
        self.on_change(self.state)


FAILURES = "failures.jsonl"


def run_tasks(
    tasks: Sequence[Task],
    state: SweepState,
    out: Path,
    placement: Placement,
    *,
    claim: Callable[[], None],
    is_done: Callable[[str], bool],
    retries: int,
    on_change: OnChange,
) -> SweepState:
    """Run a folder's remaining tasks, and list failures in `failures.jsonl`.

    Args:
        tasks: The tasks.
        state: The progress, changed in place.
        out: The folder.
        placement: The workers and their devices.
        claim: Writes the folder's description, once workers are available.
        is_done: Checks whether the task with an id has its result, whatever its reply.
        retries: Number of retries for a task after a crash or a machine error.
        on_change: Called with the state twice a second and at every change.

    Returns:
        The state at the end.

    Raises:
        InputError: If there is no such device or cluster.
    """
    # refuse a missing cluster before writing anything
    crew = make_workers(placement, len(tasks)) if tasks else []
    claim()

    def write_failures(failures: dict[str, Failure]) -> None:
        left = [failure for name, failure in failures.items() if not is_done(name)]
        if not left:
            (out / FAILURES).unlink(missing_ok=True)
            return
        with atomic_file(out / FAILURES) as temporary:
            lines = "".join(json.dumps(asdict(failure)) + "\n" for failure in left)
            temporary.write_text(lines, encoding="utf-8")

    try:
        if tasks:
            Dispatch(state, retries, on_change, write_failures).run(list(tasks), crew)
    finally:
        for worker in crew:
            worker.stop()
    write_failures(state.failed)
    on_change(state)
    return state
