"""Run a sweep: shared stages first and once, every run in a worker, failures listed and not fatal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mmpoison.runs.recipe import Recipe
from mmpoison.runs.sweeps.folder import Failure, SweepFolder
from mmpoison.runs.sweeps.local_workers import LocalLane, wait_local
from mmpoison.runs.sweeps.sweep_runs import Sweep, SweepRun
from mmpoison.runs.sweeps.tasks import Reply, Task

LOOK_EVERY = 0.5


class Lane(Protocol):
    """A worker, as the sweep sees it."""

    at: str

    def submit(self, task: Task) -> None:
        """Hand over a task; the one before it is done."""

    def reply(self) -> Reply | None:
        """The reply of the task, or None if it is not done."""

    def stop(self) -> None:
        """End the worker."""


@dataclass
class SweepState:
    """How far a sweep is.

    Attributes:
        total: Runs in all.
        found: Runs that were complete before.
        done: Runs done now: id and seconds.
        failed: Runs given up.
        at: For each worker that is busy the task, what it is at, and since when.
    """

    total: int
    found: int = 0
    done: list[tuple[str, float]] = field(default_factory=list)
    failed: dict[str, Failure] = field(default_factory=dict)
    at: list[tuple[str, str, float]] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Runs that are neither done nor given up."""
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

    The results do not hang on the number of workers nor on where they are; they may hang, in the last bits, on the
    threads of each.

    Args:
        sweep: The runs.
        out: The folder: new, empty, or of an earlier try.
        workers: Processes, each with one run at a time.
        threads: Threads of each.
        retries: How often a run is tried again that died or met an error of the machine; an input that is refused is
            not tried again.
        ray: Address of a Ray cluster whose workers do it, or `local`; by default processes of this machine.
        device: Where each worker computes.
        save_models: Keep the checkpoints in the run folders; by default what the recipe says.
        on_change: Told of the state, twice a second and at each change.

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
        lanes, wait = _lanes(min(workers, len(missing)), threads, ray)
    folder.claim(sweep)
    if missing:
        try:
            _Dispatch(folder, state, retries, on_change).run(
                [_task(folder, run, keep, device) for run in missing], lanes, wait
            )
        finally:
            for lane in lanes:
                lane.stop()
    folder.write_failures(state.failed)
    on_change(state)
    return state


def _lanes(workers: int, threads: int, ray: str | None) -> tuple[Sequence[Any], Any]:
    if ray is None:
        return [LocalLane(threads) for _ in range(workers)], wait_local
    from mmpoison.runs.sweeps.ray_workers import RayLane, connect, wait_ray

    connect(ray, workers, threads)
    return [RayLane(threads) for _ in range(workers)], wait_ray


def _task(folder: SweepFolder, run: SweepRun, keep: bool, device: str) -> Task:
    group = shared_part(run.recipe)
    return Task(run.id, run.recipe, folder.run_folder(run.id), keep, device, group)


def shared_part(recipe: Recipe) -> str:
    """What the data and the clean model of a recipe hang on: equal for runs that share them."""
    value = recipe.model_dump(mode="json", include={"seed", "data", "model", "training"})
    return json.dumps(value, sort_keys=True)


class _Dispatch:
    def __init__(
        self, folder: SweepFolder, state: SweepState, retries: int, on_change: OnChange
    ) -> None:
        self.folder, self.state = folder, state
        self.retries, self.on_change = retries, on_change
        self.waiting: list[Task] = []
        self.ready: set[str] = set()
        self.tries: dict[str, int] = {}

    def run(
        self,
        tasks: list[Task],
        lanes: Sequence[Lane],
        wait: Callable[[Sequence[Lane], float], None],
    ) -> None:
        """Do the tasks; what a group shares goes before its runs."""
        self.waiting = tasks
        busy: dict[int, tuple[Task, float]] = {}
        last: dict[int, str] = {}
        starting: set[str] = set()
        while self.waiting or busy:
            for number, lane in enumerate(lanes):
                if number not in busy and (task := self._next(last.get(number), starting)):
                    busy[number] = (task, time.monotonic())
                    last[number] = task.group
                    lane.submit(task)
            self._show(lanes, busy)
            wait([lanes[number] for number in busy], LOOK_EVERY)
            for number in list(busy):
                reply = lanes[number].reply()
                if reply is None:
                    continue
                task, begun = busy.pop(number)
                if task.out is None:
                    # what failed there will say so in each run
                    starting.discard(task.group)
                    self.ready.add(task.group)
                else:
                    self._end(task, reply, time.monotonic() - begun)
                self._show(lanes, busy)

    def _next(self, last: str | None, starting: set[str]) -> Task | None:
        """A run whose group is ready, best of the group that the worker has loaded; else what a new group shares."""
        runs = [task for task in self.waiting if task.group in self.ready]
        if runs:
            task = next((task for task in runs if task.group == last), runs[0])
            self.waiting.remove(task)
            return task
        for task in self.waiting:
            if task.group not in starting:
                starting.add(task.group)
                return Task(
                    f"shared by {sum(t.group == task.group for t in self.waiting)} runs",
                    *(task.recipe, None, False, task.device, task.group),
                )
        return None

    def _end(self, task: Task, reply: Reply, seconds: float) -> None:
        tries = self.tries[task.id] = self.tries.get(task.id, 0) + 1
        if reply.error is None:
            self.state.done.append((task.id, seconds))
        elif reply.again and tries <= self.retries:
            self.waiting.append(task)
        else:
            self.state.failed[task.id] = Failure(task.id, reply.error, tries, reply.detail)
            self.folder.write_failures(self.state.failed)

    def _show(self, lanes: Sequence[Lane], busy: dict[int, tuple[Task, float]]) -> None:
        self.state.at = [
            (task.id, lanes[number].at, begun) for number, (task, begun) in sorted(busy.items())
        ]
        self.on_change(self.state)
