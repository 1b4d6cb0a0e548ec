"""Caches results under a digest of what they depend on: images, features, embeddings, distances, stages, downloads.

An entry is a folder `KIND/DIGEST` in the cache folder. It appears complete, with an `entry.json` that lists its inputs;
that file's modification time is the time of last use. The process that creates an entry holds a file lock, which the
system releases if the process dies. Other processes that want the entry wait; one of them resumes from `DIGEST.work`,
which a dead process may have left. Processes share only the file system, so several machines can use one cache on a
shared disk. Every key contains `code_version`, one digest of the code and of the library versions.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import metadata, util
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

OWN = "mmpoison"
LARGE = 1 << 20
"""Skip larger files: they are model weights, whose digest is already part of every key that depends on them."""


@cache
def code_version(*made_by: object) -> str:
    """Return a digest of the code and data of mmpoison and its plug-ins, and of the required libraries.

    Any code change invalidates all cached results: there is no cheap proof that a result does not depend on it.

    Args:
        *made_by: Functions, classes, or dotted module names; their packages are included.

    Returns:
        32 hexadecimal digits.

    >>> code_version() == code_version("mmpoison.base.seeding") != code_version("json")
    True
    """
    parts = [platform.python_version()]
    names = (x if isinstance(x, str) else str(getattr(x, "__module__", x)) for x in made_by)
    for package in sorted({OWN, *(name.partition(".")[0] for name in names)}):
        parts += [package, *_contents(package)]
    for requirement in sorted(_requirements()):
        with suppress(metadata.PackageNotFoundError):  # an extra that is not installed
            parts.append(f"{requirement} {metadata.version(requirement)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _contents(package: str) -> list[str]:
    """Return digests of a package's files without importing it. A module is one file, a folder has many."""
    spec = util.find_spec(package)
    if spec is None:
        return []
    places = [Path(each) for each in spec.submodule_search_locations or ()]
    files = [
        (file, file.relative_to(place).as_posix()) for place in places for file in place.rglob("*")
    ]
    if not places and spec.origin is not None:
        files = [(Path(spec.origin), package)]
    return [
        f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}"
        for file, name in sorted(files, key=lambda each: each[1])
        if file.is_file() and file.suffix != ".pyc" and file.stat().st_size <= LARGE
    ]


def _requirements() -> set[str]:
    required = metadata.requires(OWN) or []
    return {match[0] for each in required if (match := re.match(r"[\w.-]+", each))}


# -- Reads arrays from cached `.npz` files; a damaged file counts as missing.


def read_all_arrays(file: Path, only: str = "") -> dict[str, npt.NDArray[Any]] | None:
    """Read all arrays of a file whose names begin with `only`; return None in the cases of `read_arrays`."""
    try:
        refuse_special(file)
        with np.load(file, allow_pickle=False) as arrays:
            return {n: np.asarray(arrays[n]) for n in arrays.files if n.startswith(only)}
    except Exception:
        return None


def read_arrays(file: Path, *names: str) -> tuple[npt.NDArray[Any], ...] | None:
    """Read arrays by name.

    Args:
        file: A file written by `numpy.savez`. Nothing is unpickled.
        names: Which arrays.

    Returns:
        The arrays in the order of `names`, or None if the file is missing, damaged, not regular, or lacks an array.
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
"""Files not hashed.

Arrays have their own checksums, checked on reading; 6,500 thumbnails would cost a second per run.
"""
POLL = 0.2
"""Seconds between two attempts to get a lock."""

_DIGEST = re.compile(r"[0-9a-f]{32}(\.work)?")
_FILES = re.compile(r"added-images/[0-9a-f]{64}\.png|crashes/\d{8}-\d{6}-\d+\.txt")
"""Other files that mmpoison writes into the cache folder."""


def digest_of(value: Any) -> str:
    """Return 32 hexadecimal digits for JSON values, whatever their key order. Other values are digested as text."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:32]


@dataclass(frozen=True)
class CacheKey:
    """The key of a result: everything it depends on.

    Attributes:
        kind: The kind of result, e.g. `features` or `stages/finetune`; also its folder.
        parts: Everything the result depends on, as JSON values: its inputs and its code (`code_version`, or
            `compute_environment` if numbers depend on the machine). Earlier results are named by `digest`.
        name: Display name; not part of the key.
        note: Further content of `entry.json`; not part of the key.
        address: Folder name of an entry that is identified by name instead of content, such as a download.
    """

    kind: str
    parts: Mapping[str, Any]
    name: str = ""
    note: Mapping[str, Any] = field(default_factory=dict)
    address: str | None = None

    @cached_property
    def digest(self) -> str:
        """The digest of kind and parts, 32 hexadecimal digits."""
        return digest_of({"kind": self.kind, **self.parts})


@dataclass(frozen=True)
class CacheEntry:
    """A cache entry, finished or not, or another file that mmpoison wrote into the cache folder.

    Attributes:
        kind: The kind of its key, or the name of its folder.
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
    """A folder of cached results, each of which can be recomputed.

    Args:
        folder: `$MMPOISON_CACHE`, or `mmpoison` in the user's cache folder by default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder if folder is not None else cache_folder()

    def path(self, key: CacheKey) -> Path:
        """Return the path of an entry, whether it exists or not."""
        return self.folder / key.kind / (key.address or key.digest)

    def __contains__(self, key: CacheKey) -> bool:
        return (self.path(key) / ENTRY_FILE).is_file()

    def find(self, key: CacheKey, read: Callable[[Path], T]) -> tuple[T] | None:
        """Read an entry; return None if it is missing or broken. Takes the arguments of `obtain`."""
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
        """Read an entry, or create it if it is missing.

        Args:
            key: The entry.
            read: Reads it from its folder. If this raises `InputError`, `OSError`, `ValueError` or `KeyError`, the
                entry is broken and is created again.
            make: Creates it in the given folder, which may contain files of an earlier attempt. Everything in the
                folder is cached.
            say: Called with one line if it waits for another process.

        Returns:
            The result of `read`, and whether the entry existed.
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
            if (found := self.find(key, read)) is not None:  # another process created it meanwhile
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
        """Read arrays, or compute and cache them. If the cache is read-only, they are still computed.

        Args:
            key: The entry.
            make: Computes the arrays by name.
            names: Which arrays, in which order they are returned.

        Raises:
            DiskFull: If the disk is full.
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
        """Hold an entry's lock and yield its folder, which may not exist yet.

        Args:
            key: The entry.
            on_wait: Called with the owner's name whenever another process has the lock; may raise to stop waiting.
        """
        return self._lock(self.path(key), on_wait)

    def describe(
        self,
        key: CacheKey,
        folder: Path,
        seconds: float | None = None,
        sha256: Mapping[str, str] | None = None,
    ) -> None:
        """Write `entry.json`, which makes a folder a valid entry. Every read checks the `sha256` of its files."""
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
        # lock files stay in one folder and are never deleted: a process may have opened one without locking it yet
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

    # -- entries ---------------------------------------------------------------------------------------------

    def entries(self, kind: str | None = None) -> list[CacheEntry]:
        """List entries by kind and path. Foreign files and symbolic links are skipped.

        Args:
            kind: List only entries of this kind; all by default.
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
        """Return a key's entry, or None if there is none."""
        return _entry(key.kind, self.path(key)) if key in self else None

    def delete(self, entry: CacheEntry) -> bool:
        """Delete an entry unless a process creates or holds it; return whether it was deleted."""

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
    """Return the SHA-256 of each file except those in `UNCHECKED`."""
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
    """Record that an entry was used now."""
    with suppress(OSError):
        os.utime(folder / ENTRY_FILE)


def _paths(folder: Path) -> list[Path]:
    """List the content of a folder, or nothing if it is unreadable."""
    with suppress(OSError):
        return sorted(folder.iterdir())
    return []


def _is_own(kind: str, path: Path) -> bool:
    """Check by name and `entry.json` that mmpoison wrote an entry, and that it is not a link."""
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
    """Return the disk space of a file, or of all files in a folder, in bytes."""
    files = path.rglob("*") if path.is_dir() else [path]
    states = [file.lstat() for file in files if file.is_file()]
    return sum(int(getattr(state, "st_blocks", state.st_size / 512) * 512) for state in states)
