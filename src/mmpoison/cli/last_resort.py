"""Turns every way a command can end into one line and an exit code.

| end | exit code |
|---|---|
| done | 0 |
| bad input, a full disk, a folder without write permission, an error in a plug-in | 2 |
| a misleading result, no memory, a missing package, a bug | 1 |
| Ctrl-C (SIGINT) | 130 |
| SIGTERM | 143 |
| the output pipe is closed (`mmpoison ... | head`) | 141, without a message |
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

TRACEBACK = "MMPOISON_TRACEBACK"
"""Environment variable: 1 shows the stack trace of a bug instead of writing it to a file."""

INTERRUPTED = 128 + 2
BROKEN_PIPE = 128 + 13


class Terminated(KeyboardInterrupt):
    """SIGTERM: unwinds the stack as Ctrl-C does, so that clean-up code runs."""


class _Signals:
    """Turns SIGINT and SIGTERM into exceptions in the main thread, and records which one came."""

    def __init__(self) -> None:
        self.came: int | None = None
        self._owner = os.getpid()
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may install handlers
        for number in (signal.SIGINT, signal.SIGTERM):
            # keep ignoring what the shell ignores, such as SIGINT in background jobs
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._raise)

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            # a forked worker just dies; its parent cleans up
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.came = number
        while frame is not None:
            # an exception in an import from C code would abort the process with another message
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                os._exit(_stopped(self))
            frame = frame.f_back
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    def swallowed(self, unraisable: Any) -> bool:
        """Return whether a signal caused an exception that Python discarded; if so, resend it."""
        if self.came is None or not issubclass(unraisable.exc_type, KeyboardInterrupt):
            return False
        again = threading.Timer(0.05, os.kill, (self._owner, self.came))
        again.daemon = True
        again.start()
        return True


def guarded(run: Callable[[], int]) -> NoReturn:
    """Run a command and exit the process with its exit code.

    Args:
        run: The command; returns an exit code.
    """
    signals = _Signals()
    signals.install()
    unraisable = sys.unraisablehook

    def hook(value: Any, /) -> None:
        if not signals.swallowed(value):
            unraisable(value)

    in_thread = threading.excepthook

    def thread_hook(value: threading.ExceptHookArgs, /) -> None:
        # after a signal, threads of cancelled pools raise errors, even later than this function
        if signals.came is None:
            in_thread(value)

    threading.excepthook = thread_hook
    sys.unraisablehook = hook
    try:
        code = _code_of(run, signals)
    except KeyboardInterrupt:  # a second signal, while the first was handled
        code = _stopped(signals)
    finally:
        sys.unraisablehook = unraisable
        signals.restore()
    sys.exit(code)


def _code_of(run: Callable[[], int], signals: _Signals) -> int:
    try:
        code = run()
        sys.stdout.flush()
        # typer turns Ctrl-C into 130; a local page stopped by Ctrl-C returns 0, which is success
        ended = signals.came == signal.SIGTERM or (signals.came is not None and code)
        return _stopped(signals) if ended or code == INTERRUPTED else code
    except SystemExit as stop:
        # typer and rich exit this way if the output pipe is closed
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException as error:
        # a signal inside a library may surface as any exception
        if signals.came is not None or isinstance(error, KeyboardInterrupt):
            return _stopped(signals)
        if isinstance(error, BrokenPipeError) and error.filename is None:
            _silence()
            return BROKEN_PIPE
        line, code = explain(error)
        _say(line)
        return code


def _stopped(signals: _Signals) -> int:
    from mmpoison.base.files import remove_own

    remove_own()
    terminated = signals.came == signal.SIGTERM
    _say(f"{'terminated' if terminated else 'stopped'}; run the same command again to resume")
    return 128 + (signal.SIGTERM if terminated else signal.SIGINT)


def explain(error: BaseException) -> tuple[str, int]:
    """Return one line that says what ended a command and what to do, and the exit code.

    Args:
        error: Any exception except those of a signal.
    """
    from mmpoison.base.files import no_memory, no_room
    from mmpoison.base.registry import plugin_fault
    from mmpoison.errors import InputError, ResultError

    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, ResultError):
        return str(error), 1
    if (full := no_room(error)) is not None:
        where = getattr(error, "filename", None)
        return f"{where or 'writing'}: {full}", 2
    if no_memory(error):
        return (
            "out of memory: give a smaller batch_size or chunk_size, fewer --workers, or a machine with more memory"
            f" ({_short(error)})"
        ), 1
    if (fault := plugin_fault(error)) is not None:
        return f"{fault}{_save_trace(error)}", 2
    if isinstance(error, RecursionError):
        return f"something is nested too deeply, probably the input{_save_trace(error)}", 1
    if isinstance(error, ImportError) and (line := _missing(error)) is not None:
        return line, 1
    if isinstance(error, OSError) and error.errno is not None:
        # no write permission, a failing disk: the system's own message says which
        return f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), 2
    return (
        f"this is a bug in mmpoison ({_short(error)}); please report it with the command{_save_trace(error)}",
        1,
    )


def _missing(error: ImportError) -> str | None:
    from mmpoison.base.extras import EXTRAS, missing

    package = (error.name or "").partition(".")[0]
    if package in EXTRAS:
        verb = " ".join(["mmpoison", *sys.argv[1:2]])
        return str(missing(error, package, f"{verb} needs the extra {EXTRAS[package]!r}"))
    if package and package != "mmpoison":
        return f"the package {package} is missing or broken ({_short(error)}): pip install --force-reinstall mmpoison"
    return None


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:200].rstrip(": ")


def _save_trace(error: BaseException) -> str:
    """Save the stack trace and return where; print it instead if MMPOISON_TRACEBACK is set."""
    import time
    import traceback

    text = "".join(traceback.format_exception(error))
    if os.environ.get(TRACEBACK, "") not in ("", "0"):
        sys.stderr.write(text)
        return ""
    try:
        from mmpoison.base.files import cache_folder

        folder = cache_folder() / "crashes"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        file.write_text(f"{sys.argv}\n\n{text}", encoding="utf-8", errors="backslashreplace")
    except Exception:  # the report of one failure must not become another
        return f"; {TRACEBACK}=1 prints the stack trace"
    return f"; the stack trace is in {file}"


def _say(line: str) -> None:
    """Print one line on standard error, without control characters."""
    from mmpoison.base.text import printable_line

    plain = printable_line(line)
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _silence()
    try:
        sys.stderr.write(f"mmpoison: {plain}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        return  # standard error is closed too


def _silence() -> None:
    """Discard the rest of standard output, so that the interpreter does not complain when it exits."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        return
