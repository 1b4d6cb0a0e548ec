"""Writes files and folders whole or not at all: under a temporary name next to the target, then renamed."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmpoison.base.temporaries import is_temporary, owned_temporary, remove_dead
from mmpoison.errors import InputError, WorkStopped

RECORD_FILE = ".mmpoison.json"
"""In an output folder: records which command made it (see `outputs`)."""

held_records: dict[Path, str] = {}
"""Outputs that a command of this process has locked, and the content of the `RECORD_FILE` that each will get."""


class DiskFull(WorkStopped):
    """No room for a file: the disk is full, a quota is used up, or a system limit is reached."""


@contextmanager
def atomic_file(target: Path, *, durable: bool = False, renames: bool = False) -> Iterator[Path]:
    """Yield a temporary path next to `target`; when the block ends without error, it becomes `target`.

    Args:
        target: The file.
        durable: Return only when the file is on the disk, so that it survives a loss of power.
        renames: The path is written by a library that makes its own temporary next to it (safetensors): it gets its own
            folder, so that a killed process leaves nothing.

    Raises:
        DiskFull: If there is no room, whatever library was writing.
    """
    refuse_special(target)  # the file would replace it
    with refused_without_room(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_dead(target)
        with owned_temporary(target, folder=renames) as owned:
            temporary = owned / target.name if renames else owned
            yield temporary
            # only the owner can read temporaries; results get the usual permissions of the user's files
            temporary.chmod(0o666 & ~_umask())
            if durable:
                _sync(temporary)
            temporary.replace(target)
            if durable:
                _sync(target.parent)


def occupied_by_others(owner: Path) -> bool:
    """Return whether a folder holds files although `owner`, the file that is always written first, is missing.

    Args:
        owner: The file that is written before any other in its folder.
    """
    # listed once: a process that is being killed may write it between two listings
    there = list(owner.parent.iterdir()) if owner.parent.is_dir() else []
    return owner not in there and not all(is_temporary(path.name, owner) for path in there)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `target`; when the block ends without error, it becomes `target`.

    Leftovers of killed writers of the same target are removed.

    Raises:
        InputError: If `target` exists and is not empty, or another process is writing it.
        DiskFull: If there is no room, whatever library was writing.
    """
    refuse_occupied(target)
    with refused_without_room(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        refuse_live_writers(target)
        with owned_temporary(target, folder=True) as temporary:
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            publish_folder(temporary, target)


def refuse_live_writers(target: Path) -> None:
    """Remove what dead writers of a folder left; refuse if a live one is in another process.

    Raises:
        InputError: If one is alive.
    """
    if remove_dead(target) and target.absolute() not in held_records:
        raise InputError(
            f"{target}: another process is writing it: wait for it, or choose another --out"
        )


def publish_folder(folder: Path, target: Path) -> None:
    """Rename a finished folder to its final name.

    Raises:
        InputError: If another process has written the target in the meantime; its result is not replaced.
    """
    if (record := held_records.get(target.absolute())) is not None:
        (folder / RECORD_FILE).write_text(record, encoding="utf-8")
    try:
        if (
            os.name == "nt" and target.exists()
        ):  # pragma: no cover - elsewhere an empty folder is replaced
            target.rmdir()
        folder.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise InputError(
                f"{target}: another process wrote it at the same time: its result is complete and stays, this one was "
                "discarded: choose another --out to make it again"
            ) from None
        raise


@contextmanager
def refused_without_room(target: Path) -> Iterator[None]:
    """Turn any library's "no room" error in the block into one line.

    Raises:
        DiskFull: If there is no room.
    """
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        if (why := no_room(error)) is None:
            raise
        where = getattr(error, "filename", None) or target
        raise DiskFull(f"{where}: {why}; nothing was written to {target}") from None


_FULL = "the disk is full: make room, or choose another disk"
_REASONS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: "the disk is full: make room (your quota of it is used up), or choose another disk",
    errno.EFBIG: "a file would be larger than the system allows (ulimit -f): raise the limit",
}
_NAMED = {
    "os error 28": errno.ENOSPC,
    "no space left on device": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    f"os error {errno.EDQUOT})": errno.EDQUOT,
    f"os error {errno.EFBIG})": errno.EFBIG,
    "file too large": errno.EFBIG,
}


def no_room(error: BaseException) -> str | None:
    """Say why there was no room for a file, and what to do; None if the error is about something else.

    Libraries raise it differently: safetensors as its own error, NumPy as an `OSError` without a number, torch as a
    `RuntimeError`.
    """
    if isinstance(error, InputError):
        return None
    if isinstance(error, OSError) and error.errno is not None:
        return _REASONS.get(error.errno)
    text = str(error).lower()
    for name, number in _NAMED.items():
        if name in text:
            return _REASONS[number]
    # numpy.tofile: "4096 requested and 0 written"; torch: "[enforce fail at inline_container.cc"
    if ("requested and" in text and text.endswith("written")) or "inline_container.cc" in text:
        return _FULL
    return None


def refuse_occupied(target: Path) -> None:
    """Refuse an output folder that is not empty, so that nothing is ever overwritten."""
    refuse_special(target)
    if target.is_file():
        raise InputError(f"{target}: is a file and not a folder: choose another --out")
    if target.is_dir() and any(target.iterdir()):
        raise InputError(f"{target}: is not empty: choose another --out, or empty it")


def write_json(target: Path, value: Any, default: Callable[[Any], object] | None = None) -> None:
    """Write a value as indented JSON, whole or not at all; `default` turns what JSON cannot hold into what it can."""
    with atomic_file(target) as temporary:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=default)
        text += "\n"
        # Python represents a file name that is not UTF-8 with half surrogates, which JSON can escape
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def plain_name(value: Any) -> str:
    """Turn a value into a part of a file name.

    >>> plain_name(["sheep2aeroplane", "sofa2bird"]), plain_name(1e-4), plain_name(None), plain_name("a b/c")
    ('sheep2aeroplane+sofa2bird', '0.0001', 'none', 'a_b_c')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "+".join(map(plain_name, value))
    if isinstance(value, dict):
        return "+".join(f"{key}={plain_name(each)}" for key, each in value.items())
    return re.sub(r"[^A-Za-z0-9.=+_-]", "_", str(value)).lstrip(".") or "_"


def refuse_special(path: Path) -> None:
    """Refuse a path that can block for ever or has no end: a named pipe, a socket or a device.

    Raises:
        InputError: If it is one. A missing path passes: opening it gives the error.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    for is_one, name in (
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if is_one(mode):
            raise InputError(f"{path}: is {name} and not a regular file: give a file")
