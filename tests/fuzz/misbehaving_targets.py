"""Readers that do what no reader may do, one a rule: they show that the harness sees it."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzz.target import Target
from tests.fuzz.tokens import CANARY_CODE

from mmpoison.errors import InputError

VALID = b"0123456789"


def _only_when_changed(act: Callable[[Path], Any]) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        if (folder / "a.bin").read_bytes() != VALID:
            act(folder)

    return read


def _build(folder: Path) -> None:
    (folder / "a.bin").write_bytes(VALID)


def _refuse(folder: Path) -> None:
    raise InputError(f"{folder}: is refused")


def _crash(folder: Path) -> None:
    raise KeyError("unexpected")


def _multiply(folder: Path) -> None:
    bytearray(1 << 30)


def _multiply_and_refuse(folder: Path) -> None:
    try:
        bytearray(1 << 30)
    except MemoryError:
        raise InputError("too large") from None


def _spin(folder: Path) -> None:
    while True:
        pass


def _connect(folder: Path) -> None:
    try:
        with socket.create_connection(("127.0.0.1", 9), timeout=1):
            pass
    except OSError:
        raise InputError("offline") from None


def _start_a_program(folder: Path) -> None:
    subprocess.run(["true"], check=True)


def _write_outside(folder: Path) -> None:
    # that is the folder of the worker and not of the input
    (folder.parents[2] / "written").write_text("x")


def _read_outside(folder: Path) -> None:
    (folder / ".." / "canary" / "secret.json").read_text()


def _run_a_file(folder: Path) -> None:
    (folder / "tok.py").write_text("x = 1\n")
    sys.path.insert(0, str(folder))
    try:
        exec(compile((folder / "tok.py").read_text(), str(folder / "tok.py"), "exec"), {})
    finally:
        sys.path.pop(0)


class _Code:
    def __reduce__(self) -> Any:
        return print, ("code of the input",)


def _unpickle(folder: Path) -> None:
    pickle.loads(pickle.dumps(_Code()))


def _run_the_canary(folder: Path) -> None:
    exec(CANARY_CODE, {"__name__": "tok"})


def _die(folder: Path) -> None:
    os._exit(3)


_ACTS: dict[str, tuple[Callable[[Path], Any], str | None]] = {
    "refuses": (_refuse, None),
    "crashes": (_crash, "KeyError @ misbehaving_targets.py"),
    "memory": (_multiply, "more than 512 MiB of memory"),
    "memory-refused": (_multiply_and_refuse, "more than 512 MiB of memory"),
    "spins": (_spin, "more than 1 s of processor time"),
    "connects": (_connect, "network: socket."),
    "starts": (_start_a_program, "program: subprocess.Popen"),
    "writes": (_write_outside, "write outside: open"),
    "reads": (_read_outside, "read outside"),
    "runs": (_run_a_file, "code: a file of the input"),
    "canary": (_run_the_canary, "code: a Python file of the input was run"),
    "unpickles": (_unpickle, "unpickled: builtins.print"),
    "dies": (_die, "the process died (3)"),
}
EXPECTED = {name: found for name, (_, found) in _ACTS.items()}
"""What is found with each target."""


def all_targets() -> dict[str, Target]:
    """The misbehaving targets by name."""
    return {
        name: Target(name, _build, {"a.bin": "bytes"}, _only_when_changed(act))
        for name, (act, _) in _ACTS.items()
    }
