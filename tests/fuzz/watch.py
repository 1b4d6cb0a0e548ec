"""Notices what no input may cause: a connection, another program, its own code run, a file touched outside."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fuzz.target import MEMORY
from tests.fuzz.tokens import CANARY_EVENT

SECONDS = 5.0
"""Processor time that one input may take."""

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_NETWORK = (
    "socket.connect",
    "socket.getaddrinfo",
    "socket.sendto",
    "urllib.Request",
    "ftplib.connect",
)
_PROGRAMS = (
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn"),
    *("os.fork", "os.forkpty", "webbrowser.open"),
)
_CHANGES = (
    *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"),
    *("os.chmod", "os.chown", "os.utime", "os.mkfifo", "shutil.copyfile", "shutil.move"),
)


_FORBIDDEN = ("/etc", "/dev/zero")
_REFUSED = ("network", "program")
"""What is not only seen but stopped, as is a change outside of the worker's folder: no input harms the machine."""
_WORST_FIRST = ("code", "unpickled", "program", "network", "read", "write")

SOURCE = str(Path(__file__).resolve().parents[2] / "src" / "mmpoison") + os.sep


class TooSlow(BaseException):
    """An input took more than its processor time."""


class Watch:
    """The audit hook of a process; silent outside `watching`.

    Args:
        inside: The only folder that may be written into; its code must not be run.
        canary: A folder that no input may have read; `canary` resolved.
        seconds: Processor time that one input may take.
    """

    def __init__(self, inside: Path, canary: Path, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._inside = str(inside.resolve()) + os.sep
        self.canary = canary.resolve()
        self._canary = str(self.canary)
        self._on = False
        self.seen: list[tuple[str, str]] = []
        """What happened, and the innermost frame of ours that it happened in."""
        sys.addaudithook(self._hook)

    @contextmanager
    def watching(self, memory: int = MEMORY) -> Iterator[None]:
        """Collect what happens in `seen` while the block runs, within the limits of time and memory (bytes)."""
        self.seen.clear()
        limit = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (_virtual_bytes() + memory, limit[1]))
        before = signal.signal(signal.SIGPROF, _too_slow)
        signal.setitimer(signal.ITIMER_PROF, self.seconds)
        self._on = True
        try:
            yield
        finally:
            self._on = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
            resource.setrlimit(resource.RLIMIT_AS, limit)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        said = self._judge(event, arguments)
        if said is None:
            return
        stack = traceback.walk_stack(sys._getframe(1))
        frame = innermost((f.f_code.co_filename, line, f.f_code.co_name) for f, line in stack)
        if (said, frame) not in self.seen:
            self.seen.append((said, frame))
        if said.startswith(_REFUSED) or (said.startswith("write") and self._leaves(arguments)):
            raise PermissionError(errno.EPERM, f"refused while fuzzing: {said}")

    @property
    def worst(self) -> tuple[str, str] | None:
        """The worst of what was seen, or None."""
        order = {word: place for place, word in enumerate(_WORST_FIRST)}
        return min(self.seen, key=lambda one: order[one[0].split()[0].rstrip(":")], default=None)

    def _leaves(self, arguments: tuple[Any, ...]) -> bool:
        """Whether a path lies outside of the worker's folder; its home and cache lie in that."""
        whole = os.path.dirname(self._inside.rstrip(os.sep)) + os.sep  # noqa: PTH120
        paths = [path for path in map(_text, arguments[:2]) if path]
        return any(not os.path.realpath(path).startswith(whole) for path in paths)

    def _judge(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        if event == "open":
            return self._opened(*arguments[:3])
        if event == CANARY_EVENT:
            return "code: a Python file of the input was run"
        if event in _NETWORK:
            return f"network: {event}"
        if event in _PROGRAMS:
            return f"program: {event} {str(arguments[0])[:80] if arguments else ''}"
        if event in _CHANGES:
            outside = [
                path for path in map(_text, arguments[:2]) if path and self._is_outside(path)
            ]
            return f"write outside: {event} {outside[0][:80]}" if outside else None
        if event == "exec":
            return self._ran(getattr(arguments[0], "co_filename", ""))
        if event == "compile":
            return self._ran(arguments[1])
        if event == "import":
            return self._ran(arguments[1])
        if event in ("ctypes.dlopen", "sys.dlopen"):
            return self._ran(arguments[0])
        if event == "pickle.find_class" and not _is_plain(arguments):
            return f"unpickled: {arguments[0]}.{arguments[1]}"
        return None

    def _opened(self, path: Any, mode: Any, flags: Any) -> str | None:
        text = _text(path)
        if not text:
            return None
        real = os.path.realpath(text)
        if real.startswith((self._canary, *_FORBIDDEN)):
            return "read outside: a file that is no part of the input was opened"
        writes = isinstance(flags, int) and flags & _WRITES
        if writes and text != os.devnull and self._is_outside(text):
            return f"write outside: open {text[:80]}"
        return None

    def _ran(self, filename: Any) -> str | None:
        text = _text(filename)
        if text.startswith(os.sep) and not self._is_outside(text):
            return "code: a file of the input was compiled, imported or run"
        return None

    def _is_outside(self, path: str) -> bool:
        return not (os.path.realpath(path) + os.sep).startswith(self._inside)


def innermost(steps: Iterable[tuple[str, int, str]]) -> str:
    """The first of some frames that is of mmpoison, `reporting/_html.py:291 _object`; else of the target."""
    target = ""
    for file, line, function in steps:
        if file.startswith(SOURCE):
            return f"{file.removeprefix(SOURCE)}:{line} {function}"
        if not target and file.endswith("_targets.py"):
            target = f"{os.path.basename(file)}:{line} {function}"  # noqa: PTH119
    return target


def _text(path: Any) -> str:
    if isinstance(path, (bytes, bytearray)):
        return os.fsdecode(bytes(path))
    return os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""


def _is_plain(name: tuple[Any, ...]) -> bool:
    # multiprocessing's and NumPy's own pickles are not asked for by an input
    return str(name[0]).partition(".")[0] in ("numpy", "collections", "copyreg")


def _too_slow(*_: Any) -> None:
    assert threading.current_thread() is threading.main_thread()
    raise TooSlow


def _virtual_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as stream:  # noqa: PTH123
        return int(stream.read().split()[0]) * resource.getpagesize()
