"""Passes over shards: results in files, resumed, without the shards that fail."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmpoison.base.progress import SilentProgress
from mmpoison.base.workers import DIED, Reply, TaskRunner
from mmpoison.defenses.scan.read.vector_shard import Arrays
from mmpoison.defenses.scan.shard_runner import ShardRunner, part_file
from mmpoison.errors import InputError, WorkStopped


@dataclass(frozen=True)
class Numbers:
    """A stand-in for a shard: rows that can be read, or not."""

    name: str
    value: int
    broken: bool = False


class Here:
    """A worker in this process."""

    waits = False

    def __init__(self) -> None:
        self.at, self._runner, self._reply = "", TaskRunner(1), Reply()
        self.done: list[str] = []

    def submit(self, task: Any) -> None:
        self.done.append(task.id)
        self._reply = self._runner(task)

    def reply(self) -> Reply:
        return self._reply

    def stop(self) -> None:
        pass


class Bars(SilentProgress):
    """Remembers what a bar shows."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, int, int]] = []

    def progress(self, what: str) -> Callable[[int, int], None]:
        return lambda done, total: self.shown.append((what, done, total))


def square(shard: Any, number: int) -> Arrays:
    if shard.broken:
        raise InputError(f"{shard.name}.npy: is truncated")
    return {"square": np.array([shard.value**2, number])}


def runner(shards: list[Numbers], work: Path, bars: Bars | None = None) -> tuple[ShardRunner, Here]:
    here = Here()
    source: Any = SimpleNamespace(shards=shards)
    return ShardRunner(source, {}, work, [here], bars or Bars()), here


def test_each_shard_is_computed_once_and_read_in_order(tmp_path: Path) -> None:
    shards = [Numbers(f"{n:02}", n) for n in range(12)]
    bars = Bars()
    run, here = runner(shards, tmp_path, bars)
    run.run("pass-1", "squaring", square)
    assert here.done == [f"pass-1/{n:02}" for n in range(12)]
    assert [tuple(run.part("pass-1", n, "square")[0]) for n in range(12)] == [
        (n * n, n) for n in range(12)
    ]
    assert bars.shown[0] == ("squaring", 0, 12)
    assert bars.shown[-1] == ("squaring", 12, 12)
    # killed and started again, with one result lost
    part_file(tmp_path, "pass-1", 5, "05").unlink()
    again, here = runner(shards, tmp_path)
    again.run("pass-1", "squaring", square)
    assert here.done == ["pass-1/05"]
    assert not [path for path in tmp_path.rglob("*") if path.suffix not in (".npz", ".lock", "")]


def test_a_shard_that_fails_is_left_out_of_later_passes(tmp_path: Path) -> None:
    shards = [Numbers("00", 3), Numbers("01", 4, broken=True), Numbers("02", 5)]
    run, here = runner(shards, tmp_path)
    run.run("pass-1", "one", square)
    run.run("pass-2", "two", square)
    assert run.failed == {1: "01.npy: is truncated"}
    assert here.done == ["pass-1/00", "pass-1/01", "pass-1/02", "pass-2/00", "pass-2/02"]
    assert sorted(run.shards) == [0, 2]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full: free some space"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_no_room_and_no_memory_stop_the_pass_and_it_resumes(
    tmp_path: Path, error: Exception, says: str
) -> None:
    """A list without the pairs of the shards that are missing would pass for a whole result."""
    shards = [Numbers("00", 3), Numbers("01", 4), Numbers("02", 5)]

    def fails(shard: Any, number: int) -> Arrays:
        if shard.value == 4:
            raise error
        return square(shard, number)

    run, _ = runner(shards, tmp_path)
    with pytest.raises(WorkStopped, match=f"{says}.*the same command resumes"):
        run.run("pass-1", "one", fails)
    again, here = runner(shards, tmp_path)
    again.run("pass-1", "one", square)
    assert "pass-1/00" not in here.done
    assert len(list(again.whole_parts("pass-1"))) == 3


def test_a_worker_that_is_killed_stops_the_pass(tmp_path: Path) -> None:
    class Dies(Here):
        def reply(self) -> Reply:
            return DIED

    source: Any = SimpleNamespace(shards=[Numbers("00", 3), Numbers("01", 4)])
    killed = ShardRunner(source, {}, tmp_path, [Dies()], Bars())
    with pytest.raises(WorkStopped, match=r"out of memory.*pass-1/00.*fewer --workers"):
        killed.run("pass-1", "one", square)


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    run, _ = runner([Numbers("00", 3)], tmp_path)
    run.run("pass-1", "one", square)
    file = part_file(tmp_path, "pass-1", 0, "00")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InputError, match="is damaged: delete it"):
        run.part("pass-1", 0, "square")


def test_names_of_shards_stay_inside_the_folder(tmp_path: Path) -> None:
    run, _ = runner([Numbers("../../etc/passwd", 3), Numbers("x" * 400, 4)], tmp_path / "work")
    run.run("pass-1", "one", square)
    assert len(list((tmp_path / "work" / "pass-1").glob("*.npz"))) == 2
