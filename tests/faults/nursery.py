"""Runs commands in forks of a process that has imported everything, so that a kill costs no seconds of imports.

Started as a program: reads one request a line on standard input, answers one line on standard output.

A request: `{"arguments": [...], "cwd": "...", "environment": {...}, "signal": 9, "after": 0.8}`. With a signal, the
command gets it after so many seconds; with SIGKILL its whole group does not: helpers have to find out. With
`"copies": 2` two of it run at once, with `"file_bytes"` no file may become larger. The answer is a list, an entry for
each copy: `{"code": 0, "seconds": 1.2, "out": "...", "err": "..."}`; the code of a killed process is minus the signal.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
from typing import Any

MODULES = (
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "pyarrow.parquet",
    "torch",
    "open_clip",
    "mmpoison.cli.app",
    "mmpoison.defenses.scan.cut.judging",
    "mmpoison.defenses.scan.read.vectors",
    "mmpoison.defenses.scan.read.embed",
    "mmpoison.defenses.scan.scan",
    "mmpoison.runs.run",
    "mmpoison.runs.sterilize_model",
    "mmpoison.runs.run_all",
    "mmpoison.reporting",
)


def answer(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Run one command in a fork, or the same in several at once."""
    copies = [_Child(request) for _ in range(request.get("copies", 1))]
    if (number := request.get("signal")) is not None:
        copies[0].disturb(number, request["after"])
    return [child.answer() for child in copies]


class _Child:
    def __init__(self, request: dict[str, Any]) -> None:
        self.out, self.err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - `answer` closes them
        self.begun = time.perf_counter()
        self.id = os.fork()
        if not self.id:
            _become(request, self.out.fileno(), self.err.fileno())
        with contextlib.suppress(OSError):  # whichever of the two comes first
            os.setpgid(self.id, self.id)

    def disturb(self, number: int, after: float) -> None:
        end = self.begun + after
        while time.perf_counter() < end and not _has_ended(self.id):
            time.sleep(min(0.002, max(0.0, end - time.perf_counter())))
        if not _has_ended(self.id):
            # a terminal sends Ctrl-C to all processes of a command, `kill` goes to one
            (os.killpg if number == signal.SIGINT else os.kill)(self.id, number)

    def answer(self) -> dict[str, Any]:
        _, status = os.waitpid(self.id, 0)
        seconds = time.perf_counter() - self.begun
        _wait_for_group(self.id)
        texts = []
        for stream in (self.out, self.err):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
            stream.close()
        code = os.waitstatus_to_exitcode(status)
        return {"code": code, "seconds": seconds, "out": texts[0], "err": texts[1]}


def _has_ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _wait_for_group(group: int) -> None:
    """Wait until no process of a group is left: workers end by themselves when their parent has died."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(0.02)
    os.killpg(group, signal.SIGKILL)
    raise AssertionError("helper processes outlived their parent by 20 seconds")


def _become(request: dict[str, Any], out: int, err: int) -> None:
    code = 70
    try:
        os.setpgid(0, 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(request["cwd"])
        os.environ.update(request.get("environment", {}))
        if (limit := request.get("file_bytes")) is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        sys.argv = ["mmpoison", *request["arguments"]]
        from mmpoison.cli import main

        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def main() -> None:
    """Answer until the input ends."""
    # a signal that comes before a command has begun ends it without a word, as in a fresh interpreter
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for module in MODULES:
        importlib.import_module(module)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
