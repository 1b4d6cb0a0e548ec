"""Starts workers, watches over them, and counts: one that hangs or dies is an input found, and another goes on."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.watch import SECONDS
from tests.fuzz.worker import encode_case

ROOT = Path(__file__).resolve().parents[2]
STUCK = 3 * SECONDS
"""Processor seconds after which a worker that does not answer is ended: a call into C does not stop by itself."""
SILENT = 240.0
"""Seconds of the wall after which it is ended whatever it does, waiting for a pipe or a lock for example."""
RESTARTS = 30


@dataclass
class Figures:
    """What a campaign against one target came to.

    Attributes:
        target: Its name.
        inputs: How many were tried.
        accepted: How many were read.
        refused: How many were refused as they should be, in one line.
        findings: What happened and where, with the file to replay it.
        seconds: How long it took, without starting.
        lines: Lines of mmpoison that were reached.
        restarts: Workers that were started again.
        seed: Seed.
    """

    target: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    findings: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    lines: int = 0
    restarts: int = 0
    seed: int = 0

    def line(self) -> str:
        """The figures on one line."""
        return (
            f"{self.target:20} {self.inputs:>9,} inputs  {self.accepted:>9,} accepted  {self.refused:>9,} refused  "
            f"{len(self.findings):>3} findings  {self.seconds:>6.0f} s  {self.lines:>5,} lines reached"
        )

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return asdict(self)


def fuzz(
    targets: Sequence[str],
    out: Path,
    *,
    seconds: float | None = None,
    inputs: int | None = None,
    seed: int = 0,
    limit: float = SECONDS,
    registry: str = "tests.fuzz.registry:all_targets",
) -> list[Figures]:
    """Fuzz targets one after the other in one worker, as long as it lives.

    Args:
        targets: Names.
        out: Folder for the inputs that were found, one a signature.
        seconds: For each target.
        inputs: For each target.
        seed: Of everything random; with `inputs` the same inputs are tried each time.
        limit: Processor seconds that one input may take.
        registry: `MODULE:FUNCTION` that gives the targets.

    Returns:
        Figures in the order of the targets.
    """
    figures = {name: Figures(name, seed=seed) for name in targets}
    waiting = list(targets)
    while waiting:
        first = figures[waiting[0]]
        left_seconds = None if seconds is None else seconds - first.seconds
        left_inputs = None if inputs is None else inputs - first.inputs
        over = (left_seconds is not None and left_seconds <= 0) or (
            left_inputs is not None and left_inputs <= 0
        )
        if over or first.restarts > RESTARTS:
            waiting.pop(0)
            continue
        # what is left of the first is its own; the others begin
        run = waiting if first.inputs == 0 and first.restarts == 0 else waiting[:1]
        options = [f"--registry={registry}", f"--limit={limit}", f"--seed={seed}+{first.restarts}"]
        options += [] if left_seconds is None else [f"--seconds={left_seconds}"]
        options += [] if left_inputs is None else [f"--inputs={left_inputs}"]
        for name in _one_worker([*run, *options], figures, out):
            waiting.remove(name)
    return [figures[name] for name in targets]


def replay(file: Path, registry: str = "tests.fuzz.registry:all_targets") -> dict[str, Any]:
    """Try one input that was found again: `kind`, `signature` and `report` of its outcome."""
    target = json.loads(file.read_text())["target"]
    with _Worker([target, f"--registry={registry}", f"--replay={file.resolve()}"]) as worker:
        for fact in worker.facts():
            if fact["event"] == "replayed":
                return fact
        return {"kind": "finding", "signature": worker.end, "report": worker.error_output()}


def _one_worker(arguments: list[str], figures: dict[str, Figures], out: Path) -> Iterator[str]:
    """Run one worker to its end and add up what it says; yields the targets that it has done."""
    with _Worker(arguments) as worker:
        name, began, last = "", 0.0, {"inputs": 0, "accepted": 0, "refused": 0}
        case: dict[str, Any] = {}
        ended = False
        for fact in worker.facts():
            event = fact["event"]
            if event == "building":
                name, case, ended = fact["target"], {}, False
            elif event == "began":
                began, case, ended = time.monotonic(), fact, False
            elif event == "input":
                last = fact
            elif event == "finding":
                _keep(figures[name], fact["signature"], fact["text"], out)
            else:
                _add(figures[name], fact, fact["seconds"], fact["lines"])
                ended = True
                if event == "grown":
                    figures[name].restarts += 1
                else:
                    yield name
        if ended:
            return
        # it died, or was ended, with an input on its disk
        of = figures[name]
        of.restarts += 1
        if not case:
            raise RuntimeError(f"{name}: could not be built\n{worker.error_output()}")
        _add(of, {**last, "inputs": last["inputs"] + 1}, time.monotonic() - began, of.lines)
        files = {file: (Path(case["folder"]) / file).read_bytes() for file in case["files"]}
        report = worker.error_output()
        signature = worker.end + _innermost(report)
        _keep(of, signature, encode_case(name, signature, files, report), out)


def _add(figures: Figures, fact: dict[str, Any], seconds: float, lines: int) -> None:
    figures.inputs += fact["inputs"]
    figures.accepted += fact["accepted"]
    figures.refused += fact["refused"]
    figures.seconds += seconds
    figures.lines = max(figures.lines, lines)


def _keep(figures: Figures, signature: str, text: str, out: Path) -> None:
    if signature in figures.findings:
        return
    digest = hashlib.sha256(signature.encode()).hexdigest()[:8]
    file = out / f"{figures.target}-{digest}.json"
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    figures.findings[signature] = str(file)


def _innermost(report: str) -> str:
    """The innermost frame of ours in what `faulthandler` wrote."""
    for line in report.splitlines():
        if "/src/mmpoison/" in line and line.strip().startswith("File"):
            file, _, rest = line.partition("/src/mmpoison/")[2].partition('"')
            return f" @ {file}:{rest.removeprefix(', line ')}"
    return ""


class _Worker:
    """A worker and its folder, which go away together.

    Attributes:
        end: How it came to an end, if not by itself.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="mmpoison-fuzz-"))
        self.end = ""
        home = self.place / "home"
        temporary = self.place / "work" / "tmp"
        for folder in (home, temporary):
            folder.mkdir(parents=True)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONFAULTHANDLER": "1",
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
            # so that the limit of memory is one of what is used, and not of what allocators reserve
            "MALLOC_ARENA_MAX": "1",
            "ARROW_DEFAULT_MEMORY_POOL": "system",
            "HOME": str(home),
            "HF_HOME": str(home / "hugging-face"),
            "MMPOISON_CACHE": str(home / "cache"),
            "TMPDIR": str(temporary),
        }
        self._errors = (self.place / "errors").open("w+b")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker", f"--place={self.place}", *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._facts: queue.Queue[bytes] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        self._errors.close()
        shutil.rmtree(self.place, ignore_errors=True)

    def facts(self) -> Iterator[dict[str, Any]]:
        """What it says, until it ends or is ended."""
        heard = time.monotonic()
        used = 0.0
        while True:
            try:
                raw = self._facts.get(timeout=0.5)
            except queue.Empty:
                now = time.monotonic() - heard
                if self._processor_seconds() - used > STUCK or now > SILENT:
                    self.end = "hangs"
                    # faulthandler says where
                    self._process.send_signal(6)
                    self._process.wait()
                    return
                continue
            if not raw:
                code = self._process.wait()
                self.end = "" if code == 0 else f"the process died ({code})"
                return
            heard = time.monotonic()
            used = self._processor_seconds()
            yield json.loads(raw)

    def error_output(self) -> str:
        """The last that it wrote on standard error."""
        self._errors.seek(0)
        return self._errors.read()[-8000:].decode("utf-8", "replace")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            self._facts.put(raw)
        self._process.stdout.close()
        self._facts.put(b"")

    def _processor_seconds(self) -> float:
        try:
            # behind the name, which may hold spaces
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
