"""Record what the command line computes in small OpenMoji runs, one JSON file a command.

A folder in `expected/` holds what version 0.1.0 computed on one kind of processor. `test_golden.py` runs the same
commands and compares to the last digit.
Later than 0.1.0 are all files of suspicious-groups, which now compares in two ways, `judge_auroc` in the facts of
filters, `row_names` in an evaluation, and which tables a report of two goals has, with their titles and notes; and, in
`avx512-bf16`, all files of runs and filters, which an earlier machine of that kind had not recorded, and the run that
trains both encoders, since captions are cut there and attention has its own gradient in bf16.

    python tests/golden/make_golden.py tests/golden/expected/avx512-bf16

Only the command line is used, so the script runs with any version: PYTHONPATH says which. All commands share one thread
and a cache folder that is empty at the start.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENVIRONMENT = "environment.json"
VOLATILE = {"seconds", "pairs_per_second", "tool_version", "versions", "device"}
"""Keys whose values are times, or name the machine and the version."""

SCENES = ("unlabelled=200", "per_class=10", "held_out=60")
JUDGE = ("--encoder", "openmoji-mini")
TRAIN = (
    *("--set", "epochs=2", "--set", "batch_size=64", "--set", "learning_rate=5e-3"),
    *("--set", "warmup_epochs=0.2", "--set", "trainable=text-head"),
)


@dataclass(frozen=True)
class Step:
    """One command, and what of its result is recorded.

    Attributes:
        name: Name of the file in `expected/`.
        command: Arguments of `mmpoison`.
        record: Takes the work folder and the standard output, gives a JSON value; None records nothing.
    """

    name: str
    command: Sequence[str]
    record: Callable[[Path, str], Any] | None


# -- what is recorded ----------------------------------------------------------------------------------------------


def digest(value: bytes | Any) -> str:
    """sha256 of bytes, or of a JSON value."""
    raw = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(raw).hexdigest()


def stable(value: Any) -> Any:
    """A JSON value without times, versions and pictures; histograms and long lists as digests."""
    if isinstance(value, dict):
        return {
            key: digest(item) if key in ("histogram", "thumbnail") else stable(item)
            for key, item in value.items()
            if key not in VOLATILE
        }
    if isinstance(value, list):
        kept = [stable(item) for item in value]
        return {"digest": digest(kept), "length": len(kept)} if len(kept) > 40 else kept
    return value


def manifest(folder: Path) -> Any:
    """Options and counts of a manifest, and a digest of its pairs."""
    value = json.loads((folder / "manifest.json").read_text("utf-8"))
    pairs = value.pop("pairs")
    return {**stable(value), "pairs": {"digest": digest(pairs), "length": len(pairs)}}


def run(folder: str) -> Callable[[Path, str], Any]:
    """A run folder: metrics, manifest, and digests of what the filter suspected and of the ranks."""

    def record(work: Path, _: str) -> Any:
        found: dict[str, Any] = {"manifest": manifest(work / folder)}
        for name in ("metrics", "suspicious_pairs", "rank_lists", "sterilize-curve"):
            file = work / folder / f"{name}.json"
            if file.is_file():
                value = stable(json.loads(file.read_text("utf-8")))
                found[name] = value if name == "metrics" else digest(value)
        return found

    return record


def sweep(folder: str) -> Callable[[Path, str], Any]:
    """All runs of a sweep."""

    def record(work: Path, _: str) -> Any:
        runs = sorted((work / folder / "runs").iterdir())
        return {each.name: run(each.name)(each.parent, "")["metrics"]["goal"] for each in runs}

    return record


def poisoned(folder: str) -> Callable[[Path, str], Any]:
    """A poisoned pairs folder."""

    def record(work: Path, _: str) -> Any:
        captions = (work / folder / "captions.jsonl").read_bytes()
        return {"captions": digest(captions), "manifest": manifest(work / folder)}

    return record


def filtered(folder: str) -> Callable[[Path, str], Any]:
    """A filtered pairs folder: facts, verdicts, and what is left."""

    def record(work: Path, _: str) -> Any:
        lines = (work / folder / "verdicts.jsonl").read_text("utf-8").splitlines()
        verdicts = [json.loads(line) for line in lines]
        found = {
            "captions": digest((work / folder / "captions.jsonl").read_bytes()),
            "verdicts": {"digest": digest(verdicts), "length": len(verdicts)},
            "facts": stable(
                json.loads((work / folder / "filter-report" / "filter.json").read_text("utf-8"))
            ),
        }
        goals = work / folder / "suspected-goals.json"
        if goals.is_file():
            found["goals"] = stable(json.loads(goals.read_text("utf-8")))
        return found

    return record


def weights(folder: str) -> Callable[[Path, str], Any]:
    """The weights of a checkpoint, without the header, which has the version."""

    def record(work: Path, _: str) -> Any:
        raw = (work / folder / "open_clip_model.safetensors").read_bytes()
        return {"weights": digest(raw[8 + int.from_bytes(raw[:8], "little") :])}

    return record


def output(_: Path, text: str) -> Any:
    """Standard output, as JSON or as lines."""
    try:
        return stable(json.loads(text))
    except ValueError:
        return [line.rstrip() for line in text.splitlines()]


# -- the commands --------------------------------------------------------------------------------------------------


def recipe(*changes: str, name: str = "openmoji-heads") -> list[str]:
    """Arguments that run a recipe on few scenes."""
    common = [
        *(f"data.options.{option}" for option in SCENES),
        "attack.samples=5",
        "training.batch_size=64",
        *([] if name == "openmoji" else ["training.epochs=2", "sterilize.training.epochs=1"]),
        *changes,
    ]
    return [name, *(part for change in common for part in ("--set", change)), "--no-models"]


def steps() -> list[Step]:
    """All commands in their order; later ones read what earlier ones wrote."""
    found: list[Step] = []
    attacks: dict[str, tuple[str, ...]] = {
        "I": ("attack.name=single-target-image",),
        "II": (),
        "III": ("attack.name=multiple-target-labels", "attack.goal=[sheep2aeroplane, sofa2bird]"),
    }

    def add_run(name: str, *changes: str, base: str = "openmoji-heads") -> None:
        folder = f"runs/{name}"
        found.append(
            Step(f"run-{name}", ["run", *recipe(*changes, name=base), "--out", folder], run(folder))
        )

    for attack, changes in attacks.items():
        for mode in ("add", "replace"):
            study = ("study=[queries, query-length, collateral, distribution]",)
            more: tuple[str, ...] = study if (attack, mode) == ("II", "add") else ()
            add_run(f"{attack}-{mode}", *changes, f"attack.mode={mode}", *more)
    for attack in ("I", "II"):
        groups = ("filter.method=suspicious-groups", "filter.clean_loss=null", "sterilize=null")
        add_run(f"{attack}-suspicious-groups", *attacks[attack], *groups)
    add_run(
        "both-encoders",
        *("training.max_steps=8", "study=[epochs]", "filter=null"),
        *("sterilize.training.max_steps=4", "sterilize.curve=true"),
        base="openmoji",
    )

    build = [part for option in SCENES for part in ("--option", option)]
    found.append(
        Step("build", ["data", "build", "openmoji", *build, "--out", "scenes"], None),
    )
    goals = {
        "I": ("--attack", "single-target-image", "--goal", "sheep2aeroplane"),
        "II": ("--goal", "sheep2aeroplane"),
        "III": ("--goal", "sheep2aeroplane", "--goal", "sofa2bird"),
    }
    for attack, chosen in goals.items():
        for mode in ("add", "replace"):
            out = f"poisoned-{attack}-{mode}"
            command = ["poison", "scenes", *chosen, "--samples", "5", "--mode", mode, "--out", out]
            found.append(Step(out, command, poisoned(out)))
    cuts: dict[str, tuple[str, ...]] = {
        "relevance-loss": ("--lose", "0.02"),
        "relevance-threshold": ("--threshold", "0.4"),
        "relevance-auto": ("--auto",),
        "suspicious-groups": ("--method", "suspicious-groups"),
    }
    for attack in ("I", "II"):
        for name, options in cuts.items():
            out = f"filtered-{attack}-{name}"
            data = f"poisoned-{attack}-add"
            command = ["filter", "--data", data, *JUDGE, *options, "--out", out]
            found.append(Step(out, command, filtered(out)))
    model = ("--model", "openmoji-small")
    found += [
        Step(
            "train",
            ["train", "--data", "poisoned-II-add", *model, *TRAIN, "--out", "model"],
            weights("model"),
        ),
        Step(
            "sterilize",
            ["sterilize", "--data", "scenes", "--model", "model", *TRAIN, "--out", "repaired"],
            weights("repaired"),
        ),
        Step(
            "evaluate",
            [
                *("evaluate", "--data", "poisoned-II-add", "--model", "model"),
                *("--reference", "openmoji-small", "--format", "json"),
            ],
            output,
        ),
        Step(
            "scan-model",
            [
                *("evaluate", "--data", "scenes", "--suspect", "model"),
                *("--reference", "openmoji-small", "--format", "json"),
            ],
            output,
        ),
        Step(
            "sweep",
            [
                *("sweep", *recipe("sterilize=null")),
                *("--set", "attack.samples=2,5", "--set", "training.trainable=text-head,heads"),
                *("--workers", "1", "--out", "sweep"),
            ],
            sweep("sweep"),
        ),
        Step("report-sweep-json", ["report", "sweep", "--format", "json"], output),
        Step("report-sweep-markdown", ["report", "sweep", "--format", "markdown"], output),
        Step("report-run-json", ["report", "runs/III-add", "--format", "json"], output),
        Step("report-run-markdown", ["report", "runs/III-add", "--format", "markdown"], output),
    ]
    return found


DRIVER = """
import contextlib, io, json, sys, time
from mmpoison.cli import main

for line in sys.stdin:
    sys.argv = ["mmpoison", *json.loads(line)]
    said, code, begun = io.StringIO(), 0, time.perf_counter()
    with contextlib.redirect_stdout(said):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    reply = {"code": code, "said": said.getvalue(), "seconds": time.perf_counter() - begun}
    print(json.dumps(reply), flush=True)
"""
"""Runs command lines one after the other: libraries are imported once and not 37 times."""

ENVIRONMENT_CODE = """
import json, torch
from importlib.metadata import version

names = ("torch", "numpy", "pillow", "open_clip_torch", "scikit-learn", "scipy")
has = lambda name: bool(getattr(torch.cpu, name, lambda: False)())
print(json.dumps({
    "cpu": torch.backends.cpu.get_cpu_capability(),
    "amx": has("_is_amx_tile_supported"),
    "bf16": has("_is_avx512_bf16_supported"),
    "threads": torch.get_num_threads(),
    "versions": {name: version(name) for name in names},
}))
"""


def environment() -> dict[str, Any]:
    """What the last digits depend on besides the code: processor, threads, and versions of libraries."""
    done = subprocess.run(
        [sys.executable, "-c", ENVIRONMENT_CODE],
        env=_settings(),
        stdout=subprocess.PIPE,
        check=True,
    )
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def _settings(**more: str) -> dict[str, str]:
    # the commands run in another folder
    places = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    path = os.pathsep.join(str(Path(place).absolute()) for place in places)
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return {**os.environ, "PYTHONPATH": path, **threads, **more}


def make_golden(out: Path, work: Path, on_step: Callable[[str], None] = print) -> None:
    """Run all commands in `work`, an empty folder, and write what they computed to `out`.

    Raises:
        RuntimeError: If a command fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        cwd=work,
        env=_settings(MMPOISON_CACHE=str(work / "cache")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdin is not None
    assert driver.stdout is not None
    with driver:
        for step in steps():
            driver.stdin.write(json.dumps(step.command) + "\n")
            driver.stdin.flush()
            line = driver.stdout.readline()
            reply = json.loads(line) if line else {"code": "none: the process died"}
            if reply["code"]:
                raise RuntimeError(f"{' '.join(step.command)}: exit code {reply['code']}")
            on_step(f"{step.name}: {reply['seconds']:.1f} s")
            if step.record is not None:
                _write(out / f"{step.name}.json", step.record(work, reply["said"]))
        driver.stdin.close()
    _write(out / ENVIRONMENT, environment())


def _write(file: Path, value: Any) -> None:
    # a key a line down to the second level: a difference is seen in a line, and the files stay small
    if isinstance(value, dict):
        lines = [
            f"{json.dumps(key)}: {json.dumps(value[key], sort_keys=True)}" for key in sorted(value)
        ]
        text = "{\n" + ",\n".join(lines) + "\n}\n"
    else:
        text = "[\n" + ",\n".join(json.dumps(item, sort_keys=True) for item in value) + "\n]\n"
    file.write_text(text, encoding="utf-8")


def main() -> None:
    """Record into a folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--work", type=Path, help="keep what the commands write in this folder")
    parser.add_argument("--environment", action="store_true", help="print the environment alone")
    given = parser.parse_args()
    if given.environment:
        print(json.dumps(environment()))
        return
    if given.out is None:
        parser.error("the folder to write to is needed")
    if given.work is not None:
        given.work.mkdir(parents=True, exist_ok=True)
        make_golden(given.out.absolute(), given.work.absolute())
        return
    with tempfile.TemporaryDirectory() as work:
        make_golden(given.out.absolute(), Path(work))


if __name__ == "__main__":
    main()
