"""Output folders: each belongs to one command at a time, and knows which command made it.

A command holds its output from its start: a second one for the same folder is refused before it has worked for hours
in vain. When the folder gets its name, a digest of the command, its options and its inputs is in it
(`.mmpoison.json`). The same command again finds it and is done; any other is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmpoison._version import __version__
from mmpoison.base.files import RECORD_FILE, held_records, refuse_live_writers, refuse_occupied
from mmpoison.base.temporaries import one_at_a_time, owned_temporary, remove_dead
from mmpoison.errors import AlreadyDone


@contextmanager
def held_output(
    target: Path, made_by: Mapping[str, Any], *, work: Path | None = None
) -> Iterator[None]:
    """Hold an output folder while a command makes it.

    Args:
        target: The folder.
        made_by: The command, its options and what `input_state` says of its inputs.
        work: Where the command keeps unfinished work; what is left there of a finished output is removed.

    Raises:
        AlreadyDone: If the same command has made it.
        InputError: If it holds anything else, or another process writes it.
    """
    record = output_record(made_by)
    check_output(target, record, work=work)
    new = [path for path in (target.parent, *target.parent.parents) if not path.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with one_at_a_time(target.parent):
            refuse_live_writers(target)
            own = owned_temporary(target, folder=True)
            own.__enter__()
        held_records[target.absolute()] = record
        try:
            yield
        finally:
            del held_records[target.absolute()]
            own.__exit__(None, None, None)
    finally:
        for path in new:
            # a command that was refused leaves nothing
            with suppress(OSError):
                path.rmdir()


def check_output(target: Path, record: str, *, work: Path | None = None) -> None:
    """Refuse an output folder that holds something.

    Args:
        target: The folder.
        record: What `output_record` gives for the command.
        work: As for `held_output`.

    Raises:
        AlreadyDone: If the same command has made it.
        InputError: If it holds anything else.
    """
    made = target / RECORD_FILE
    with suppress(OSError):
        if made.is_file() and made.read_bytes() == record.encode():
            # what is left of a process that was killed after the folder had its name
            remove_dead(target)
            if work is not None:
                shutil.rmtree(work, ignore_errors=True)
            raise AlreadyDone(f"{target}: was made by the same command before: nothing to do")
    refuse_occupied(target)


def output_record(made_by: Mapping[str, Any]) -> str:
    """What an output folder says of the command that made it: a digest, which holds no path and no option in clear."""
    value = {"tool_version": __version__, **made_by}
    text = json.dumps(value, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
    return json.dumps({"tool_version": __version__, "made_by": digest}, indent=2) + "\n"


def input_state(path: Path, *, without: Path | None = None) -> str:
    """A digest of the names, sizes and times of change of a file, or of all files in a folder; no file is opened.

    Args:
        path: What is read.
        without: An output, which may lie in the folder: neither it nor what is written beside it counts.
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
    waiting = [os.fspath(path.absolute())]
    while waiting:
        folder = waiting.pop()
        beside = without is not None and os.fspath(without.parent) == folder
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            if beside and without is not None and _belongs(entry.name, without.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
                continue
            with suppress(OSError):
                yield entry.path, entry.stat()


def _belongs(name: str, output: str) -> bool:
    return name == output or name.startswith((f".{output}.", f"{output}.training"))
