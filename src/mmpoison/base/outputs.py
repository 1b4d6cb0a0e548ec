"""Output folders: each belongs to one command at a time, and records which command made it.

A command locks its output when it starts, so that a second one for the same folder is refused at once and not after
hours of work. The finished folder contains a digest of the command, its options and its inputs (`.mmpoison.json`). The
same command finds it later and has nothing to do; any other command is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmpoison._version import __version__
from mmpoison.base.files import RECORD_FILE, held_records, refuse_live_writers, refuse_occupied
from mmpoison.base.phrasing import one_line
from mmpoison.base.temporaries import one_at_a_time, owned_temporary, remove_dead
from mmpoison.errors import AlreadyDone, InputError

_STORE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def refuse_address(out: str | Path) -> None:
    """Refuse an address of an object store as an output: it would become a folder that is called `s3:`.

    Args:
        out: The folder, as text or as a path, in which `//` is `/`.

    Raises:
        InputError: If it is an address.
    """
    if _STORE.match(str(out)):
        raise InputError(
            f"{one_line(str(out))}: results are written to a folder of this machine, not to a store: give a folder "
            "and copy it afterwards"
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
        AlreadyDone: If the same command has made it before.
        InputError: If it contains anything else, or another process is writing it.
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
        AlreadyDone: If the same command has made it before.
        InputError: If it contains anything else.
    """
    made = target / RECORD_FILE
    with suppress(OSError):
        if made.is_file() and made.read_bytes() == record.encode():
            # leftovers of a process that was killed after the folder had got its name
            remove_dead(target)
            if work is not None:
                shutil.rmtree(work, ignore_errors=True)
            raise AlreadyDone(
                f"{target}: the same command made it before, so there is nothing to do"
            )
    refuse_occupied(target)


def output_record(made_by: Mapping[str, Any]) -> str:
    """Make the record of the command that made an output: a digest, without paths or options in plain text."""
    value = {"tool_version": __version__, **made_by}
    text = json.dumps(value, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
    return json.dumps({"tool_version": __version__, "made_by": digest}, indent=2) + "\n"


def input_state(path: Path, *, without: Path | None = None) -> str:
    """Digest the names, sizes and modification times of a file, or of all files in a folder; nothing is opened.

    Args:
        path: The input.
        without: An output, which may be inside the folder: it and the temporary files next to it are left out.
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
        holds_output = without is not None and os.fspath(without.parent) == folder
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            if holds_output and without is not None and _belongs(entry.name, without.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
                continue
            with suppress(OSError):
                yield entry.path, entry.stat()


def _belongs(name: str, output: str) -> bool:
    return name == output or name.startswith((f".{output}.", f"{output}.training"))
