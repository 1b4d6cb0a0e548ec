"""The process in which inputs are tried: `python -m tests.fuzz.worker`, started by `campaign`."""

from __future__ import annotations

import argparse
import base64
import importlib
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tests.fuzz.attempt import Line, Outcome, Runner, write_canary
from tests.fuzz.mutate import mutate
from tests.fuzz.target import Case, Target
from tests.fuzz.watch import SECONDS, Watch

CORPUS = 500
"""Inputs that are kept to be changed further: the examples, and those that reached a line that none had reached."""
TRACED = 0.15
"""Of so many inputs the lines that they reach are noted, which takes five times as long."""
TRIES = 120
SECONDS_SMALLER = 5.0
"""How often, and how long at most, a finding is run again to make it small."""
GROWN = 1 << 30
"""With so many bytes more than at the start the process ends and another goes on: memory is not given back."""


class Session:
    """One target, input by input.

    Args:
        runner: The target in its folder.
        rng: All chance.
        say: Told of each finding: signature, input, what was report.
    """

    def __init__(
        self, runner: Runner, rng: random.Random, say: Callable[[str, Case, str], None]
    ) -> None:
        self._runner = runner
        self._rng = rng
        self._say = say
        self._examples = [runner.base, *({**runner.base, **e} for e in runner.target.examples())]
        self._corpus = list(self._examples)
        self._untried = self._examples[:0:-1]
        self._lines: set[Line] = set()
        self._known: set[str] = set()
        self.counts = {"inputs": 0, "accepted": 0, "refused": 0, "finding": 0}

    def step(self) -> None:
        """Make one input and try it."""
        number = self.counts["inputs"]
        if number == 0:
            case = self._runner.base
        elif self._untried and self._rng.random() < 0.5:
            case = self._untried.pop()
        else:
            case = self._changed()
        traced = number == 0 or self._rng.random() < TRACED
        outcome = self._runner.attempt(case, traced=traced)
        if traced and "processor time" in outcome.signature:
            # tracing takes time of its own
            outcome = self._runner.attempt(case)
        self.counts["inputs"] += 1
        self.counts[outcome.kind] += 1
        new = not outcome.lines <= self._lines or outcome.signature not in self._known
        self._lines |= outcome.lines
        if outcome.kind == "finding" and outcome.signature not in self._known:
            self._say(outcome.signature, *self._small(case, outcome))
        self._known.add(outcome.signature)
        if new and outcome.kind != "finding":
            self._corpus.append(case)
            if len(self._corpus) > CORPUS:
                del self._corpus[self._rng.randrange(len(self._examples), CORPUS)]

    @property
    def reached(self) -> int:
        """Lines of mmpoison that were reached."""
        return len(self._lines)

    def _changed(self) -> Case:
        target, rng = self._runner.target, self._rng
        corpus = self._examples if rng.random() < 0.3 else self._corpus
        case = dict(rng.choice(corpus))
        names = rng.sample(
            list(target.files), 1 if rng.random() < 0.9 else min(2, len(target.files))
        )
        for name in names:
            others = [rng.choice(self._corpus)[name] for _ in range(2)]
            case[name] = mutate(case[name], target.files[name], target.keys, others, rng)
        return case

    def _small(self, case: Case, outcome: Outcome) -> tuple[Case, str]:
        """A smaller input with the same outcome; what takes long or much is left as it is."""
        report = outcome.report
        if "more than" in outcome.signature:
            return case, report
        left = TRIES
        until = time.monotonic() + SECONDS_SMALLER

        def same(smaller: Case) -> bool:
            nonlocal left, report
            if left <= 0 or time.monotonic() > until:
                return False
            left -= 1
            again = self._runner.attempt(smaller)
            if again.signature == outcome.signature:
                report = again.report
                return True
            return False

        for name, plain in self._runner.base.items():
            if case[name] == plain:
                continue
            if same({**case, name: plain}):
                case = {**case, name: plain}
                continue
            with_other = partial(_with, case, name)
            case = with_other(_smaller(case[name], lambda content, w=with_other: same(w(content))))  # type: ignore[misc]
        return case, report


def _with(case: Case, name: str, content: bytes) -> Case:
    return {**case, name: content}


def _smaller(content: bytes, same: Callable[[bytes], bool]) -> bytes:
    """Without the pieces that the outcome does not need, larger pieces first."""
    size = max(len(content) // 2, 1)
    while size >= 1:
        at = 0
        while at < len(content):
            shorter = content[:at] + content[at + size :]
            if shorter != content and same(shorter):
                content = shorter
            else:
                at += size
        size //= 2
        if size < len(content) // 64:
            break
    return content


def encode_case(target: str, signature: str, case: Mapping[str, bytes], report: str) -> str:
    """A finding as the text of a file that `--replay` takes."""
    files = {name: base64.b64encode(content).decode() for name, content in case.items()}
    value = {"target": target, "signature": signature, "files": files, "report": report[-4000:]}
    return json.dumps(value, indent=1) + "\n"


def decode_case(text: str) -> tuple[str, Case]:
    """The target and the input of a finding."""
    value = json.loads(text)
    return value["target"], {name: base64.b64decode(raw) for name, raw in value["files"].items()}


def main() -> None:
    """Fuzz the targets one after the other, or replay one input; one line of JSON a fact on standard output."""
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--registry", default="tests.fuzz.registry:all_targets")
    parser.add_argument("--place", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--inputs", type=float, default=float("inf"))
    parser.add_argument("--limit", type=float, default=SECONDS)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--replay", type=Path)
    given = parser.parse_args()
    facts = os.fdopen(os.dup(1), "w", buffering=1)
    # whatever a library prints is not a fact
    os.dup2(2, 1)

    def say(**fact: Any) -> None:
        facts.write(json.dumps(fact) + "\n")
        facts.flush()

    module, _, name = given.registry.partition(":")
    registry: dict[str, Target] = getattr(importlib.import_module(module), name)()
    work = given.place / "work"
    write_canary(given.place / "canary")
    watch = Watch(work, given.place / "canary", given.limit)
    for name in given.targets:
        say(event="building", target=name)
        runner = Runner(registry[name], work / name, watch)
        if given.replay is not None:
            _, case = decode_case(given.replay.read_text())
            outcome = runner.attempt(case)
            say(
                event="replayed",
                kind=outcome.kind,
                signature=outcome.signature,
                report=outcome.report,
            )
            continue
        _fuzz(runner, random.Random(f"{given.seed}/{name}"), given.seconds, given.inputs, say)


def _fuzz(
    runner: Runner, rng: random.Random, seconds: float, inputs: float, say: Callable[..., None]
) -> None:
    name = runner.target.name

    def found(signature: str, case: Case, report: str) -> None:
        text = encode_case(name, signature, case, report)
        say(event="finding", target=name, signature=signature, text=text)

    session = Session(runner, rng, found)
    say(event="began", target=name, folder=str(runner.folder), files=list(runner.target.files))
    start = last = time.monotonic()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + GROWN
    whole = True
    while time.monotonic() - start < seconds and session.counts["inputs"] < inputs:
        say(event="input", **session.counts)
        session.step()
        if time.monotonic() - last > 1:
            last = time.monotonic()
            if _resident() > grown:
                whole = False
                break
    say(
        event="done" if whole else "grown",
        target=name,
        seconds=time.monotonic() - start,
        lines=session.reached,
        **session.counts,
    )


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as stream:  # noqa: PTH123
        return int(stream.read().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    sys.setrecursionlimit(1000)
    main()
