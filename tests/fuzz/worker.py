"""The process in which inputs that hypothesis makes are tried; `campaign` starts it (`python -m tests.fuzz.worker`)."""

from __future__ import annotations

import argparse
import base64
import faulthandler
import importlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from tests.fuzz.attempt import Line, Outcome, Runner, write_canary
from tests.fuzz.mutate import changed_cases
from tests.fuzz.target import Case, Target
from tests.fuzz.watch import SECONDS, Watch

AT_ONCE = 50
"""Inputs of a round: after it the clock is asked, and the next one has another seed."""
TRACED = 7
"""Of so many inputs the lines of one are noted, which takes five times as long."""
SILENT = 240.0
"""Seconds of the wall after which the process ends itself: a call into C does not stop at the processor's limit."""


class FoundError(Exception):
    """An input did what no input may do; hypothesis makes it smaller."""


class Session:
    """One target, input by input.

    Args:
        runner: The target in its folder.
        say: Told of each finding: signature, input, what was reported.
        traced: Note which lines are reached, and let hypothesis look for more of them.
    """

    def __init__(
        self, runner: Runner, say: Callable[[str, Case, str], None], *, traced: bool
    ) -> None:
        self._runner, self._say, self._traced = runner, say, traced
        self._known: set[str] = set()
        self._found: tuple[Case, Outcome] | None = None
        self.lines: set[Line] = set()
        self.examples = [runner.base, *({**runner.base, **e} for e in runner.target.examples())]
        self.counts: Counter[str] = Counter(inputs=0, accepted=0, refused=0, finding=0)

    def attempt(self, case: Case) -> None:
        """Try an input."""
        faulthandler.dump_traceback_later(SILENT, exit=True)
        traced = self._traced and self.counts["inputs"] % TRACED == 0
        outcome = self._runner.attempt(case, traced=traced)
        if traced and "processor time" in outcome.signature:
            # tracing takes time of its own
            outcome = self._runner.attempt(case)
        faulthandler.cancel_dump_traceback_later()
        self.counts["inputs"] += 1
        self.counts[outcome.kind] += 1
        self.lines |= outcome.lines
        if outcome.kind == "finding" and outcome.signature not in self._known:
            self._found = case, outcome
            if "more than" in outcome.signature:
                # what takes long or much is not tried again
                self._report()
            else:
                raise FoundError(outcome.signature)

    def example(self, case: Case) -> None:
        """Try an input that is not changed."""
        try:
            self.attempt(case)
        except FoundError:
            self._report()

    def round(self, seed: int, inputs: int) -> None:
        """Try changed inputs."""
        options = settings(
            max_examples=inputs,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.target, Phase.shrink),
            report_multiple_bugs=False,
        )

        def changed(case: Case) -> None:
            before = len(self.lines)
            self.attempt(case)
            hypothesis.target(float(len(self.lines) - before), label="new lines")

        cases = changed_cases(self._runner.target, self.examples)
        try:
            hypothesis.seed(seed)(options(given(cases)(changed)))()
        except Exception:
            # also where it was not found twice
            if self._found is None:
                raise
            self._report()

    def _report(self) -> None:
        assert self._found is not None
        case, outcome = self._found
        self._found = None
        self._known.add(outcome.signature)
        self._say(outcome.signature, case, outcome.report)


def encode_case(target: str, signature: str, case: Mapping[str, bytes], report: str) -> str:
    """A finding as the text of a file that `--replay` takes."""
    files = {name: base64.b64encode(content).decode() for name, content in case.items()}
    value = {"target": target, "signature": signature, "files": files, "report": report[-4000:]}
    return json.dumps(value, indent=1) + "\n"


def main() -> None:
    """Fuzz the targets one after the other, or replay one input; one line of JSON a fact on standard output."""
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--registry", required=True)
    parser.add_argument("--place", type=Path, required=True)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--inputs", type=int)
    parser.add_argument("--limit", type=float, default=SECONDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replay", type=Path)
    given = parser.parse_args()
    facts = os.fdopen(os.dup(1), "w", buffering=1)
    # whatever a library prints is not a fact
    os.dup2(2, 1)

    def say(event: str, **fact: Any) -> None:
        facts.write(json.dumps({"event": event, **fact}) + "\n")

    module, _, name = given.registry.partition(":")
    registry: dict[str, Target] = getattr(importlib.import_module(module), name)()
    work = given.place / "work"
    write_canary(given.place / "canary")
    watch = Watch(work, given.place / "canary", given.limit)
    for name in given.targets:
        say("building", target=name)
        runner = Runner(registry[name], work / name, watch)
        if given.replay is not None:
            files = json.loads(given.replay.read_text())["files"]
            outcome = runner.attempt({n: base64.b64decode(raw) for n, raw in files.items()})
            facts_of = {"kind": outcome.kind, "signature": outcome.signature}
            say("replayed", **facts_of, report=outcome.report)
            continue
        _fuzz(runner, given, say)


def _fuzz(runner: Runner, given: argparse.Namespace, say: Callable[..., None]) -> None:
    name = runner.target.name

    def found(signature: str, case: Case, report: str) -> None:
        text = encode_case(name, signature, case, report)
        say("finding", target=name, signature=signature, text=text)

    session = Session(runner, found, traced=given.seconds is not None)
    say("began", target=name, folder=str(runner.folder), files=list(runner.target.files))
    begun, number = time.monotonic(), given.seed * 1_000_000
    for case in session.examples:
        session.example(case)
    wanted = None if given.inputs is None else given.inputs + len(session.examples)
    while wanted is None or session.counts["inputs"] < wanted:
        if given.seconds is not None and time.monotonic() - begun > given.seconds:
            break
        left = AT_ONCE if wanted is None else wanted - session.counts["inputs"]
        session.round(number, min(left, AT_ONCE))
        number += 1
    seconds = time.monotonic() - begun
    say("done", target=name, seconds=seconds, lines=len(session.lines), **session.counts)


if __name__ == "__main__":
    sys.setrecursionlimit(1000)
    main()
