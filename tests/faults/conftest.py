"""Commands that are killed, starved and stopped: what they are, where they run, and what must be left of them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.defenses.scan.whole.conftest import write_corpus

POINTS = int(os.environ.get("MMPOISON_FAULT_POINTS", "0"))
"""How many points a verb; 0: the few of `make test`."""

SETTINGS = ("epochs=3", "batch_size=32", "learning_rate=1e-3", "precision=fp32")
SET = [word for setting in SETTINGS for word in ("--set", setting)]
VERBS: tuple[str, ...] = ("poison", "scan-pairs", "scan", "train", "sterilize", "run")
if POINTS:  # in `make test`, tests of sweeps kill their workers and drivers
    VERBS += ("sweep",)


@dataclass
class Result:
    """What a command left."""

    code: int
    seconds: float
    out: str
    err: str


@dataclass
class Nursery:
    """The process that forks commands."""

    process: subprocess.Popen[str]

    def __call__(self, arguments: list[str], cwd: Path, **more: Any) -> Result:
        """Run a command."""
        return self.several(arguments, cwd, **more)[0]

    def several(self, arguments: list[str], cwd: Path, **more: Any) -> list[Result]:
        """Run a command, with `copies` several of it at once."""
        request = {
            "arguments": arguments,
            "cwd": str(cwd),
            "environment": {"MMPOISON_CACHE": str(cwd / "cache"), "COLUMNS": "200"},
            **more,
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the nursery has died"
        return [Result(**one) for one in json.loads(line)]


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """What a shell starts behind `&` ignores SIGINT, and so would all that the tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Forks commands from a process that has imported everything."""
    if not hasattr(os, "fork"):
        pytest.skip("commands are forked, which this system cannot")
    file = Path(__file__).with_name("nursery.py")
    process = subprocess.Popen(
        [sys.executable, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline()) == {"ready": True}
    yield Nursery(process)
    assert process.stdin is not None
    process.stdin.close()
    process.wait(20)


@dataclass
class Bench:
    """The verbs with small inputs, and what each gives when nobody disturbs it."""

    nursery: Nursery
    folder: Path
    squares: Path
    corpus: Path
    model: Path
    judge: Path
    whole: dict[str, tuple[dict[str, str], float]] = field(default_factory=dict)

    def arguments(self, verb: str) -> list[str]:
        """A command that writes `out` in the folder where it runs."""
        squares, model, judge = str(self.squares), str(self.model), str(self.judge)
        pairs, out = ["--data", squares], ["--out", "out"]
        goal = ["--goal", "sheep2aeroplane", "--samples", "2"]
        return {
            "poison": ["poison", squares, *goal, *out, "--images", "copy"],
            "scan-pairs": [
                *("scan", squares, "--encoder", judge, "--method", "relevance-filter"),
                *("--lose", "0.1", "--workers", "1", *out),
            ],
            "scan": ["scan", str(self.corpus), *out, "--no-planted", "--workers", "1"],
            "train": ["train", *pairs, "--model", model, *out, *SET],
            "sterilize": ["sterilize", *pairs, "--model", model, *out, *SET],
            "run": ["run", str(self.recipe("run")), *out],
            "sweep": [
                *("run", str(self.recipe("sweep")), *out, "--seeds", "0-1", "--workers", "1"),
                "--no-models",
            ],
        }[verb]

    def recipe(self, name: str) -> Path:
        """A small recipe."""
        training = dict(setting.split("=") for setting in SETTINGS)
        value = {
            "name": name,
            "data": {"name": str(self.squares)},
            "model": {"name": str(self.model)},
            "attack": {"name": "single-target-label", "goal": "sheep2aeroplane", "samples": 2},
            "training": training,
        }
        if name == "run":
            value["filter"] = {"encoder": str(self.judge), "clean_loss": 0.1}
            value["sterilize"] = {"training": {**training, "epochs": 1}, "pairs": 50}
        file = self.folder / f"{name}.yaml"
        if not file.exists():
            file.write_text(yaml.safe_dump(value))
        return file

    def undisturbed(self, verb: str) -> tuple[dict[str, str], float]:
        """What a verb gives, by file, and how many seconds it takes."""
        if verb not in self.whole:
            seconds = []
            # the first of two reads all from the disk
            for place in (self.folder / f"{verb}-cold", self.folder / verb):
                place.mkdir()
                result = self.nursery(self.arguments(verb), place)
                assert result.code == 0, result
                assert strays(place) == []
                seconds.append(result.seconds)
            self.whole[verb] = contents(place / "out"), min(seconds)
            assert contents(self.folder / f"{verb}-cold" / "out") == self.whole[verb][0]
        return self.whole[verb]

    def shares(self, verb: str, usual: int) -> list[float]:
        """At which parts of a verb's time it is disturbed."""
        draw = random.Random(f"{verb} faults")
        return sorted(draw.uniform(0.02, 1.02) for _ in range(POINTS or usual))


@pytest.fixture(scope="session")
def bench(
    nursery: Nursery,
    square_folder: Path,
    checkpoint: Path,
    judge_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Bench:
    """The verbs with small inputs."""
    folder = tmp_path_factory.mktemp("faults")
    corpus = folder / "corpus"
    write_corpus(corpus, 1200)
    return Bench(nursery, folder, square_folder, corpus, checkpoint, judge_checkpoint)


# -- what is compared ------------------------------------------------------------------------------

TIMES = {
    *("seconds", "pairs_per_second", "resumed_from", "from", "time", "created", "speed"),
    "data_path",
}
"""Keys of times, and of the path from a result to its data, which depends on where the result lies."""

SHOWN = (".html", ".md")
"""Files for people: they show how long it took."""


def contents(folder: Path) -> dict[str, str]:
    """A digest of each file of a result, without times; of files for people only that they are there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        name = str(path.relative_to(folder))
        if path.suffix in SHOWN:
            found[name] = "shown"
        elif path.suffix == ".json":
            found[name] = _digest(json.dumps(_timeless(json.loads(path.read_text()))).encode())
        elif path.name == "steps.jsonl":
            lines = [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
            found[name] = _digest(json.dumps(lines).encode())
        else:
            found[name] = _digest(path.read_bytes())
    return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(inner) for key, inner in value.items() if key not in TIMES}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value


def strays(place: Path, *, cache: bool = True) -> list[str]:
    """What a finished command should not have left in the folder where it ran."""
    found = [
        str(path.relative_to(place))
        for path in place.rglob("*")
        if re.search(r"\.mmpoison-[a-z0-9_]{8}", path.name)
        and (cache or "cache" not in path.relative_to(place).parts)
    ]
    return found + [path.name for path in place.iterdir() if path.name not in ("out", "cache")]


def one_line(result: Result) -> str:
    """The one line that a command that failed leaves on standard error."""
    lines = [line for line in result.err.splitlines() if not line.startswith("mmpoison: warning:")]
    assert len(lines) == 1, result
    assert lines[0].startswith("mmpoison: "), result
    assert "Traceback" not in result.out
    return lines[0]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A function that mounts something on a new folder (options of `mount`); skips where this user may not."""
    mounted: list[Path] = []

    def do(name: str, *options: str) -> Path:
        place = tmp_path / name
        place.mkdir(exist_ok=True)
        what = [str(place) if word == "." else word for word in options]
        done = subprocess.run(["mount", *what, str(place)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"this user may not mount: {done.stderr.strip()}")
        mounted.append(place)
        return place

    if shutil.which("mount") is None:
        pytest.skip("there is no `mount` here")
    yield do
    for place in reversed(mounted):
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def same_again(bench: Bench) -> Callable[[str, Path], None]:
    """A function that gives a disturbed command again and expects the undisturbed result, and nothing besides."""

    def check(verb: str, place: Path) -> None:
        expected, _ = bench.undisturbed(verb)
        again = bench.nursery(bench.arguments(verb), place)
        assert again.code == 0, again
        assert "Traceback" not in again.err
        assert contents(place / "out") == expected
        assert strays(place) == []

    return check
