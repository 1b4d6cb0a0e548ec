"""Detects that files, such as the images of a data set, have changed while they were read."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmpoison.base.phrasing import count_of
from mmpoison.errors import InputError
from mmpoison.images.added import cached_image
from mmpoison.images.containers import split_container

MISSING = 0

States = npt.NDArray[np.int64]
Names = Sequence[str] | npt.NDArray[np.object_]


def state_of(path: str) -> int:
    """Return the state of one regular file as a number; 0 if it does not exist."""
    try:
        found = os.stat(path)  # noqa: PTH116 - many times as fast as pathlib
    except (OSError, ValueError):
        return MISSING
    if not stat.S_ISREG(found.st_mode):
        return MISSING
    # hashes of whole numbers are the same in every process
    return hash((found.st_size, found.st_mtime_ns, found.st_ino)) or 1


def changed_error(paths: Sequence[Path]) -> InputError:
    """Build the error for one or more files that have changed."""
    return InputError(changed_line(paths))


def changed_line(paths: Sequence[Path]) -> str:
    """Write one line about one or more files that have changed."""
    more = f" (and {count_of(len(paths) - 1, 'file')} more)" if len(paths) > 1 else ""
    return (
        f"{paths[0]}: changed while the data set was read{more}: "
        "stop what writes into the data set, and repeat the command"
    )


def file_states(root: Path, ids: Names) -> States:
    """Return the state of each image file, for a later comparison; 8 bytes per image.

    Args:
        root: Folder the ids are relative to.
        ids: Relative paths, `n` of them; the state of an image inside a container is the container's.

    Returns:
        Shape `(n,)`; 0 for a file that is not there.
    """
    base = str(root)
    known: dict[str, int] = {}

    def of(image_id: str) -> int:
        state = state_of(f"{base}/{image_id}")
        if state == MISSING and (inner := split_container(root, image_id)) is not None:
            if inner[0] not in known:
                known[inner[0]] = state_of(f"{base}/{inner[0]}")
            return known[inner[0]]
        if state == MISSING and (cached := cached_image(root, image_id)) is not None:
            return state_of(str(cached))
        return state

    return np.fromiter((of(str(image_id)) for image_id in ids), dtype=np.int64, count=len(ids))


def absent_images(root: Path, ids: Names, states: States | None = None) -> list[str]:
    """List the ids of the images without a regular file, in order.

    Args:
        root: As for `file_states`.
        ids: As for `file_states`.
        states: What `file_states` gave for them; asked for by default.
    """
    states = file_states(root, ids) if states is None else states
    return [str(ids[int(index)]) for index in np.flatnonzero(states == MISSING)]


def changed_files(root: Path, ids: Names, before: States) -> list[str]:
    """List the ids of the images whose state has changed, in order."""
    differ = np.flatnonzero(file_states(root, ids) != before)
    return [str(ids[int(index)]) for index in differ]


def refuse_changed(root: Path, ids: Names, before: States) -> None:
    """Refuse images that have changed since their states were noted.

    Args:
        root: As for `file_states`.
        ids: As for `file_states`.
        before: The states then, shape `(n,)`.

    Raises:
        InputError: If one has changed: the first by name, and how many more.
    """
    if changed := changed_files(root, ids, before):
        raise changed_error([root / image_id for image_id in changed])
