"""The process in which inputs are tried: `python -m tests.fuzz.worker`, started by `campaign`."""

from __future__ import annotations

import argparse
import base64
import faulthandler
import hashlib
import importlib
import json
import random
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

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
SILENT = 240.0
"""Seconds after which an input ends the process: a call into C, or a wait for a lock, does not stop by itself."""


@dataclass
class Figures:
    """What a campaign against one target came to.

    Attributes:
        target: Its name.
        files: Names of the files that are changed.
        inputs: How many were tried.
        accepted: How many were read.
        refused: How many were refused as they should be, in one line.
        findings: What happened and where, with the file to replay it.
        seconds: How long it took, without starting.
        lines: Lines of mmpoison that were reached.
        seed: Seed.
        whole: Whether it came to its end.
    """

    target: str
    files: list[str]
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    findings: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    lines: int = 0
    seed: int = 0
    whole: bool = False

    def line(self) -> str:
        """The figures on one line."""
        return (
            f"{self.target:20} {self.inputs:>9,} inputs  {self.accepted:>9,} accepted  {self.refused:>9,} refused  "
            f"{len(self.findings):>3} findings  {self.seconds:>6.0f} s  {self.lines:>5,} lines reached"
        )


def keep(
    figures: Figures, signature: str, case: Mapping[str, bytes], report: str, out: Path
) -> None:
    """Write a finding as a file that `--replay` takes."""
    files = {name: base64.b64encode(content).decode() for name, content in case.items()}
    digest = hashlib.sha256(signature.encode()).hexdigest()[:8]
    file = out / f"{figures.target}-{digest}.json"
    value = {
        "target": figures.target,
        "signature": signature,
        "files": files,
        "report": report[-4000:],
    }
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=1) + "\n")
    figures.findings[signature] = str(file)


class Session:
    """One target, input by input.

    Args:
        runner: The target in its folder.
        rng: All chance.
        figures: Counts, and findings.
        out: Folder for the findings.
    """

    def __init__(self, runner: Runner, rng: random.Random, figures: Figures, out: Path) -> None:
        self._runner = runner
        self._rng = rng
        self._figures = figures
        self._out = out
        self._examples = [runner.base, *({**runner.base, **e} for e in runner.target.examples())]
        self._corpus = list(self._examples)
        self._untried = self._examples[:0:-1]
        self._lines: set[Line] = set()
        self._known: set[str] = set()

    def step(self) -> None:
        """Make one input and try it."""
        figures = self._figures
        number = figures.inputs
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
        figures.inputs += 1
        figures.accepted += outcome.kind == "accepted"
        figures.refused += outcome.kind == "refused"
        new = not outcome.lines <= self._lines or outcome.signature not in self._known
        self._lines |= outcome.lines
        figures.lines = len(self._lines)
        if outcome.kind == "finding" and outcome.signature not in self._known:
            keep(figures, outcome.signature, *self._small(case, outcome), self._out)
        self._known.add(outcome.signature)
        if new and outcome.kind != "finding":
            self._corpus.append(case)
            if len(self._corpus) > CORPUS:
                del self._corpus[self._rng.randrange(len(self._examples), CORPUS)]

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


def main() -> None:
    """Fuzz the targets one after the other, or replay one input; the figures of each are a file in the place."""
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--registry", default="tests.fuzz.registry:all_targets")
    parser.add_argument("--place", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--inputs", type=float, default=float("inf"))
    parser.add_argument("--limit", type=float, default=SECONDS)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--replay", type=Path)
    given = parser.parse_args()
    module, _, name = given.registry.partition(":")
    registry: dict[str, Target] = getattr(importlib.import_module(module), name)()
    work = given.place / "work"
    write_canary(given.place / "canary")
    watch = Watch(work, given.place / "canary", given.limit)
    for name in given.targets:
        runner = Runner(registry[name], work / name, watch)
        if given.replay is not None:
            files = json.loads(given.replay.read_text())["files"]
            case = {file: base64.b64decode(raw) for file, raw in files.items()}
            outcome = runner.attempt(case)
            said = {"kind": outcome.kind, "signature": outcome.signature, "report": outcome.report}
            (given.place / "replayed.json").write_text(json.dumps(said))
            continue
        figures = Figures(name, list(runner.target.files), seed=int(given.seed))
        session = Session(runner, random.Random(f"{given.seed}/{name}"), figures, given.out)
        result = given.place / f"{name}.json"
        start = time.monotonic()
        while figures.seconds < given.seconds and figures.inputs < given.inputs:
            result.write_text(json.dumps(asdict(figures)))  # in case that it dies
            faulthandler.dump_traceback_later(SILENT, exit=True)
            session.step()
            faulthandler.cancel_dump_traceback_later()
            figures.seconds = time.monotonic() - start
        figures.whole = True
        result.write_text(json.dumps(asdict(figures)))


if __name__ == "__main__":
    sys.setrecursionlimit(1000)
    main()
