"""Files are written whole or not at all: to a temporary name beside the target, then renamed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmpoison.errors import InputError


@contextmanager
def atomic_file(target: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `target`; when the block ends well it becomes `target`.

    Args:
        target: The file.
        durable: Come back only when it is on the disk, so that it outlives a loss of power too.
    """
    refuse_special(target)  # the file would take its place
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; results are as readable as the user's other files
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        if durable:
            _sync(temporary)
        temporary.replace(target)
        if durable:
            _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def half_written(target: Path) -> list[Path]:
    """What writers of `target` that were killed on the way left beside it: `atomic_file` cannot tidy up after those.

    Args:
        target: The file, there or not.

    Returns:
        The temporary files. A writer that still lives may have one of them in hand.
    """
    return [path for path in _beside(target) if _is_half(path, target)]


def occupied_by_others(owner: Path) -> bool:
    """Whether the folder of `owner` holds something although `owner`, which says whose it is, is not there.

    Args:
        owner: The file that is written first of all that is in its folder.
    """
    # looked at once: a process that is being killed may write it between two looks
    there = _beside(owner)
    return owner not in there and not all(_is_half(path, owner) for path in there)


def _beside(target: Path) -> list[Path]:
    return list(target.parent.iterdir()) if target.parent.is_dir() else []


def _is_half(path: Path, target: Path) -> bool:
    return bool(re.fullmatch(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}", path.name))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; when the block ends well it becomes `target`.

    Raises:
        InputError: If `target` exists and holds something, or the disk is full.
    """
    refuse_occupied(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    except OSError as error:
        if disk_is_full(error):
            raise InputError(
                f"{error.filename or target}: the disk is full: make room, or choose another disk; nothing was written"
            ) from None
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def disk_is_full(error: OSError) -> bool:
    """Whether the system refused to write because there is no room, or none left for this user."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def refuse_occupied(target: Path) -> None:
    """Refuse an output folder that already holds something, so that nothing is ever overwritten."""
    refuse_special(target)
    if target.is_file():
        raise InputError(f"{target}: is a file, an output folder is needed: choose another --out")
    if target.is_dir() and any(target.iterdir()):
        raise InputError(f"{target}: already holds something: choose another --out or empty it")


def write_json(target: Path, value: Any) -> None:
    """Write JSON with sorted keys left as given, indented, atomically."""
    with atomic_file(target) as temporary:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        # a file name that is no UTF-8 has half surrogates in Python; JSON can spell them
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def refuse_special(path: Path) -> None:
    """Refuse what is there but has no end: reading from a named pipe that nobody writes into waits for ever.

    Raises:
        InputError: If it is a named pipe, a socket or a device. What is missing passes: whoever opens it says so.
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
            raise InputError(f"{path}: is {name} and not a file, it is refused")
