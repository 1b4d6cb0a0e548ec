"""Starts workers and counts: where one dies or ends itself an input is found, and another goes on."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.fuzz.watch import SECONDS
from tests.fuzz.worker import encode_case

ROOT = Path(__file__).resolve().parents[2]
TARGETS = "tests.fuzz.registry:all_targets"


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
        seed: Seed.
    """

    target: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    findings: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    lines: int = 0
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

    def keep(self, signature: str, text: str, out: Path) -> None:
        """Write an input that was found, one a signature."""
        out.mkdir(parents=True, exist_ok=True)
        file = out / f"{self.target}-{hashlib.sha256(signature.encode()).hexdigest()[:8]}.json"
        file.write_text(text)
        self.findings[signature] = str(file)


def fuzz(
    targets: Sequence[str],
    out: Path,
    *,
    seconds: float | None = None,
    inputs: int | None = None,
    seed: int = 0,
    limit: float = SECONDS,
    registry: str = TARGETS,
) -> list[Figures]:
    """Fuzz targets one after the other in one worker, as long as it lives.

    Args:
        targets: Names.
        out: Folder for the inputs that were found, one a signature.
        seconds: For each target.
        inputs: For each target, besides its examples.
        seed: Of everything random; with `inputs` the same inputs are tried each time.
        limit: Processor seconds that one input may take.
        registry: `MODULE:FUNCTION` that gives the targets.

    Returns:
        Figures in the order of the targets.
    """
    figures = {name: Figures(name, seed=seed) for name in targets}
    waiting = list(targets)
    options = [f"--registry={registry}", f"--limit={limit}", f"--seed={seed}"]
    options += [] if seconds is None else [f"--seconds={seconds}"]
    options += [] if inputs is None else [f"--inputs={inputs}"]
    while waiting:
        of = figures[waiting[0]]
        case: dict[str, Any] = {}
        with _worker([*waiting, *options]) as (process, errors):
            for fact in map(json.loads, process.stdout or ()):
                of = figures[fact["target"]]
                if fact["event"] == "finding":
                    of.keep(fact["signature"], fact["text"], out)
                elif fact["event"] == "done":
                    waiting.remove(of.target)
                    for name in ("inputs", "accepted", "refused", "seconds", "lines"):
                        setattr(of, name, fact[name])
                else:
                    case = fact
            if process.wait() == 0:
                continue
            # it died, or ended itself, with an input on its disk
            report = _said(errors)
            if "files" not in case:
                raise RuntimeError(f"{of.target}: could not be built\n{report}")
            files = {file: (Path(case["folder"]) / file).read_bytes() for file in case["files"]}
            signature = f"the process died ({process.returncode}){_innermost(report)}"
            of.keep(signature, encode_case(of.target, signature, files, report), out)
            waiting.remove(of.target)
    return [figures[name] for name in targets]


def replay(file: Path, registry: str = TARGETS) -> dict[str, Any]:
    """Try one input that was found again: `kind`, `signature` and `report` of its outcome."""
    target = json.loads(file.read_text())["target"]
    options = [f"--registry={registry}", f"--replay={file.resolve()}"]
    with _worker([target, *options]) as (process, errors):
        *_, last = map(json.loads, process.stdout or ())
        if last["event"] == "replayed":
            return dict(last)
        signature = f"the process died ({process.wait()})"
        return {"kind": "finding", "signature": signature, "report": _said(errors)}


def _innermost(report: str) -> str:
    """The innermost frame of ours in what `faulthandler` wrote."""
    for line in report.splitlines():
        if "/src/mmpoison/" in line and line.strip().startswith("File"):
            file, _, rest = line.partition("/src/mmpoison/")[2].partition('"')
            return f" @ {file}:{rest.removeprefix(', line ')}"
    return ""


def _said(errors: IO[bytes]) -> str:
    errors.seek(0)
    return errors.read()[-20_000:].decode("utf-8", "replace")


@contextmanager
def _worker(arguments: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], IO[bytes]]]:
    """Start a worker in a folder of its own; yields it, and what it writes on standard error."""
    with (
        tempfile.TemporaryDirectory(prefix="mmpoison-fuzz-", ignore_cleanup_errors=True) as place,
        tempfile.TemporaryFile() as errors,
    ):
        home, temporary = Path(place, "home"), Path(place, "work", "tmp")
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
        command = [sys.executable, "-m", "tests.fuzz.worker", f"--place={place}", *arguments]
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            try:
                yield process, errors
            finally:
                process.kill()
