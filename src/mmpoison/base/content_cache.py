"""Caches results under a digest of what they depend on: images, features, embeddings, distances, stages, downloads.

An entry is a folder `KIND/DIGEST` in the cache folder. It appears whole, with `entry.json`, which says what it was
made from; the time of change of that file is when the entry was last used. While it is made, its process holds a file
lock that the system takes back if the process dies. Others that want the same entry wait, and one of them resumes from
what a dead one has left in `DIGEST.work`. Only the file system is shared, so processes of several machines may use one
cache on a disk that they share.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from mmpoison._version import __version__
from mmpoison.base.files import (
    atomic_file,
    cache_folder,
    refuse_special,
    refused_without_room,
    remove_all_dead,
    write_json,
)
from mmpoison.base.untrusted import file_digest, read_json, read_text
from mmpoison.errors import InputError, MmpoisonWarning

# -- Reads arrays from cached `.npz` files; a damaged file counts as missing.


def read_all_arrays(file: Path, only: str = "") -> dict[str, npt.NDArray[Any]] | None:
    """Read all arrays of a file whose names begin with `only`; None as `read_arrays`."""
    try:
        refuse_special(file)
        with np.load(file, allow_pickle=False) as arrays:
            return {n: np.asarray(arrays[n]) for n in arrays.files if n.startswith(only)}
    except Exception:
        return None


def read_arrays(file: Path, *names: str) -> tuple[npt.NDArray[Any], ...] | None:
    """Read arrays by name.

    Args:
        file: A file of `numpy.savez`; no object is unpickled.
        names: Which arrays.

    Returns:
        The arrays in the order of the names, or None if the file is missing, damaged, not regular, or lacks one.
    """
    try:
        refuse_special(file)
        with np.load(file, allow_pickle=False) as arrays:
            return tuple(np.asarray(arrays[name]) for name in names)
    except Exception:
        # damaged files raise errors of zipfile, zlib, ast or tokenize, and a header with a wrong size a MemoryError;
        # in every case the arrays are computed again
        return None


T = TypeVar("T")
Array = npt.NDArray[Any]

ENTRY_FILE, ARRAYS_FILE = "entry.json", "arrays.npz"
WORK, LOCKS = ".work", ".locks"
UNCHECKED = (".npz", ".jpg")
"""Arrays have checksums of their own, checked when they are read; 6,500 small pictures would take a second a run."""
POLL = 0.2
"""Seconds between two attempts to get a lock."""

_DIGEST = re.compile(r"[0-9a-f]{32}(\.work)?")
_FILES = re.compile(r"added-images/[0-9a-f]{64}\.png|crashes/\d{8}-\d{6}-\d+\.txt")
"""What else mmpoison writes into the cache folder."""


def digest_of(value: Any) -> str:
    """32 hexadecimal digits of JSON values, whatever the order of their keys; other values count as their text."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:32]


@dataclass(frozen=True)
class CacheKey:
    """Names a result by what it depends on.

    Attributes:
        kind: What it is, e.g. `features` or `stages/finetune`; also its folder.
        parts: All that the result depends on, as JSON values: its inputs, and the code that makes it (`code_version`,
            or `compute_environment` where numbers depend on the machine). An earlier result by its `digest`.
        name: What to call it for a person, no part of the key.
        note: What else `entry.json` says of it, no part of the key.
        address: Name of the folder of what is known by a name and not by its content: a download.
    """

    kind: str
    parts: Mapping[str, Any]
    name: str = ""
    note: Mapping[str, Any] = field(default_factory=dict)
    address: str | None = None

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits of the kind and the parts."""
        return digest_of({"kind": self.kind, **self.parts})


@dataclass(frozen=True)
class CacheEntry:
    """One entry of a cache, finished or not, or a file that mmpoison has written there.

    Attributes:
        kind: The kind of its key, or the name of the folder it lies in.
        path: Where it is.
        bytes: Its size on disk.
        used: When it was last used, in seconds since 1970, as far as known.
        about: The content of its `entry.json`; empty if it has none.
    """

    kind: str
    path: Path
    bytes: int
    used: float
    about: Mapping[str, Any]


class ContentCache:
    """A folder of results that can be made again.

    Args:
        folder: `$MMPOISON_CACHE`, or `mmpoison` in the user's cache folder by default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder if folder is not None else cache_folder()

    def path(self, key: CacheKey) -> Path:
        """Where an entry is, or would be."""
        return self.folder / key.kind / (key.address or key.digest)

    def __contains__(self, key: CacheKey) -> bool:
        return (self.path(key) / ENTRY_FILE).is_file()

    def find(self, key: CacheKey, read: Callable[[Path], T]) -> tuple[T] | None:
        """Read an entry; None if there is none, or it is broken. Arguments as for `obtain`."""
        folder = self.path(key)
        if key not in self:
            return None
        try:
            _check_files(folder)
            value = read(folder)
        except (InputError, OSError, ValueError, KeyError):
            return None
        touch(folder)
        return (value,)

    def obtain(
        self,
        key: CacheKey,
        read: Callable[[Path], T],
        make: Callable[[Path], object],
        *,
        say: Callable[[str], None] = lambda line: None,
    ) -> tuple[T, bool]:
        """Read an entry, made now if it is not there.

        Args:
            key: The entry.
            read: Reads it from its folder; an `InputError`, `OSError`, `ValueError` or `KeyError` there means that it
                is broken: it is made again.
            make: Makes it in the folder given, which may hold what an earlier attempt has left. All that it leaves
                there is cached.
            say: Called with one line if another process has to be waited for.

        Returns:
            What `read` gave, and whether it was there.
        """
        if (found := self.find(key, read)) is not None:
            return found[0], True
        waiting = False

        def on_wait(owner: str) -> None:
            nonlocal waiting
            if not waiting:
                say(f"{key.name or key.kind}: waiting for {owner}, which is computing it")
            waiting = True

        with refused_without_room(self.path(key)), self.locked(key, on_wait) as target:
            if (found := self.find(key, read)) is not None:  # it was made meanwhile
                return found[0], True
            if key in self:
                warnings.warn(
                    f"{key.name or key.kind}: the cached result in {target} is damaged, so it is computed again",
                    MmpoisonWarning,
                    stacklevel=2,
                )
            work = target.with_name(target.name + WORK)
            work.mkdir(parents=True, exist_ok=True)
            try:
                remove_all_dead(work)
                begun = time.perf_counter()
                make(work)
                self.describe(key, work, time.perf_counter() - begun, _digests(work))
                shutil.rmtree(target, ignore_errors=True)
                work.rename(target)
            finally:
                with suppress(OSError):  # nothing to resume from
                    work.rmdir()
        return read(target), False

    def arrays(
        self,
        key: CacheKey,
        make: Callable[[], Mapping[str, Array]],
        *names: str,
    ) -> tuple[Array, ...]:
        """Read arrays, or compute and cache them. Where the cache may not be written they are computed all the same.

        Args:
            key: The entry.
            make: Computes the arrays by name.
            names: Which arrays, in which order they are returned.

        Raises:
            DiskFull: If there is no room for them.
        """
        made: dict[str, Array] = {}

        def read(folder: Path) -> tuple[Array, ...]:
            if made:
                return tuple(made[name] for name in names)
            if (found := read_arrays(folder / ARRAYS_FILE, *names)) is None:
                raise InputError(f"{folder / ARRAYS_FILE}: missing or damaged")
            return found

        def write(work: Path) -> None:
            made.update(make())
            with atomic_file(work / ARRAYS_FILE) as temporary, temporary.open("wb") as stream:
                np.savez(stream, **made)  # type: ignore[arg-type]  # taken for `allow_pickle`

        try:
            return self.obtain(key, read, write)[0]
        except OSError:
            made = made or dict(make())
            return tuple(made[name] for name in names)

    def locked(
        self, key: CacheKey, on_wait: Callable[[str], None] = lambda owner: None
    ) -> AbstractContextManager[Path]:
        """Hold the lock of an entry and yield its folder, which need not exist.

        Args:
            key: The entry.
            on_wait: Called with the owner's name each time that another process has the lock; it may raise to give up.
        """
        return self._lock(self.path(key), on_wait)

    def describe(
        self,
        key: CacheKey,
        folder: Path,
        seconds: float | None = None,
        sha256: Mapping[str, str] | None = None,
    ) -> None:
        """Write the `entry.json` of an entry, which makes it one; `sha256` of its files is checked at each reading."""
        entry = {
            "kind": key.kind,
            "name": key.name,
            "seconds": None if seconds is None else round(seconds, 3),
            "tool_version": __version__,
            "created": time.time(),
            "note": dict(key.note),
            "parts": dict(key.parts),
            "sha256": dict(sha256 or {}),
        }
        write_json(folder / ENTRY_FILE, entry, default=str)

    @contextmanager
    def _lock(self, target: Path, on_wait: Callable[[str], None]) -> Iterator[Path]:
        # all locks lie in one folder and stay there: a process may hold one that it has opened and not locked yet
        name = str(target.relative_to(self.folder)).removesuffix(WORK).replace(os.sep, "-")
        locks = self.folder / LOCKS
        locks.mkdir(parents=True, exist_ok=True)
        owner = locks / f"{name}.owner"
        lock = FileLock(locks / f"{name}.lock")
        while not lock.is_locked:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                who = ""
                with suppress(InputError):
                    who = read_text(owner, 1000).strip()
                on_wait(who or "another process")
                time.sleep(POLL)
        try:
            with suppress(OSError):
                owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", "utf-8")
            yield target
        finally:
            with suppress(OSError):
                owner.unlink(missing_ok=True)
            lock.release()

    # -- what is there ---------------------------------------------------------------------------------------------

    def entries(self, kind: str | None = None) -> list[CacheEntry]:
        """List entries by kind and path; a file of somebody else, or behind a symbolic link, is none.

        Args:
            kind: Only those of this kind; by default all.
        """
        kinds = [path.name for path in _paths(self.folder)] if kind is None else [kind]
        return [entry for name in kinds for entry in self._entries(name)]

    def _entries(self, kind: str) -> Iterator[CacheEntry]:
        folder = self.folder / kind
        linked = Path(os.path.realpath(folder)) != Path(os.path.realpath(self.folder), kind)
        if linked or (folder / LOCKS).exists():  # a link, or another cache
            return
        for path in _paths(folder):
            if _is_own(kind, path):
                yield _entry(kind, path)
            elif "/" not in kind:  # such as `stages/finetune`
                yield from self._entries(f"{kind}/{path.name}")

    def entry(self, key: CacheKey) -> CacheEntry | None:
        """Return what the cache says of a key's entry; None if there is none."""
        return _entry(key.kind, self.path(key)) if key in self else None

    def delete(self, entry: CacheEntry) -> bool:
        """Delete an entry, unless a process makes or holds it; returns whether it is gone."""

        def give_up(owner: str) -> None:
            raise BlockingIOError(owner)

        is_folder = entry.path.is_dir()
        try:
            with self._lock(entry.path, give_up) if is_folder else nullcontext():
                if is_folder:
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    entry.path.unlink(missing_ok=True)
        except BlockingIOError:
            return False
        return not entry.path.exists()


def _digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file, but for those of `UNCHECKED`."""
    files = [f for f in folder.rglob("*") if f.is_file() and f.suffix not in UNCHECKED]
    return {file.relative_to(folder).as_posix(): file_digest(file) for file in sorted(files)}


def _check_files(folder: Path) -> None:
    entry = read_json(folder / ENTRY_FILE)
    if not isinstance(entry, dict):
        raise InputError(f"{folder / ENTRY_FILE}: is damaged")
    for name, digest in entry.get("sha256", {}).items():
        if file_digest(folder / name) != digest:
            raise InputError(f"{folder / name}: is damaged")


def touch(folder: Path) -> None:
    """Note that an entry was used now."""
    with suppress(OSError):
        os.utime(folder / ENTRY_FILE)


def _paths(folder: Path) -> list[Path]:
    """List what is in a folder; nothing if it cannot be read."""
    with suppress(OSError):
        return sorted(folder.iterdir())
    return []


def _is_own(kind: str, path: Path) -> bool:
    """Return whether mmpoison has written an entry: its name and its `entry.json` say so, and it is no link."""
    if path.is_symlink():
        return False
    if not path.is_dir():
        return _FILES.fullmatch(f"{kind}/{path.name}") is not None
    if (named := _DIGEST.fullmatch(path.name)) and named[1]:
        return True
    about = _about(path)
    return about.get("kind") == kind if about else bool(named and (path / ENTRY_FILE).is_file())


def _about(path: Path) -> dict[str, Any]:
    """Read the `entry.json` of an entry; empty if it is missing or damaged."""
    with suppress(InputError, OSError):
        about = read_json(path / ENTRY_FILE)
        return about if isinstance(about, dict) else {}
    return {}


def _entry(kind: str, path: Path) -> CacheEntry:
    size, used = 0, 0.0
    with suppress(OSError):  # another process may delete it meanwhile
        size = disk_bytes(path)
        file = path / ENTRY_FILE
        used = (file if file.is_file() else path).stat().st_mtime
    return CacheEntry(kind, path, size, used, _about(path))


def disk_bytes(path: Path) -> int:
    """Return how much disk a file takes, or all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    states = [file.lstat() for file in files if file.is_file()]
    return sum(int(getattr(state, "st_blocks", state.st_size / 512) * 512) for state in states)
