"""Runs a sweep: every run in a worker, failures listed and not fatal.

What runs share (the aligned start, the clean model) is made once by the first of them: the content cache lets the
others wait for it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmpoison.runs.recipe import Recipe
from mmpoison.runs.sweeps.folder import Failure, SweepFolder
from mmpoison.runs.sweeps.sweep_runs import Sweep, SweepRun
from mmpoison.runs.sweeps.workers import LocalWorker, Reply, Task, Worker

POLL, SHOW_EVERY = 0.02, 0.5


@dataclass
class SweepState:
    """The progress of a sweep.

    Attributes:
        total: Runs in all.
        found: Runs that were complete before.
        done: Runs done now: id and seconds.
        failed: Runs given up.
        at: For each worker that is busy the task, what it is doing, and since when.
    """

    total: int
    found: int = 0
    done: list[tuple[str, float]] = field(default_factory=list)
    failed: dict[str, Failure] = field(default_factory=dict)
    at: list[tuple[str, str, float]] = field(default_factory=list)

    @property
    def left(self) -> int:
        """How many runs are neither done nor finally failed."""
        return self.total - self.found - len(self.done) - len(self.failed)


OnChange = Callable[[SweepState], None]


def run_sweep(
    sweep: Sweep,
    out: Path,
    *,
    workers: int = 1,
    threads: int = 1,
    retries: int = 1,
    ray: str | None = None,
    device: str = "cpu",
    save_models: bool | None = None,
    on_change: OnChange = lambda state: None,
) -> SweepState:
    """Run all runs of a sweep that are not complete.

    The results do not depend on the number of workers nor on where they are. They may depend, in the last bits, on the
    threads of each worker and on its kind of CPU.

    Args:
        sweep: The runs.
        out: The folder: new, empty, or of an earlier try.
        workers: Processes, each with one run at a time.
        threads: Threads of each.
        retries: How often a run is repeated that crashed or met an error of the machine; an input that is refused is
            not tried again.
        ray: Address of a Ray cluster whose workers do it, or `local`; by default processes of this machine.
        device: Where each worker computes.
        save_models: Save the checkpoints in the run folders; by default what the recipe says.
        on_change: Called with the state, twice a second and at each change.

    Returns:
        The state at the end.

    Raises:
        InputError: If the folder is another sweep's, or there is no such cluster.
    """
    folder = SweepFolder(out)
    folder.check(sweep)
    missing = folder.missing(sweep)
    keep = sweep.part.models if save_models is None else save_models
    state = SweepState(len(sweep.runs), found=len(sweep.runs) - len(missing))
    if missing:
        # a cluster that is not there is refused before anything is written
        crew = _workers(min(workers, len(missing)), threads, ray)
    folder.claim(sweep)
    if missing:
        try:
            _Dispatch(folder, state, retries, on_change).run(
                [_task(folder, run, keep, device) for run in missing], crew
            )
        finally:
            for worker in crew:
                worker.stop()
    folder.write_failures(state.failed)
    on_change(state)
    return state


def _workers(count: int, threads: int, ray: str | None) -> Sequence[Worker]:
    if ray is None:
        return [LocalWorker(threads) for _ in range(count)]
    from mmpoison.runs.sweeps.ray_workers import RayWorker, connect

    connect(ray, count, threads)
    return [RayWorker(threads) for _ in range(count)]


def _task(folder: SweepFolder, run: SweepRun, keep: bool, device: str) -> Task:
    group = shared_part(run.recipe)
    return Task(run.id, run.recipe, folder.run_folder(run.id), keep, device, group)


def shared_part(recipe: Recipe) -> str:
    """Return what the data and the clean model of a recipe depend on: equal for runs that share them."""
    value = recipe.model_dump(mode="json", include={"seed", "data", "model", "training"})
    return json.dumps(value, sort_keys=True)


class _Dispatch:
    def __init__(
        self, folder: SweepFolder, state: SweepState, retries: int, on_change: OnChange
    ) -> None:
        self.folder, self.state = folder, state
        self.retries, self.on_change = retries, on_change
        self.waiting: list[Task] = []
        self.tries: dict[str, int] = {}

    def run(self, tasks: list[Task], workers: Sequence[Worker]) -> None:
        """Run the tasks."""
        self.waiting = tasks
        busy: dict[int, tuple[Task, float]] = {}
        last: dict[int, str] = {}
        shown = 0.0
        while self.waiting or busy:
            for number, worker in enumerate(workers):
                if number not in busy and self.waiting:
                    task = self._next(last.get(number), set(last.values()))
                    busy[number] = (task, time.monotonic())
                    last[number] = task.group
                    worker.submit(task)
                    shown = 0.0
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

    def _next(self, last: str | None, groups: set[str]) -> Task:
        """Choose a run of the group that the worker has loaded, else of one that no worker has, so that few wait."""
        ranked = sorted(
            self.waiting, key=lambda task: (task.group != last, task.group in groups)
        )  # stable: in the order of the runs
        self.waiting.remove(ranked[0])
        return ranked[0]

    def _end(self, task: Task, reply: Reply, seconds: float) -> None:
        tries = self.tries[task.id] = self.tries.get(task.id, 0) + 1
        if reply.error is None:
            self.state.done.append((task.id, seconds))
        elif reply.retry and tries <= self.retries:
            self.waiting.append(task)
        else:
            self.state.failed[task.id] = Failure(task.id, reply.error, tries, reply.detail)
            self.folder.write_failures(self.state.failed)

    def _show(self, workers: Sequence[Worker], busy: dict[int, tuple[Task, float]]) -> None:
        self.state.at = [
            (task.id, workers[number].at, begun) for number, (task, begun) in sorted(busy.items())
        ]
        self.on_change(self.state)
