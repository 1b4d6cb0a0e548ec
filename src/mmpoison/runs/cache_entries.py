"""What the cache folder holds, item by item, and how one is let go."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from mmpoison.runs.store import ENTRY_FILE, folder_bytes


@dataclass(frozen=True)
class Kept:
    """One item: a file or a folder.

    Attributes:
        kind: `stages/finetune`, or the name of the folder it lies in; `files` for what lies in none.
        path: Where it is.
        bytes: Its size.
        used: When it was last of use, in seconds since 1970, as far as is known.
    """

    kind: str
    path: Path
    bytes: int
    used: float


def kept_items(cache: Path) -> Iterator[Kept]:
    """All items of a cache folder; lock files are none."""
    for folder in sorted(cache.iterdir()) if cache.is_dir() else []:
        if folder.is_file():
            yield _item("files", folder)
        elif folder.name == "stages":
            for kind in sorted(folder.iterdir()):
                yield from (_item(f"stages/{kind.name}", path) for path in _inside(kind))
        else:
            yield from (_item(folder.name, path) for path in _inside(folder))


def delete_item(item: Kept) -> bool:
    """Delete an item, unless a process is at work on it; returns whether it is gone."""
    if item.kind.startswith("stages/"):
        # the lock file itself stays: a process may hold it that has not read it yet
        lock = FileLock(item.path.with_name(f"{item.path.name.removesuffix('.work')}.lock"))
        try:
            with lock.acquire(timeout=0):
                _delete(item.path)
        except Timeout:
            return False
    else:
        _delete(item.path)
    return not item.path.exists()


def _inside(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix not in (".lock", ".owner"))


def _item(kind: str, path: Path) -> Kept:
    size, used = 0, 0.0
    with suppress(OSError):  # another process may delete it meanwhile
        size = folder_bytes(path) if path.is_dir() else path.stat().st_size
        entry = path / ENTRY_FILE
        used = (entry if entry.is_file() else path).stat().st_mtime
    return Kept(kind, path, size, used)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
