"""Gives tasks to workers, and follows their progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mmpoison.runs.sweeps.placement import Placement
from mmpoison.runs.sweeps.workers import LocalWorker, Reply, Task, ThisProcess, Worker

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
    from mmpoison.runs.sweeps.ray_workers import RayWorker, cluster_gpus, connect

    connect(ray, count, threads)
    gpus = cluster_gpus(placement.device)
    if gpus and placement.by_cluster:
        count = max(1, min(gpus, tasks))
    return [RayWorker(threads, gpus=1 if gpus else 0) for _ in range(count)]


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
            self.state.failed[task.id] = Failure(
                task.id, reply.error, tries, reply.detail, reply.stops
            )
            self.on_failure(self.state.failed)

    def _show(self, workers: Sequence[Worker], busy: dict[int, tuple[Task, float]]) -> None:
        self.state.at = [
            (task.id, workers[number].at, begun) for number, (task, begun) in sorted(busy.items())
        ]
        self.on_change(self.state)
