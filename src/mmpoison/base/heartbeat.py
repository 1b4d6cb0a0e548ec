"""Says every half minute that work goes on, where no bar moves: in a log, a pipe, a scheduler."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

SECONDS_OF_SILENCE = 30.0
"""A reader of a log waits no longer for a sign of life."""


class Heartbeat:
    """Says a line whenever nothing was said for half a minute, from a thread of its own.

    Args:
        say: Shows one line; called from one thread at a time.
        doing: What is said while `at` is empty.
        silence: Seconds without a line; `SECONDS_OF_SILENCE` by default.

    Attributes:
        at: What is being done at this moment; set it as often as it changes.
    """

    def __init__(
        self, say: Callable[[str], None], doing: str, silence: float | None = None
    ) -> None:
        self.at = ""
        self._say, self._doing = say, doing
        self._silence = SECONDS_OF_SILENCE if silence is None else silence
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._begun = self._said = time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def say(self, line: str) -> None:
        """Say a line; the next heartbeat is a whole silence later."""
        with self._lock:
            self._said = time.monotonic()
            self._say(line)

    def _watch(self) -> None:
        while not self._ended.wait(max(0.01, self._said + self._silence - time.monotonic())):
            if time.monotonic() - self._said < self._silence:
                continue
            seconds = time.monotonic() - self._begun
            try:
                self.say(f"{self.at or self._doing} ({seconds:,.0f} s so far)")
            except (OSError, ValueError, SystemExit):
                return  # nobody reads any more: the main thread finds out itself
