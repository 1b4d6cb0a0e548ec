"""The workers of a sweep: each does one task at a time in a process of its own, which caches what it has loaded."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mmpoison.base.files import refused_without_room
from mmpoison.base.processes import begin_worker, find_device, only_gpu
from mmpoison.errors import InputError, ResultError, WorkStopped
from mmpoison.runs.progress import Progress, RunProgress

if TYPE_CHECKING:
    # torch takes seconds to import, and not every task needs it
    from mmpoison.runs.recipe import Recipe
    from mmpoison.runs.run_cache import RunCache
    from mmpoison.training.loop import OnStep

Report = Callable[[str], None]


class Task(Protocol):
    """A piece of work that a worker does in its own process: a run, a piece of a matrix, a shard of a scan."""

    @property
    def id(self) -> str:
        """Its name among the tasks."""
        ...

    @property
    def group(self) -> str:
        """Tasks of one group share data and a clean model."""
        ...

    @property
    def out(self) -> Path:
        """The folder that it writes; two processes never do the same one at a time."""
        ...

    def run(self, loaded: Callable[[], RunCache], progress: RunProgress) -> None:
        """Do the work, or nothing where it is done.

        Args:
            loaded: Returns what earlier tasks of the worker have loaded; the first call imports torch.
            progress: Reports the progress.

        Raises:
            InputError: If the input is to blame; another attempt would fail too.
        """
        ...


@dataclass(frozen=True)
class RunTask:
    """One run of a sweep, as `Task`.

    Attributes:
        id: The run's id.
        recipe: The whole recipe.
        out: The run folder.
        save_models: Save the checkpoints in the run folder.
        device: Where to compute, as the worker finds it (`find_device`).
        group: Tasks of one group share data and a clean model.
        evict_models: Delete large models that only this run needs from the cache when it is complete.
    """

    id: str
    recipe: Recipe
    out: Path
    save_models: bool
    device: str
    group: str
    evict_models: bool = False

    def run(self, loaded: Callable[[], RunCache], progress: RunProgress) -> None:
        """Run the recipe, if another sweep has not done it."""
        from mmpoison.runs.run import run_recipe

        if not (self.out / "metrics.json").is_file():
            run_recipe(
                self.recipe,
                self.out,
                progress=progress,
                save_models=self.save_models,
                device=find_device(self.device),
                run_cache=loaded(),
                evict_models=self.evict_models,
            )


@dataclass(frozen=True)
class Reply:
    """The outcome of a task.

    Attributes:
        error: None if it is done; else why it is not, one line.
        detail: Stack trace of what was not expected.
        retry: Whether another attempt may go better: not where the input is to blame.
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
        self._threads = threads
        self._run_cache: RunCache | None = None

    def _loaded(self) -> RunCache:
        if self._run_cache is None:
            import torch

            from mmpoison.runs.run_cache import RunCache

            if self._threads is not None:
                torch.set_num_threads(self._threads)
            self._run_cache = RunCache()
        return self._run_cache

    def __call__(self, task: Task, report: Report = lambda text: None) -> Reply:
        """Run a task; only exceptions that end the process are raised."""
        try:
            with refused_without_room(task.out), _folder_lock(task.out):
                task.run(self._loaded, TaskProgress(report))
            return Reply()
        except (InputError, ResultError) as error:
            return Reply(" ".join(str(error).split()), stops=isinstance(error, WorkStopped))
        except Exception as error:
            line = " ".join(f"{type(error).__name__}: {error}".split())
            return Reply(line, traceback.format_exc(), True, isinstance(error, MemoryError))


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
        return lambda done, total: None

    def training(self, what: str) -> OnStep:
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
