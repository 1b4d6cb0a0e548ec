"""The store of stages: what a stage made is kept under all that it hangs on, and made once.

One folder a stage, `stages/KIND/KEY` in the cache folder. It appears whole, with `stage.json` that says what it was
made from. While it is made, its process holds a file lock that the system takes back if the process dies; others that
want the same stage wait, and one of them goes on with what a dead one has left in `KEY.work`. Nothing but the file
system is shared, so processes of several machines may use one store on a disk that they share.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from mmpoison._version import __version__
from mmpoison.base.cache_folder import cache_folder
from mmpoison.base.files import write_json
from mmpoison.base.temporaries import remove_all_dead
from mmpoison.base.untrusted import read_json, read_text
from mmpoison.errors import InputError

T = TypeVar("T")

ENTRY_FILE = "stage.json"
POLL = 0.2


@dataclass(frozen=True)
class StageKey:
    """Names a stage by all that its result hangs on.

    Attributes:
        kind: `finetune` or `filter`.
        name: What to call it for a person, no part of the key.
        parts: All that the result hangs on, as JSON values; an earlier stage by its `digest`.
        like: What its time hangs on, besides the amount of work.
        work: How much work it is, in units of its own; None if unknown.
    """

    kind: str
    name: str
    parts: Mapping[str, Any]
    like: Mapping[str, Any] = field(default_factory=dict)
    work: float | None = None

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits."""
        return digest_of({"kind": self.kind, **self.parts})


class StageStore:
    """Keeps stages in a folder.

    Args:
        folder: `stages` in the cache folder by default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder if folder is not None else cache_folder() / "stages"

    def path(self, key: StageKey) -> Path:
        """Where a stage is, or would be."""
        return self.folder / key.kind / key.digest

    def __contains__(self, key: StageKey) -> bool:
        return (self.path(key) / ENTRY_FILE).is_file()

    def obtain(
        self,
        key: StageKey,
        load: Callable[[Path], T],
        make: Callable[[Path], object],
        *,
        say: Callable[[str], None] = lambda line: None,
    ) -> tuple[T, bool]:
        """What a stage gave, made now if it is not there.

        Args:
            key: The stage.
            load: Reads it from its folder; an `InputError` or `OSError` there means that it is broken, it is made anew.
            make: Makes it in the folder given, which may hold what an earlier try has left. All that it leaves there
                is kept.
            say: Told if another process has to be waited for.

        Returns:
            What `load` gave, and whether it was there.
        """
        found = self._read(key, load)
        if found is not None:
            return found[0], True
        with self._locked(key, say):
            found = self._read(key, load)
            if found is not None:
                return found[0], True
            work = self.path(key).with_name(f"{key.digest}.work")
            work.mkdir(parents=True, exist_ok=True)
            remove_all_dead(work)
            begun = time.perf_counter()
            make(work)
            self._enter(key, work, time.perf_counter() - begun)
        return load(self.path(key)), False

    def _read(self, key: StageKey, load: Callable[[Path], T]) -> tuple[T] | None:
        folder = self.path(key)
        if not (folder / ENTRY_FILE).is_file():
            return None
        try:
            value = load(folder)
        except (InputError, OSError, ValueError, KeyError):
            shutil.rmtree(folder, ignore_errors=True)
            return None
        with suppress(OSError):  # when it was last of use
            os.utime(folder / ENTRY_FILE)
        return (value,)

    def _enter(self, key: StageKey, work: Path, seconds: float) -> None:
        entry = {
            "kind": key.kind,
            "name": key.name,
            "seconds": round(seconds, 3),
            "memory": peak_memory(),
            "work": key.work,
            "like": digest_of(key.like),
            "tool_version": __version__,
            "created": time.time(),
            "parts": dict(key.parts),
        }
        write_json(work / ENTRY_FILE, entry)
        target = self.path(key)
        shutil.rmtree(target, ignore_errors=True)
        work.rename(target)

    @contextmanager
    def _locked(self, key: StageKey, say: Callable[[str], None]) -> Iterator[None]:
        path = self.path(key).with_name(f"{key.digest}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        owner = path.with_suffix(".owner")
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            who = "another process"
            with suppress(InputError):
                who = read_text(owner, 1000).strip() or who
            say(f"{key.name}: waiting for {who}, which makes it")
            lock.acquire(poll_interval=POLL)
        try:
            with suppress(OSError):
                owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", "utf-8")
            yield
        finally:
            with suppress(OSError):
                owner.unlink(missing_ok=True)
            lock.release()

    # -- what is there --------------------------------------------------------------------------------------------

    def entries(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Folder and `stage.json` of every stage."""
        for file in sorted(self.folder.glob(f"*/*/{ENTRY_FILE}")):
            try:
                entry = read_json(file)
            except InputError:
                continue
            if isinstance(entry, dict):
                yield file.parent, entry

    def known(self) -> Callable[[StageKey], Cost | None]:
        """A function that says what a stage will cost by those like it, or None where none is known."""
        seen: dict[str, list[Cost]] = {}
        for folder, entry in self.entries():
            work = _amount(entry, "work") or 1.0
            cost = Cost(
                _amount(entry, "seconds") / work, folder_bytes(folder), _amount(entry, "memory")
            )
            seen.setdefault(f"{entry.get('kind')}/{entry.get('like')}", []).append(cost)

        def cost_of(key: StageKey) -> Cost | None:
            costs = seen.get(f"{key.kind}/{digest_of(key.like)}")
            if not costs:
                return None
            return Cost(
                statistics.median(cost.seconds for cost in costs) * (key.work or 1.0),
                statistics.median(cost.bytes for cost in costs),
                max(cost.memory for cost in costs),
            )

        return cost_of


def _amount(entry: Mapping[str, Any], name: str) -> float:
    """A number of an entry; 0 where it is none that can be."""
    value: Any = entry.get(name)
    return float(value) if type(value) in (int, float) and value >= 0 else 0.0


@dataclass(frozen=True)
class Cost:
    """What a stage takes.

    Attributes:
        seconds: Of time.
        bytes: In the store.
        memory: Highest resident memory of the process that made it, in bytes; 0 if unknown.
    """

    seconds: float
    bytes: float
    memory: float


def folder_bytes(folder: Path) -> int:
    """Size of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def peak_memory() -> int:
    """Highest resident memory of this process so far, in bytes; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def digest_of(value: Mapping[str, Any]) -> str:
    """32 hexadecimal digits of JSON values, whatever their order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
