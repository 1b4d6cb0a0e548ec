"""The workers of a sweep: each does one task at a time in a process of its own, which caches what it has loaded."""

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
from mmpoison.base.phrasing import count_of
from mmpoison.base.processes import (
    begin_worker,
    cores,
    find_gpus,
    gpu_number,
    only_gpu,
)
from mmpoison.base.progress import Progress, RunProgress, StepProgress, silent
from mmpoison.base.registry import plugin_fault
from mmpoison.errors import InputError, ResultError, WorkStopped

Report = Callable[[str], None]


class Task(Protocol):
    """A piece of work that a worker does in its own process: a run, a piece of a matrix, a shard of a scan."""

    @property
    def id(self) -> str:
        """Its name among the tasks."""
        ...

    @property
    def group(self) -> tuple[str, ...]:
        """What it shares with other tasks, such as loaded data, and then a model: the longer the same, the more."""
        ...

    @property
    def out(self) -> Path:
        """The folder that it writes; two processes never do the same one at a time."""
        ...

    def run(self, shared: dict[str, Any], progress: RunProgress) -> None:
        """Do the work, or nothing where it is done.

        Args:
            shared: What tasks of this worker share, such as loaded data; `threads` is there where it has a number.
            progress: Reports the progress.

        Raises:
            InputError: If the input is to blame; another attempt would fail too.
        """
        ...


@dataclass(frozen=True)
class Reply:
    """The outcome of a task.

    Attributes:
        error: None if it is done; else why it is not, one line.
        detail: Stack trace of what was not expected.
        retry: Whether another attempt may go better: not where the input or a plug-in is to blame.
        stops: Whether other tasks would meet it too: no room, no memory, a changed input, a process that was killed.
    """

    error: str | None = None
    detail: str = ""
    retry: bool = False
    stops: bool = False


DIED = Reply(
    "the process that ran it died (was it killed, or out of memory?)", retry=True, stops=True
)


class Worker(Protocol):
    """A worker, as the sweep sees it: `LocalWorker`, or `RayWorker` on a cluster."""

    at: str
    """What its task is doing, for people."""

    waits: bool
    """Whether its task waits for a core that other workers hold."""

    def submit(self, task: Task) -> None:
        """Start a task; the one before it is done. A process that has died is replaced."""

    def reply(self) -> Reply | None:
        """Return the reply of the task, or None if it is not done; updates `at`."""

    def stop(self) -> None:
        """End the worker."""


class TaskRunner:
    """Runs tasks in the worker's process."""

    def __init__(self, threads: int | None) -> None:
        self._shared: dict[str, Any] = {} if threads is None else {"threads": threads}

    def __call__(self, task: Task, report: Report = lambda text: None) -> Reply:
        """Run a task; only exceptions that end the process are raised."""
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
    """Return a lock on a run folder, which the system takes back from a process that dies."""
    from filelock import FileLock

    locks = out.parent.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / f"{out.parent.name}-{out.name}.lock", poll_interval=0.2)


class TaskProgress:
    """Reports in short what a task is doing."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def say(self, message: str) -> None:
        """Drop the line: with many runs at a time it would not be read."""

    def progress(self, what: str) -> Progress:
        """Report the step once."""
        self._report(what)
        return silent(what)

    def training(self, what: str) -> StepProgress:
        """Report every fifty steps of a training."""
        self._report(what)

        def step(done: Any, encoder: Any) -> None:
            if done.step % 50 == 0 or done.step == done.steps:
                self._report(f"{what} {done.step}/{done.steps}")

        return step


def environment(threads: int, gpu: str | None = None) -> dict[str, str]:
    """Return the environment of a worker process, set before torch is imported there.

    Args:
        threads: Of the process.
        gpu: The one GPU that it sees, as `CUDA_VISIBLE_DEVICES` names it; None leaves what it inherits.
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
    """Does its tasks in the process that gives them, one after the other; a script that calls it needs no guard."""

    def __init__(self) -> None:
        self._runner = TaskRunner(None)
        self._reply: Reply | None = None
        self.at = ""
        self.waits = False

    def submit(self, task: Task) -> None:
        """Do a task."""
        self.at = task.id
        self._reply = self._runner(task)

    def reply(self) -> Reply | None:
        """Return the reply of the last task."""
        return self._reply

    def stop(self) -> None:
        """Do nothing."""


class LocalWorker:
    """A process on this machine, which gets its tasks through a pipe.

    Args:
        threads: Of the process.
        gpu: The one GPU that it sees, as `CUDA_VISIBLE_DEVICES` names it.
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
        """Return the reply of the task, or None if it is not done; updates `at`."""
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


# -- Workers of a sweep on a Ray cluster: one actor each. Nothing is shared but the file system.


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


# -- Decides how many workers a sweep has, and where each computes.


@dataclass(frozen=True)
class Placement:
    """The workers of a sweep.

    Attributes:
        count: How many.
        device: What each finds its device by (`find_device`), in its own process.
        threads: Of each worker.
        gpus: GPUs of this machine that the workers take in turn, as `CUDA_VISIBLE_DEVICES` names them; empty on the
            CPU and on a cluster.
        ray: Address of a Ray cluster whose workers do it, or `local`; None on this machine.
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
        """Whether the number of workers is that of a cluster's GPUs, if it has any."""
        return self.ray is not None and self.device != "cpu" and not self.chosen

    def gpu(self, worker: int) -> str | None:
        """Return the GPU of a worker of this machine: its own, or shared where there are more workers than GPUs."""
        return self.gpus[worker % len(self.gpus)] if self.gpus else None

    def describe(self, tasks: int | None = None) -> str:
        """Describe the workers for people; no more of them than tasks are counted.

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
    """Decide how many workers there are and where each computes; nothing is started.

    Args:
        workers: How many; by default one for each GPU, or as many as this machine's cores can serve.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; on a cluster each worker finds its own.
        threads: Of each worker.
        ray: Address of a cluster, or None.

    Raises:
        InputError: If there is no such device, or the number of a GPU is given for a cluster.
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


# -- Gives tasks to workers, and follows their progress.


POLL, SHOW_EVERY = 0.02, 0.5


@dataclass(frozen=True)
class Failure:
    """A run that failed.

    Attributes:
        run: Its id.
        error: Why, one line.
        tries: How many attempts there were.
        detail: The stack trace, where the reason is not the user's input.
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
        found: Runs that were complete before.
        done: Runs done now: id and seconds.
        failed: Runs that failed for good.
        at: For each worker that is busy the task, and what it is doing.
    """

    total: int
    found: int = 0
    done: list[tuple[str, float]] = field(default_factory=list)
    failed: dict[str, Failure] = field(default_factory=dict)
    at: list[tuple[str, str]] = field(default_factory=list)

    @property
    def left(self) -> int:
        """How many runs are neither done nor finally failed."""
        return self.total - self.found - len(self.done) - len(self.failed)


OnChange = Callable[[SweepState], None]


def make_workers(placement: Placement, tasks: int, *, alone_here: bool = False) -> Sequence[Worker]:
    """Make workers on this machine or on a Ray cluster.

    Args:
        placement: How many, and where.
        tasks: How many tasks there are; no more workers are made.
        alone_here: A single worker that is on no cluster does its tasks in this process.

    Raises:
        InputError: If there is no such cluster, or it lacks a GPU that is asked for.
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
    """Return how long the common beginning of two groups is.

    >>> shared(("data", "model"), ("data", "other")), shared(("data",), ())
    (1, 0)
    """
    same = (a == b for a, b in zip(one, other, strict=False))
    return sum(takewhile(bool, same))


class Dispatch:
    """Gives tasks to workers until all are done or have failed.

    Args:
        state: The progress, changed in place.
        retries: How often a task is repeated that crashed or met an error of the machine.
        on_change: Called with the state, twice a second and at each change.
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
                # a cluster with fewer cores than workers: who is idle gives the core back, else the task waits forever
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
        """Choose the task that shares most with what the worker has loaded, and is of no other worker's group."""
        chosen = min(
            self.waiting, key=lambda task: (-shared(task.group, last), task.group in groups)
        )  # the first of these in the order of the tasks
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
    """Run the tasks of a folder that remain; what fails is listed in `failures.jsonl`.

    Args:
        tasks: The tasks.
        state: The progress, changed in place.
        out: The folder.
        placement: Where they run.
        claim: Writes what the folder is of, when it is certain that there are workers.
        is_done: Whether the task of an id has its result, whatever was said of it.
        retries: How often a task is repeated that crashed or met an error of the machine.
        on_change: Called with the state, twice a second and at each change.

    Returns:
        The state at the end.

    Raises:
        InputError: If there is no such device or cluster.
    """
    # a cluster that is not there is refused before anything is written
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
