"""Writes files and folders atomically: under a temporary name next to the target, then renames them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from mmpoison._version import __version__
from mmpoison.base.text import one_line
from mmpoison.errors import AlreadyDone, InputError, WorkStopped

# -- Temporary files and folders, locked so that others can see whether their writer is alive.


if sys.platform == "win32":  # pragma: no cover
    fcntl = None
else:
    import fcntl

State = Literal["dead", "alive", "unknown"]

_ANY = re.compile(r"\..+\.mmpoison-[a-z0-9_]{8}")
_TRIES = 100
_own: dict[Path, int] = {}
"""Current and imminent temporaries, with the process that creates them. A forked child inherits this table."""
_NO_LINK, _NO_WAIT = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)


def temporary_prefix(target: Path) -> str:
    """Return the name prefix of a target's temporaries; eight letters or digits follow it."""
    return f".{target.name}.mmpoison-"


def temporaries_of(target: Path) -> list[Path]:
    """List the temporaries next to a target, of live and dead writers."""
    try:
        names = os.listdir(target.parent)  # noqa: PTH208 - in large folders many times as fast
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [target.parent / name for name in names if is_temporary(name, target)]


def is_temporary(name: str, target: Path) -> bool:
    """Check whether a file or folder next to a target is named like one of its temporaries."""
    prefix = temporary_prefix(target)
    return name.startswith(prefix) and bool(re.fullmatch(r"[a-z0-9_]{8}", name[len(prefix) :]))


@contextmanager
def owned_temporary(target: Path, *, folder: bool) -> Iterator[Path]:
    """Yield a new temporary next to a target, locked until the block ends and then removed if it still exists.

    Args:
        target: The final path; its folder exists.
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
    """Remove this process's temporaries before it exits.

    A signal may raise its exception between any two instructions, so also between the creation of a temporary and the
    block that removes it.
    """
    for path, owner in list(_own.items()):
        if owner == os.getpid():
            _remove(path)
            del _own[path]


def remove_dead(target: Path) -> list[Path]:
    """Remove temporaries that dead writers left next to a target.

    Returns:
        Temporaries of live writers.
    """
    return [path for path in temporaries_of(target) if _cleared(path) == "alive"]


def remove_all_dead(folder: Path) -> None:
    """Remove temporaries that dead writers of any target left in a folder and its sub-folders."""
    for place, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            if _ANY.fullmatch(name):
                _cleared(Path(place, name))
        folders[:] = [name for name in folders if not _ANY.fullmatch(name)]


@contextmanager
def one_at_a_time(folder: Path, patience: float = 2.0) -> Iterator[None]:
    """Exclude other processes while a short block changes a folder's entries, if the file system supports locks.

    Args:
        folder: The folder, which is locked itself; no lock file is created.
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
        `dead` if no process had the lock, so this one now holds it; `alive` if another process has it; `unknown` if the
        file system does not support locks.
    """
    if fcntl is None:  # pragma: no cover
        return "unknown"
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return "alive" if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else "unknown"
    return "dead"


def _make(target: Path, *, folder: bool) -> tuple[Path, int]:
    """Create a temporary that only its owner can read, and lock it."""
    for again in reversed(range(_TRIES)):
        path = target.parent / f"{temporary_prefix(target)}{secrets.token_hex(4)}"
        _own[path] = os.getpid()
        try:
            if folder:
                path.mkdir(0o700)
                handle = os.open(path, os.O_RDONLY)
            else:
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o600)
        except OSError as error:
            gone = isinstance(error, FileNotFoundError) and folder and target.parent.is_dir()
            if not (gone and again):
                raise OSError(error.errno, error.strerror, str(target)) from None
            continue  # another writer took it for a dead writer's and removed it before it was opened
        if lock(handle) != "alive" and _is_at(handle, path):
            return path, handle
        os.close(handle)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(target))


def _cleared(path: Path) -> State:
    """Remove a temporary if its writer is dead; return whether it was."""
    try:
        # never follow a link, and never block on a pipe
        handle = os.open(path, os.O_RDONLY | _NO_LINK | _NO_WAIT)
    except OSError:
        return "unknown"
    try:
        state = lock(handle)
        if state == "dead" and _is_at(handle, path):
            _remove(path)
        return state
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


RECORD_FILE = ".mmpoison.json"
"""File in an output folder that records the command that made it (see `held_output`)."""

held_records: dict[Path, str] = {}
"""Outputs locked by this process, with the content of each one's future `RECORD_FILE`."""


class DiskFull(WorkStopped):
    """No space for a file: the disk is full, a quota is exhausted, or a system limit is reached."""


@contextmanager
def atomic_file(target: Path, *, durable: bool = False, renames: bool = False) -> Iterator[Path]:
    """Yield a temporary path next to `target`, and rename it to `target` when the block ends without error.

    Args:
        target: The file.
        durable: Return only after the file is on disk, so that it survives a power failure.
        renames: The writing library creates its own temporary next to the path (safetensors). The path gets its own
            folder, so that a killed process leaves nothing behind.

    Raises:
        DiskFull: If there is no space, whichever library was writing.
    """
    refuse_special(target)  # the rename would replace the link
    with refused_without_room(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_dead(target)
        with owned_temporary(target, folder=renames) as owned:
            temporary = owned / target.name if renames else owned
            yield temporary
            # only the owner can read temporaries; results get the user's default permissions
            temporary.chmod(0o666 & ~_umask())
            if durable:
                _sync(temporary)
            temporary.replace(target)
            if durable:
                _sync(target.parent)


def occupied_by_others(owner: Path) -> bool:
    """Check whether a folder contains files although `owner`, the file that is always written first, is missing.

    Args:
        owner: The file that is written before all others in its folder.
    """
    # list once: another process may write it between two listings
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
    """Yield a temporary folder next to `target`, and rename it to `target` when the block ends without error.

    Leftovers of killed writers of the same target are removed.

    Raises:
        InputError: If `target` exists and is not empty, or another process is writing it.
        DiskFull: If there is no space, whichever library was writing.
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
    """Remove leftovers of dead writers of a folder; refuse if another process is writing it.

    Raises:
        InputError: If another process is writing the folder.
    """
    if remove_dead(target) and target.absolute() not in held_records:
        raise InputError(
            f"{target}: another process is writing it: wait for it, or choose another --out"
        )


def publish_folder(folder: Path, target: Path) -> None:
    """Rename a finished folder to its final name.

    Raises:
        InputError: If another process wrote the target meanwhile; its result is not replaced.
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
                f"{target}: another process wrote it at the same time, so this result was discarded and the other one "
                "kept: choose another --out to repeat it"
            ) from None
        raise


@contextmanager
def refused_without_room(target: Path) -> Iterator[None]:
    """Convert any library's "disk full" error in the block to a one-line `DiskFull`.

    Raises:
        DiskFull: If there is no space.
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


_FULL = "the disk is full: free some space, or use another disk"
_REASONS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: "the disk quota is used up: free some space, or use another disk",
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
    """Explain why there is no space for a file, and what to do. Return None for any other error.

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


def no_memory(error: BaseException) -> bool:
    """Check whether an error means that the machine or a GPU is out of memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, (RuntimeError, OSError)) and (
        "can't allocate memory" in text
        or "out of memory" in text
        or getattr(error, "errno", None) == errno.ENOMEM
    )


def refuse_occupied(target: Path) -> None:
    """Refuse a non-empty output folder, so that nothing is ever overwritten."""
    if not target.name:
        raise InputError(f"{target}: not a folder name: give a new folder with --out")
    refuse_special(target)
    if target.is_file():
        raise InputError(f"{target}: is a file, not a folder: choose another --out")
    if target.is_dir() and any(target.iterdir()):
        raise InputError(f"{target}: is not empty: choose another --out, or empty it")


def write_json(target: Path, value: Any, default: Callable[[Any], object] | None = None) -> None:
    """Write a value as indented JSON, atomically. `default` converts values that JSON cannot represent."""
    with atomic_file(target) as temporary:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=default)
        text += "\n"
        # Python represents a file name that is not UTF-8 with half surrogates, which JSON can escape
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def plain_name(value: Any) -> str:
    """Convert a value to part of a file name.

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


_SPECIAL = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
_SPECIAL |= dict.fromkeys((stat.S_IFCHR, stat.S_IFBLK), "a device")


def refuse_special(path: Path) -> None:
    """Refuse a path that may block forever or never end: a named pipe, a socket or a device.

    Raises:
        InputError: If the path is one of these. A missing path passes, because opening it raises the error.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    if (kind := _SPECIAL.get(stat.S_IFMT(mode))) is not None:
        raise InputError(f"{path}: is {kind}, not a regular file: give a regular file")


# -- The YAML front matter of a card (README.md), with which Hugging Face's hub indexes a model or data set.


FENCE = "---"

TAGS = ("mmpoison", "data-poisoning")
"""Tags of every card. A poisoned model or data set has one more."""
POISONED_TAG = "poisoned"


def front_matter(poisoned: bool, **fields: Any) -> str:
    """Return a card's front matter, ending with a line break.

    Args:
        poisoned: Whether to tag it as poisoned.
        **fields: Keys of the hub's metadata; None omits a key.

    >>> print(front_matter(True, library_name="open_clip", license=None), end="")
    ---
    library_name: open_clip
    tags:
    - mmpoison
    - data-poisoning
    - poisoned
    ---
    """
    import yaml  # imported here because every command imports this file when it starts

    given = {key: value for key, value in fields.items() if value is not None}
    given["tags"] = [*TAGS, *([POISONED_TAG] if poisoned else [])]
    text = yaml.safe_dump(given, sort_keys=False, allow_unicode=True)
    return f"{FENCE}\n{text}{FENCE}\n"


def without_front_matter(text: str) -> str:
    """Return a card without its front matter.

    >>> without_front_matter("---\\nlicense: mit\\n---\\n# Photos\\n")
    '# Photos\\n'
    """
    return re.sub(r"\A---[ \t]*\n(.*\n)*?---[ \t]*(\n+|\Z)", "", text)


# -- Output folders: one command at a time writes each, and a record names the command that made it.


_STORE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def refuse_address(out: str | Path) -> None:
    """Refuse an object store address as an output: it would create a folder called `s3:`.

    Args:
        out: The folder, as text, or as a path, in which `//` became `/`.

    Raises:
        InputError: If the folder is such an address.
    """
    if _STORE.match(str(out)):
        raise InputError(
            f"{one_line(str(out))}: results can only be written to a local folder: give one, and copy it to the store "
            "afterwards"
        )


@contextmanager
def held_output(
    target: Path, made_by: Mapping[str, Any], *, work: Path | None = None
) -> Iterator[None]:
    """Lock an output folder while a command writes it.

    Args:
        target: The folder.
        made_by: The command, its options and the `input_state` of its inputs.
        work: Folder of the command's unfinished work; if the output is finished, leftovers there are removed.

    Raises:
        AlreadyDone: If the same command made it before.
        InputError: If the folder has any other content, or another process is writing it.
    """
    record = output_record(made_by)
    check_output(target, record, work=work)
    new = [path for path in (target.parent, *target.parent.parents) if not path.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as stack:
            with one_at_a_time(target.parent):
                refuse_live_writers(target)
                check_output(target, record, work=work)  # another process may just have finished
                stack.enter_context(owned_temporary(target, folder=True))
            held_records[target.absolute()] = record
            stack.callback(held_records.pop, target.absolute())
            yield
    finally:
        for path in new:
            # a refused command leaves no folders
            with suppress(OSError):
                path.rmdir()


def check_output(target: Path, record: str, *, work: Path | None = None) -> None:
    """Refuse an output folder that is not empty.

    Args:
        target: The folder.
        record: The `output_record` of the command.
        work: As for `held_output`.

    Raises:
        AlreadyDone: If the same command made it before.
        InputError: If the folder has any other content.
    """
    made = target / RECORD_FILE
    try:
        refuse_occupied(target)
        return
    except InputError as error:
        # check first: a folder that appears meanwhile has its record
        occupied = error
    with suppress(OSError):
        if made.is_file() and made.read_bytes() == record.encode():
            # leftovers of a process that was killed after renaming the folder
            remove_dead(target)
            if work is not None:
                shutil.rmtree(work, ignore_errors=True)
            raise AlreadyDone(f"{target}: the same command made it before; nothing to do")
    raise occupied


def output_record(made_by: Mapping[str, Any]) -> str:
    """Create the record of a command that makes an output: a digest, without paths or options in plain text."""
    value = {"tool_version": __version__, **made_by}
    text = json.dumps(value, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
    return json.dumps({"tool_version": __version__, "made_by": digest}, indent=2) + "\n"


def input_state(path: Path, *, without: Path | None = None) -> str:
    """Digest name, size and modification time of a file, or of all files in a folder, without opening them.

    The ctime is left out because an output with hard links to the folder's images changes it.

    Args:
        path: The input.
        without: An output inside the folder, to leave out together with its temporary files.
    """
    digest = hashlib.sha256(os.fsencode(path.absolute()))
    for name, state in _states(path, None if without is None else without.absolute()):
        digest.update(os.fsencode(name) + f" {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _states(path: Path, without: Path | None) -> Iterator[tuple[str, os.stat_result]]:
    if not path.is_dir():
        with suppress(OSError):
            yield path.name, path.stat()
        return
    for folder, folders, names in os.walk(path.absolute()):
        if without is not None and os.fspath(without.parent) == folder:
            temporary = (f".{without.name}.", f"{without.name}.training")
            for listed in (folders, names):
                listed[:] = [n for n in listed if n != without.name and not n.startswith(temporary)]
        folders.sort()
        for name in sorted(names):
            with suppress(OSError):
                file = Path(folder, name)
                yield os.fspath(file), file.stat()


def cache_folder() -> Path:
    """Return `$MMPOISON_CACHE`, or `mmpoison` in the user's cache folder."""
    if chosen := os.environ.get("MMPOISON_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mmpoison"
