"""Starts the process in which inputs are tried; one that hangs or dies is an input found, and another goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.watch import SECONDS
from tests.fuzz.worker import Figures, keep

ROOT = Path(__file__).resolve().parents[2]


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
    """Fuzz targets one after the other in one worker, as long as it lives; an input that ends it ends its target.

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
    options = [f"--registry={registry}", f"--limit={limit}", f"--seed={seed}"]
    options += [f"--out={out.absolute()}"]
    options += [] if seconds is None else [f"--seconds={seconds}"]
    options += [] if inputs is None else [f"--inputs={inputs}"]
    done: list[Figures] = []
    while waiting := targets[len(done) :]:
        with tempfile.TemporaryDirectory(prefix="mmpoison-fuzz-") as folder:
            place = Path(folder)
            end, report = _run_worker(place, [*waiting, *options])
            for name in waiting:
                file = place / f"{name}.json"
                if not file.exists():
                    raise RuntimeError(f"{name}: could not be built\n{report}")
                figures = Figures(**json.loads(file.read_text()))
                done.append(figures)
                if not figures.whole:
                    # it died with an input on its disk
                    case = place / "work" / name / "case"
                    files = {file: (case / file).read_bytes() for file in figures.files}
                    keep(figures, end + _innermost(report), files, report, out)
                    break
    return done


def replay(file: Path, registry: str = "tests.fuzz.registry:all_targets") -> dict[str, Any]:
    """Try one input that was found again: `kind`, `signature` and `report` of its outcome."""
    target = json.loads(file.read_text())["target"]
    with tempfile.TemporaryDirectory(prefix="mmpoison-fuzz-") as folder:
        place = Path(folder)
        options = [target, f"--registry={registry}", f"--replay={file.resolve()}"]
        end, report = _run_worker(place, options)
        outcome = place / "replayed.json"
        if outcome.exists():
            return dict(json.loads(outcome.read_text()))
        return {"kind": "finding", "signature": end, "report": report}


def _run_worker(place: Path, arguments: Sequence[str]) -> tuple[str, str]:
    """Run a worker to its end; say how it came to it, and the last that it wrote on standard error."""
    home, temporary = place / "home", place / "work" / "tmp"
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
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True
    )
    report = ended.stderr[-8000:].decode("utf-8", "replace")
    # the watchdog of faulthandler ends it so
    end = "hangs" if "Timeout (" in report else f"the process died ({ended.returncode})"
    return end, report


def _innermost(report: str) -> str:
    """The innermost frame of ours in what `faulthandler` wrote."""
    for line in report.splitlines():
        if "/src/mmpoison/" in line and line.strip().startswith("File"):
            file, _, rest = line.partition("/src/mmpoison/")[2].partition('"')
            return f" @ {file}:{rest.removeprefix(', line ')}"
    return ""
