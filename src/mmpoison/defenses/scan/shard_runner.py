"""Runs a pass over shards, one task per shard, in worker processes or on Ray.

Results are files, so a scan can resume.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from mmpoison.base.content_cache import read_all_arrays, read_arrays
from mmpoison.base.files import atomic_file, plain_name, write_json
from mmpoison.base.processes import one_blas_thread
from mmpoison.base.progress import Progress, RunProgress
from mmpoison.base.record import Record
from mmpoison.base.text import one_line
from mmpoison.base.workers import Dispatch, Failure, SweepState, Worker
from mmpoison.defenses.scan.read.files import DataFile, ShardError, each
from mmpoison.defenses.scan.read.pass_runner import Earlier, PassRunner, State
from mmpoison.defenses.scan.read.shards import EmbeddedSource
from mmpoison.defenses.scan.read.vector_shard import Arrays
from mmpoison.errors import InputError, WorkStopped

if TYPE_CHECKING:
    from mmpoison.defenses.scan.read.shards import Shard


# -- Identifies a source's files, so that all passes of a scan, even after a kill, read the same data.


KEY_FILE = "key.json"
BLOCK = 4096
"""Bytes compared at the beginning and the end of a file."""
MISSING = "missing"

FileStates = dict[str, str]
"""The state of each file of a source, by path."""


class WorkKey(Record):
    """The content of `key.json` in a work folder: a digest of the scan, and the states of its files."""

    scan: str
    files: FileStates


def file_states(source: EmbeddedSource) -> FileStates:
    """Return the state of each file of a source, which changes whenever the file is written or replaced.

    For a local file this is size, mtime, ctime (no command creates links to it), inode and a hash of the first and last
    block; for a file in a store, the version information of the store.
    """
    files = {str(file): file for shard in source.shards for file in _files(shard)}
    remote = any(file.store is not None for file in files.values())
    return dict(zip(files, each(_state, files.values(), remote=remote), strict=True))


def refuse_changed(before: FileStates, now: FileStates) -> None:
    """Compare the states of a source's files.

    Raises:
        InputError: If a file has changed.
    """
    for file, state in now.items():
        if before.get(file) != state:
            raise InputError(
                f"{file}: changed since the scan began: stop changing the source, delete the folder of unfinished work "
                "(.scanning) and scan again"
            )


def claim_work(work: Path, source: EmbeddedSource, states: FileStates, **settings: Any) -> bool:
    """Claim a work folder for a scan; return whether it contains results of an earlier scan of the same source.

    Args:
        work: The folder.
        source: The source.
        states: States of its files.
        **settings: Further settings that results depend on, as JSON values.

    Raises:
        InputError: If the folder belongs to another scan, is not a work folder, or is damaged, or a file has changed
            since the scan began.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    # without the headers, which are part of the states
    shards = [replace(cast("Any", shard), rows=0, dimension=0) for shard in source.shards]
    digest.update(repr(shards).encode("utf-8", "backslashreplace"))
    key = WorkKey(scan=digest.hexdigest(), files=states)
    file = work / KEY_FILE
    if file.is_file():
        try:
            known = WorkKey.read(file)
        except InputError as error:
            raise InputError(
                f"{work}: cannot be resumed, {KEY_FILE} is damaged ({one_line(str(error))[:200]}): delete the folder "
                "and run the same command again"
            ) from None
        if known.scan != key.scan:
            raise InputError(
                f"{work}: holds the unfinished work of another scan: delete it, or choose another --out"
            )
        refuse_changed(known.files, states)
        return True
    if work.exists() and (not work.is_dir() or any(work.iterdir())):
        raise InputError(f"{work}: is not empty: delete it, or choose another --out")
    write_json(file, key.to_json())
    return False


def _files(value: Any) -> Iterator[DataFile]:
    if isinstance(value, DataFile):
        yield value
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _files(getattr(value, field.name))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _files(item)


def _state(file: DataFile) -> str:
    try:
        if file.store is None:
            found = Path(file.path).stat()
            last = max(found.st_size - BLOCK, 0)
            blocks = file.bytes_between(0, BLOCK) + file.bytes_between(last, last + BLOCK)
            digest = hashlib.blake2b(blocks, digest_size=16).hexdigest()
            times = f"{found.st_mtime_ns} {found.st_ctime_ns}"
            return f"{found.st_size} {times} {found.st_ino} {digest}"
        with file.reading():
            facts = file.store.info(file.path)
    except (OSError, ShardError):
        return MISSING
    names = ("size", "ETag", "etag", "LastModified", "mtime", "ino")
    return str({name: facts.get(name) for name in names})


RETRIES = 1
"""Retries for a shard whose worker crashed; an unreadable shard fails at once."""


@dataclass(frozen=True)
class ShardTask:
    """A pass over one shard: a `mmpoison.base.workers.Task`.

    Attributes:
        name: Name of the pass.
        shard: The shard.
        number: Its position in the source.
        compute: The computation.
        out: The file of the result.
    """

    name: str
    shard: Shard
    number: int
    compute: Callable[[Any, int], Arrays]
    out: Path

    @property
    def id(self) -> str:
        """Name of the task."""
        return f"{self.name}/{self.shard.name}"

    @property
    def group(self) -> tuple[str, ...]:
        """All shards are in one group."""
        return (self.name,)

    def run(self, shared: dict[str, Any], progress: RunProgress) -> None:
        """Compute and write the result, unless it exists."""
        if self.out.is_file():
            return
        progress.progress(self.id)
        with one_blas_thread():  # the same in this process as in a worker
            found = self.compute(self.shard, self.number)
        write_part(self.out, found)


def write_part(file: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write the result of a shard atomically."""
    with atomic_file(file) as temporary, temporary.open("wb") as stream:
        # numpy appends an extension to a name without one
        np.savez(stream, allow_pickle=False, **dict(arrays))


def load_part(file: Path, only: str = "") -> Arrays:
    """Read the arrays of a result; see `ShardRunner.whole_parts`.

    Raises:
        InputError: If the file is damaged or missing.
    """
    found = read_all_arrays(file, only)
    if found is None:
        raise InputError(f"{file}: is damaged: delete it and run the same command again")
    return found


def part_file(work: Path, name: str, number: int, shard: str) -> Path:
    """Return the file of a shard's result."""
    return work / name / f"{number:06}-{plain_name(shard)[:80]}.npz"


def _earlier_part(work: Path, name: str, number: int, shard: Shard) -> Arrays:
    return load_part(part_file(work, name, number, shard.name))


@lru_cache(maxsize=4)
def _read_state(file: Path) -> Arrays:
    """Read the passes' state once per worker, because it is too large to send with each task."""
    return load_part(file)


class ShardRunner(PassRunner):
    """Runs passes over a source's shards with workers. Each result is a file, so a killed scan resumes.

    A shard that is unreadable in one pass is left out of later passes.

    Args:
        source: The source.
        states: States of its files when the scan began.
        work: Folder of the results.
        workers: The workers to use.
        progress: Reports the progress.
    """

    def __init__(
        self,
        source: EmbeddedSource,
        states: FileStates,
        work: Path,
        workers: Sequence[Worker],
        progress: RunProgress,
    ) -> None:
        super().__init__(dict(enumerate(source.shards)))
        self.work = work
        self.failed: dict[int, str] = {}
        self._source, self._states = source, states
        self._workers = workers
        self._progress = progress

    @property
    def earlier(self) -> Earlier:
        """Reads results of earlier passes, inside a worker."""
        return partial(_earlier_part, self.work)

    def state(self, name: str, arrays: Arrays) -> State:
        """Write the passes' state for tasks of later passes; different contents get different names.

        The name depends on the content, so a worker never uses the state of an earlier scan.
        """
        digest = hashlib.sha256()
        for key, array in arrays.items():
            digest.update(key.encode() + str(array.dtype).encode())
            digest.update(np.ascontiguousarray(array).data)
        target = self.work / f"{name}-{digest.hexdigest()[:16]}.npz"
        if not target.is_file():
            write_part(target, arrays)
        return partial(_read_state, target)

    def run(self, name: str, title: str, compute: Callable[[Any, int], Arrays]) -> None:
        """Run a pass over all shards that have not failed. Existing results are not computed again.

        Args:
            name: Name of the pass, and of the folder of its results.
            title: Title shown to the user.
            compute: The computation.

        Raises:
            InputError: If no shard is left, or a file of the source has changed.
            WorkStopped: If the disk is full, memory is exhausted, or a worker was killed; the same call resumes.
        """
        tasks = [
            ShardTask(name, shard, number, compute, self._file(name, number))
            for number, shard in self.shards.items()
        ]
        todo = [task for task in tasks if not task.out.is_file()]
        state = SweepState(len(tasks), found=len(tasks) - len(todo))
        report = self._progress.progress(title)
        _follow(state, todo, self._workers, report)
        self.refuse_changed()
        for task in todo:
            failure = state.failed.get(task.id)
            if failure is not None:
                self.failed[task.number] = failure.error
                del self.shards[task.number]
        if not self.shards:
            first = next(iter(self.failed.values()), "there are no shards")
            raise InputError(f"no shard can be read: {first}")

    def refuse_changed(self) -> None:
        """Compare all files of the source with their states when the scan began.

        Raises:
            InputError: If a file has changed.
        """
        refuse_changed(self._states, file_states(self._source))

    def part(self, name: str, number: int, *arrays: str) -> tuple[npt.NDArray[Any], ...]:
        """Read arrays of one shard's result.

        Raises:
            InputError: If the file is damaged.
        """
        file = self._file(name, number)
        found = read_arrays(file, *arrays)
        if found is None:
            raise InputError(f"{file}: is damaged: delete it and run the same command again")
        return found

    def whole_parts(self, name: str, only: str = "") -> Iterator[tuple[int, Arrays]]:
        """Read the results of a pass in shard order: all arrays, or those whose names begin with `only`.

        Raises:
            InputError: If a file is damaged.
        """
        for number in sorted(self.shards):
            yield number, load_part(self._file(name, number), only)

    def _file(self, name: str, number: int) -> Path:
        return part_file(self.work, name, number, self.shards[number].name)


def _stop(failures: Mapping[str, Failure]) -> None:
    """Abort the pass if no shard is at fault: lists without its pairs would look like a complete result."""
    for failure in failures.values():
        if failure.stops:
            raise WorkStopped(
                f"{failure.error} (at {one_line(failure.run)}); finished shards are kept, and the same command resumes "
                "(fewer --workers need less memory)"
            )


def _follow(
    state: SweepState, todo: list[ShardTask], workers: Sequence[Worker], report: Progress
) -> None:
    shown = -1

    def show(now: SweepState) -> None:
        nonlocal shown
        done = now.found + len(now.done) + len(now.failed)
        if done != shown:  # do not draw a full bar twice
            shown = done
            report(done, now.total)

    show(state)
    if todo:
        Dispatch(state, RETRIES, show, _stop).run(list(todo), workers)
        show(state)
