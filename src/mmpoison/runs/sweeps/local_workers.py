"""Workers of a sweep on this machine: one process each, fed through a pipe."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from mmpoison.base.processes import begin_worker
from mmpoison.runs.sweeps.tasks import Reply, Task, TaskRunner, environment

DIED = "the process that ran it died (was it killed, or out of memory?)"


class LocalLane:
    """One worker process; started when it gets its first task, and again if it has died."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._process: Any = None
        self._pipe: Any = None
        self.at = ""

    def submit(self, task: Task) -> None:
        """Hand over a task; the one before it is done."""
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
        before = {name: os.environ.get(name) for name in environment(self._threads)}
        os.environ.update(environment(self._threads))
        try:
            self._process = context.Process(
                target=_work, args=(theirs, self._threads, os.getpid()), daemon=True
            )
            self._process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
        theirs.close()

    def reply(self) -> Reply | None:
        """The reply of the task, or None if it is not done; also notes what it is at."""
        try:
            while self._pipe.poll():
                received = self._pipe.recv()
                if isinstance(received, Reply):
                    return received
                self.at = str(received)
        except (EOFError, OSError):
            self._process.join(5)
            self._process = None
            return Reply(DIED, again=True)
        return None

    @property
    def waitable(self) -> Connection:
        """Ready when there is something to read."""
        pipe: Connection = self._pipe
        return pipe

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return self._process.pid if self._process is not None else None

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.terminate()
            self._process.join(10)


def wait_local(lanes: Sequence[LocalLane], seconds: float) -> None:
    """Wait until one of some lanes has something to say."""
    wait([lane.waitable for lane in lanes], seconds)


def _work(pipe: Connection, threads: int, parent: int) -> None:
    begin_worker(parent)
    runner = TaskRunner(threads)
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(runner(task, pipe.send))
