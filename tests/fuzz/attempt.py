"""Runs one input through a target and says what came of it; remembers which lines of mmpoison were reached."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fuzz import tokens
from tests.fuzz.data_targets import picture_bytes
from tests.fuzz.target import Case, Target
from tests.fuzz.watch import SOURCE, TooSlow, Watch, innermost

from mmpoison.errors import InputError, ResultError

Line = tuple[str, int]
LONGEST_REFUSAL = 2000
"""Characters of a message: it must not repeat a large input."""


@dataclass(frozen=True)
class Outcome:
    """What came of an input.

    Attributes:
        kind: `accepted`, `refused` or `finding`.
        signature: Of a refusal where it was raised; of a finding what happened, and the innermost frame of ours.
        report: The whole traceback, or the message.
        lines: Lines of mmpoison that were reached, if they were traced.
    """

    kind: str
    signature: str = ""
    report: str = ""
    lines: frozenset[Line] = frozenset()


class Runner:
    """A target in its folder, in this process.

    Args:
        target: What to run.
        place: Empty folder for everything.
        watch: The hook of this process.
    """

    def __init__(self, target: Target, place: Path, watch: Watch) -> None:
        self.target = target
        self.folder = place / "case"
        self._place = place.parents[1].resolve()
        self.folder.mkdir(parents=True)
        self._watch = watch
        target.build(self.folder)
        self.base: Case = {name: (self.folder / name).read_bytes() for name in target.files}
        inner = [self.folder / "canary"] if any("/" in name for name in target.files) else []
        for link in (place / "canary", *inner):
            link.symlink_to(watch.canary, target_is_directory=True)
        os.chdir(self.folder)
        warnings.simplefilter("ignore")
        # what is imported at the first use is not what is watched
        for _ in range(2):
            target.read(self.folder)

    def attempt(self, case: Case, *, traced: bool = False) -> Outcome:
        """Write the files of an input and read them."""
        for name, content in case.items():
            (self.folder / name).write_bytes(content)
        reached: set[Line] = set()
        error: BaseException | None = None
        with self._watch.watching(self.target.memory):
            if traced:
                sys.settrace(_tracer(reached))
            try:
                self.target.read(self.folder)
            except BaseException as caught:
                if isinstance(caught, KeyboardInterrupt):
                    raise
                error = caught
            finally:
                sys.settrace(None)
        return self._judge(error, frozenset(reached))

    def _judge(self, error: BaseException | None, lines: frozenset[Line]) -> Outcome:
        report = "" if error is None else "".join(traceback.format_exception(error))
        where = _raised(error)
        if worst := self._watch.worst:
            # the names of temporary folders differ each time
            said = worst[0].replace(str(self._place), "PLACE")
            return Outcome("finding", f"{said} @ {worst[1]}", report, lines)
        most = ""
        if isinstance(error, TooSlow):
            most = f"{self._watch.seconds:g} s of processor time"
        elif ran_out(error):
            most = f"{self.target.memory >> 20} MiB of memory"
        if most:
            return Outcome("finding", f"more than {most} @ {where}", report, lines)
        if error is None:
            return Outcome("accepted", lines=lines)
        if isinstance(error, (InputError, ResultError)):
            said = str(error)
            if len(said.splitlines()) == 1 and len(said) < LONGEST_REFUSAL:
                return Outcome("refused", where, said, lines)
            return Outcome("finding", f"a refusal of more than one line @ {where}", said, lines)
        return Outcome("finding", f"{type(error).__name__} @ {where}", report, lines)


def ran_out(error: BaseException | None) -> bool:
    """Whether an error, or one that it was made of, is that memory could not be had."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        text = str(error)
        if isinstance(error, MemoryError) or any(word in text for word in _NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


_NO_MEMORY = ("can't allocate memory", "bad_alloc", "Cannot allocate memory", "malloc of size")


def _raised(error: BaseException | None) -> str:
    """The innermost frame of ours that an error came through."""
    steps = traceback.extract_tb(error.__traceback__) if error is not None else []
    return innermost((step.filename, step.lineno or 0, step.name) for step in reversed(steps))


def _tracer(reached: set[Line]) -> Any:
    def line(frame: FrameType, event: str, argument: Any) -> Any:
        reached.add((frame.f_code.co_filename, frame.f_lineno))
        return line

    def call(frame: FrameType, event: str, argument: Any) -> Any:
        return line if frame.f_code.co_filename.startswith(SOURCE) else None

    return call


def write_canary(folder: Path) -> None:
    """Files that no input may have read, in every form in which one could be asked for."""
    import gzip

    folder.mkdir(parents=True)
    (folder / "secret.png").write_bytes(picture_bytes())
    (folder / "secret.gz").write_bytes(gzip.compress(b"#version: 0.2\na b\n"))
    (folder / "secret.json").write_text("{}")
    (folder / "secret.pt").write_bytes(b"")
    (folder / "tokenizer_config.json").write_text(
        '{"auto_map": {"AutoTokenizer": ["tok.Tok", null]}}'
    )
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "tok.py").write_text(tokens.CANARY_CODE)
