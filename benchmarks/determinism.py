"""How much two runs of one recipe differ: with one thread, with two, and between one and two.

A run is the recipe `openmoji` on fewer scenes and with fewer steps, in a process of its own, with a cache of its own.
It draws its pictures, trains and measures everything itself. Each number of threads runs twice.

    python benchmarks/determinism.py --json determinism.json
    python benchmarks/determinism.py --threads 1 2 4 --max-steps 120

Two runs are compared in what they write: `metrics.json` without its times, the losses of every training, the measures
of every model, and the embeddings of the test part by each run's models. The pre-trained model has the same weights in
every run: its embeddings show what the number of threads changes before any training.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmpoison.base.files import write_json
from mmpoison.datasets import load_dataset
from mmpoison.evaluation import TestEmbeddings, TestSet
from mmpoison.models import load_encoder, prepare_pixels

SCENES = {"unlabelled": 300, "per_class": 50, "held_out": 200}
TIMES = {"seconds", "pairs_per_second"}
MODELS = ("clean_model", "poisoned", "filtered", "sterilized")


def main() -> None:
    """Make the runs, compare them, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--max-steps", type=int, default=60, help="of each training")
    parser.add_argument("--precision", default="auto", help="of training: auto, fp32 or bf16")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--embed", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.embed is not None:
        _embed(given.embed)
        return
    with tempfile.TemporaryDirectory() as place:
        runs = {}
        for threads in given.threads:
            for attempt in "ab":
                name = f"{threads}{attempt}"
                print(f"run {name}", file=sys.stderr, flush=True)
                runs[name] = _run(Path(place) / name, threads, given.max_steps, given.precision)
        found = {
            f"{one} and {other}": compare(runs[one], runs[other])
            for one, other in _pairs(given.threads)
        }
    facts = {
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "precision": runs[next(iter(runs))]["metrics"]["run"]["training"]["poisoned"]["precision"],
        "max_steps": given.max_steps,
    }
    print(json.dumps(facts))
    rows = next(iter(found.values()))
    print(f"| | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
    for row in rows:
        print(f"| {row} | {' | '.join(_shown(each[row]) for each in found.values())} |")
    if given.json:
        write_json(given.json, {"machine": facts, "differences": found})


def _pairs(threads: list[int]) -> list[tuple[str, str]]:
    """The same number of threads twice, then the first of every two numbers."""
    same = [(f"{count}a", f"{count}b") for count in threads]
    return same + [(f"{one}a", f"{other}a") for one, other in combinations(threads, 2)]


def _run(folder: Path, threads: int, max_steps: int, precision: str) -> dict[str, Any]:
    """Make one run in processes of its own, and read what it wrote."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        # a thread that waits sleeps: the same numbers, and much sooner where others compute too
        "OMP_WAIT_POLICY": "PASSIVE",
        "MMPOISON_CACHE": str(folder / "cache"),
    }
    changes = [f"data.options.{key}={value}" for key, value in SCENES.items()]
    changes += [f"training.max_steps={max_steps}", f"training.precision={precision}"]
    changes += [f"sterilize.training.precision={precision}"]
    command = ["run", "openmoji", "--out", str(folder / "run"), "--models", "--device", "cpu"]
    for change in changes:
        command += ["--set", change]
    start = [sys.executable, "-c", "from mmpoison.cli import main; main()"]
    subprocess.run([*start, *command], env=environment, check=True, stdout=subprocess.DEVNULL)
    again = [sys.executable, __file__, "--embed", str(folder)]
    subprocess.run(again, env=environment, check=True)
    logs = {name: folder / "run" / "logs" / name / "steps.jsonl" for name in MODELS}
    return {
        "metrics": _without_times(json.loads((folder / "run" / "metrics.json").read_text("utf-8"))),
        "losses": {name: _losses(log) for name, log in logs.items()},
        "embeddings": dict(np.load(folder / "embeddings.npz")),
    }


def _losses(log: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in log.read_text("utf-8").splitlines()]


def _embed(folder: Path) -> None:
    """Write the embeddings of the test part by the models of a run: a process of the run's number of threads."""
    pairs = load_dataset("openmoji", seed=0, options=SCENES)
    test = TestSet.of(pairs)
    embeddings = {}
    for name in ("pretrained", *MODELS):
        encoder = load_encoder(
            "openmoji-small" if name == "pretrained" else folder / "run" / "models" / name
        )
        found = TestEmbeddings.of(
            encoder, prepare_pixels(encoder, pairs, images=test.gallery), test
        )
        embeddings[name] = np.concatenate([found.images, found.texts])
    np.savez(folder / "embeddings.npz", **embeddings)


def compare(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Compare what two runs wrote.

    Args:
        one: As `_run` gives it.
        other: The same.

    Returns:
        Rows of the table: whether `metrics.json` is the same, and largest absolute differences.
    """
    first, second = dict(_numbers(one["metrics"])), dict(_numbers(other["metrics"]))
    both = [key for key in first if key in second]

    def largest(*wanted: str) -> float:
        chosen = [key for key in both if all(word in key for word in wanted)]
        return max((abs(first[key] - second[key]) for key in chosen), default=0.0)

    rows: dict[str, Any] = {"metrics.json equal": one["metrics"] == other["metrics"]}
    for name in MODELS:
        losses = [np.array(run["losses"][name]) for run in (one, other)]
        same = len(losses[0]) == len(losses[1])
        rows[f"{name}: loss of the first step"] = abs(losses[0][0] - losses[1][0])
        rows[f"{name}: loss, mean of all steps"] = abs(losses[0].mean() - losses[1].mean())
        rows[f"{name}: loss, largest of one step"] = (
            float(np.abs(losses[0] - losses[1]).max()) if same else None
        )
        rows[f"{name}: Hit@10"] = largest("goal/", f"/{name}/", "hit@10")
        rows[f"{name}: MinRank"] = largest("goal/", f"/{name}/", "min_rank")
        rows[f"{name}: utility, any of Hit@1, 5, 10"] = largest("utility/", f"/{name}/")
    rows["drift"] = largest("drift/")
    for name, embedded in one["embeddings"].items():
        distance = np.abs(embedded - other["embeddings"][name])
        rows[f"{name}: embeddings, largest of one number"] = float(distance.max())
    return rows


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """All numbers of a nested value with their paths, `/goal/sheep2aeroplane/poisoned/hit@10`."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(item, f"{path}/{key}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key not in TIMES}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else "0" if value == 0 else f"{value:.2g}"


if __name__ == "__main__":
    main()
