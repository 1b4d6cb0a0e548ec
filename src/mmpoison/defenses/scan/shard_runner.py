"""Runs a pass over shards: a task a shard in worker processes or on Ray, each result in a file, so that it resumes."""

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
from mmpoison.base.phrasing import one_line
from mmpoison.base.processes import one_blas_thread
from mmpoison.base.progress import Progress, RunProgress
from mmpoison.base.record import Record
from mmpoison.base.workers import Dispatch, Failure, SweepState, Worker
from mmpoison.defenses.scan.read.files import DataFile, ShardError, each
from mmpoison.defenses.scan.read.pass_runner import Earlier, PassRunner, State
from mmpoison.defenses.scan.read.shards import EmbeddedSource
from mmpoison.defenses.scan.read.vector_shard import Arrays
from mmpoison.errors import InputError, WorkStopped

if TYPE_CHECKING:
    from mmpoison.defenses.scan.read.shards import Shard


# -- Identifies the files of a source, so that all passes of a scan, also of one that was killed, read the
# same data.


KEY_FILE = "key.json"
BLOCK = 4096
"""Bytes at the beginning and at the end of a file that are compared."""
MISSING = "missing"

FileStates = dict[str, str]
"""The state of each file of a source, by its path."""


class WorkKey(Record):
    """What `key.json` says of unfinished work: a digest of the scan, and the states of its files."""

    scan: str
    files: FileStates


def file_states(source: EmbeddedSource) -> FileStates:
    """Return for each file of a source what changes when it is written or replaced.

    Of a file of this machine these are its size, mtime, ctime (no command makes links to it), inode and a hash of its
    first and last block; of one in a store what the store says of its version.
    """
    files = {str(file): file for shard in source.shards for file in _files(shard)}
    remote = any(file.store is not None for file in files.values())
    return dict(zip(files, each(_state, files.values(), remote=remote), strict=True))


def refuse_changed(before: FileStates, now: FileStates) -> None:
    """Compare the states of the files of a source.

    Raises:
        InputError: If one has changed.
    """
    for file, state in now.items():
        if before.get(file) != state:
            raise InputError(
                f"{file}: changed since the scan began: stop changing the source, delete the folder of unfinished work "
                "(.scanning) and scan again"
            )


def claim_work(work: Path, source: EmbeddedSource, states: FileStates, **settings: Any) -> bool:
    """Take a work folder for a scan, and return whether it holds results of an earlier one of the same source.

    Args:
        work: The folder.
        source: The source.
        states: Of its files.
        **settings: What results depend on besides, as JSON values.

    Raises:
        InputError: If it is a work folder of another scan, or something else, or damaged, or a file has changed since
            that scan began.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    # without what the headers say, which is part of the states
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
"""Attempts more for a shard whose worker crashed; a shard that cannot be read fails at once."""


@dataclass(frozen=True)
class ShardTask:
    """A pass over one shard, as `mmpoison.base.workers.Task`.

    Attributes:
        name: Of the pass.
        shard: The shard.
        number: Its place in the source.
        compute: What is computed.
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
        """All shards are alike."""
        return (self.name,)

    def run(self, shared: dict[str, Any], progress: RunProgress) -> None:
        """Compute and write the result, if it is not there."""
        if self.out.is_file():
            return
        progress.progress(self.id)
        with one_blas_thread():  # in this process as in a worker
            found = self.compute(self.shard, self.number)
        write_part(self.out, found)


def write_part(file: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write the result of a shard, whole or not at all."""
    with atomic_file(file) as temporary, temporary.open("wb") as stream:
        # numpy adds an ending to a name that has none of its own
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
    """Read what passes found, once a worker: it is too large to send with each task."""
    return load_part(file)


class ShardRunner(PassRunner):
    """Runs passes over the shards of a source by workers; each result is in a file, so that a killed scan resumes.

    A shard that cannot be read in one pass is left out of the later ones.

    Args:
        source: The source.
        states: Of its files when the scan began.
        work: Folder of the results.
        workers: Does the tasks.
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
        """Reads results of earlier passes, in a worker."""
        return partial(_earlier_part, self.work)

    def state(self, name: str, arrays: Arrays) -> State:
        """Write what passes found, for the tasks of the later ones; other contents get another name.

        The name says what is in it, so that a worker never takes the state of an earlier scan for it.
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
        """Run a pass over all shards that have not failed; results that are there are not computed again.

        Args:
            name: Name of the pass, and of the folder of its results.
            title: What a user sees.
            compute: What is computed.

        Raises:
            InputError: If no shard is left, or a file of the source has changed.
            WorkStopped: If there is no room or no memory, or a worker was killed; the same call resumes.
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
        """Compare all files of the source with what they were when the scan began.

        Raises:
            InputError: If one has changed.
        """
        refuse_changed(self._states, file_states(self._source))

    def part(self, name: str, number: int, *arrays: str) -> tuple[npt.NDArray[Any], ...]:
        """Read arrays of the result of one shard.

        Raises:
            InputError: If the file is damaged.
        """
        file = self._file(name, number)
        found = read_arrays(file, *arrays)
        if found is None:
            raise InputError(f"{file}: is damaged: delete it and run the same command again")
        return found

    def whole_parts(self, name: str, only: str = "") -> Iterator[tuple[int, Arrays]]:
        """Read the results of a pass in the order of the shards: all arrays, or those whose names begin so.

        Raises:
            InputError: If a file is damaged.
        """
        for number in sorted(self.shards):
            yield number, load_part(self._file(name, number), only)

    def _file(self, name: str, number: int) -> Path:
        return part_file(self.work, name, number, self.shards[number].name)


def _stop(failures: Mapping[str, Failure]) -> None:
    """End the pass where no shard is to blame: lists without its pairs would pass for a whole result."""
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
        if done != shown:  # a bar that is full is not drawn twice
            shown = done
            report(done, now.total)

    show(state)
    if todo:
        Dispatch(state, RETRIES, show, _stop).run(list(todo), workers)
        show(state)
