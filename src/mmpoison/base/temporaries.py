"""Temporary files and folders that show whether the process that writes them is alive.

A writer holds a lock (`flock`) on its temporary while it is alive; the system releases it when the process ends in any
way. So the leftovers of a killed process can be distinguished from the temporary of a live one, and the next writer of
the same target removes them. On a file system without such locks nothing is removed.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

if sys.platform == "win32":  # pragma: no cover
    fcntl = None
else:
    import fcntl

State = Literal["dead", "alive", "unknown"]

_TRIES = 100
_ANY = re.compile(r"\..+\.mmpoison-[a-z0-9_]{8}")
_own: dict[Path, int] = {}
"""Temporaries that exist or are about to, with the process that makes them; a forked child inherits the table."""
_NO_LINK, _NO_WAIT = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)


def temporary_prefix(target: Path) -> str:
    """Return the beginning of the names of a target's temporaries; eight letters or digits follow."""
    return f".{target.name}.mmpoison-"


def temporaries_of(target: Path) -> list[Path]:
    """List the temporaries next to a target, of live and dead writers."""
    try:
        names = os.listdir(target.parent)  # noqa: PTH208 - in large folders many times as fast
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [target.parent / name for name in names if is_temporary(name, target)]


def is_temporary(name: str, target: Path) -> bool:
    """Return whether a file or folder next to a target is named like its temporaries."""
    prefix = temporary_prefix(target)
    return name.startswith(prefix) and bool(re.fullmatch(r"[a-z0-9_]{8}", name[len(prefix) :]))


@contextmanager
def owned_temporary(target: Path, *, folder: bool) -> Iterator[Path]:
    """Yield a new temporary next to a target, locked until the block ends; then it is removed if it still exists.

    Args:
        target: The path that it will become; its folder exists.
        folder: Make a folder instead of a file.
    """
    path, handle = _make(target, folder=folder)
    try:
        yield path
    finally:
        _remove(path)
        os.close(handle)
        _own.pop(path, None)


def remove_own() -> None:
    """Remove this process's temporaries, before it ends.

    A signal raises its exception between any two instructions, so also after a temporary was made and before the block
    that removes it.
    """
    for path, owner in list(_own.items()):
        if owner == os.getpid():
            _remove(path)
            del _own[path]


def remove_dead(target: Path) -> list[Path]:
    """Remove what dead writers of a target left next to it.

    Returns:
        The temporaries of writers that live.
    """
    alive = []
    for path in temporaries_of(target):
        with _looked_at(path) as state:
            if state == "alive":
                alive.append(path)
            elif state == "dead":
                _remove(path)
    return alive


def remove_all_dead(folder: Path) -> None:
    """Remove what dead writers of any target left in a folder and its sub-folders."""
    for place, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            if _ANY.fullmatch(name):
                with _looked_at(Path(place, name)) as state:
                    if state == "dead":
                        _remove(Path(place, name))
        folders[:] = [name for name in folders if not _ANY.fullmatch(name)]


@contextmanager
def one_at_a_time(folder: Path, patience: float = 2.0) -> Iterator[None]:
    """Keep other processes out of a short block about a folder's entries, if the file system has locks.

    Args:
        folder: The folder; it is locked itself, no file is made.
        patience: Seconds after which the block runs without the lock.
    """
    import time

    handle = os.open(folder, os.O_RDONLY) if fcntl is not None else None
    try:
        end = time.monotonic() + patience
        while handle is not None and lock(handle) == "alive" and time.monotonic() < end:
            time.sleep(0.02)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def lock(handle: int) -> State:
    """Try to lock an open file or folder.

    Returns:
        `dead` if no process had the lock, so that this one has it now; `alive` if another has it; `unknown` if the
        file system has no locks.
    """
    if fcntl is None:  # pragma: no cover
        return "unknown"
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return "alive" if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else "unknown"
    return "dead"


def _make(target: Path, *, folder: bool) -> tuple[Path, int]:
    for _ in range(_TRIES):
        path = target.parent / f"{temporary_prefix(target)}{secrets.token_hex(4)}"
        _own[path] = os.getpid()
        try:
            handle = _open_new(path, folder=folder)
        except FileExistsError:
            del _own[path]
            continue
        except FileNotFoundError:
            # before it was opened, another writer may have removed it as a dead one's
            del _own[path]
            if folder and target.parent.is_dir():
                continue
            raise
        if lock(handle) != "alive" and _is_at(handle, path):
            return path, handle
        os.close(handle)
        del _own[path]
    raise FileExistsError(errno.EEXIST, "no temporary can be made", str(target.parent))


def _open_new(path: Path, *, folder: bool) -> int:
    """Make a file or folder that only its owner can read, and open it."""
    if folder:
        path.mkdir(0o700)
        return os.open(path, os.O_RDONLY)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o600)


@contextmanager
def _looked_at(path: Path) -> Iterator[State]:
    """Yield whether the writer of a temporary is alive; if not, the block holds its lock."""
    try:
        # never follow a link, and never wait for the other end of a pipe
        handle = os.open(path, os.O_RDONLY | _NO_LINK | _NO_WAIT)
    except OSError:
        yield "unknown"
        return
    try:
        state = lock(handle)
        yield "unknown" if state == "dead" and not _is_at(handle, path) else state
    finally:
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
