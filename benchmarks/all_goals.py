"""What all goals of OpenMoji scenes cost in one sweep, against as many runs one by one.

    python benchmarks/all_goals.py --single 2 --sweep 6

A single run starts with a cache that holds nothing but the drawn scenes: it decodes the images, computes the features,
and trains its clean model. The sweep shares these. Two sweeps, of one goal and of several, give the fixed part and the
part of each goal; both are taken to all goals. Processor time is counted (user and system, of all processes), since
wall time hangs on what else the machine does; wall time is printed too. Filter and repair are left out, as in figure
5b.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mmpoison.base.files import cache_folder
from mmpoison.datasets.openmoji.scene_data import CLASSES

LEAN = ["--set", "filter=null", "--set", "sterilize=null"]
DRAWN = ("data", "sprites")


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--recipe", default="openmoji-heads")
    parser.add_argument("--single", type=int, default=2, help="runs one by one")
    parser.add_argument("--sweep", type=int, default=6, help="goals of the larger sweep")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    names = list(CLASSES)
    goals = [f"{a}2{b}" for a in names for b in names if a != b]
    # spread over the classes
    chosen = goals[:: len(goals) // max(arguments.single, arguments.sweep)]
    recipe = arguments.recipe
    seed_cache(recipe)
    single = [
        cost(["run", recipe, "--goal", goal, "--no-models", *LEAN])
        for goal in chosen[: arguments.single]
    ]
    several = {
        count: cost(["sweep", recipe, "--goals", ",".join(chosen[:count]), "--workers", "1", *LEAN])
        for count in (1, arguments.sweep)
    }
    report = {"recipe": recipe, "goals": len(goals), "sweep_of": arguments.sweep}
    for number, kind in enumerate(("processor", "wall")):
        one = sum(each[number] for each in single) / len(single)
        each_goal = (several[arguments.sweep][number] - several[1][number]) / (arguments.sweep - 1)
        fixed = several[1][number] - each_goal
        whole = fixed + len(goals) * each_goal
        report[kind] = {
            "single_run_s": round(one, 1),
            "sweep_fixed_s": round(fixed, 1),
            "sweep_each_goal_s": round(each_goal, 1),
            "all_single_h": round(one * len(goals) / 3600, 2),
            "all_sweep_h": round(whole / 3600, 2),
            "share": round(whole / (one * len(goals)), 3),
        }
    print(json.dumps(report, indent=2))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def seed_cache(recipe: str) -> None:
    """Draw the scenes, if they are not there."""
    from mmpoison.datasets import load_dataset
    from mmpoison.runs.recipe import load_recipe

    one = load_recipe(recipe)
    load_dataset(one.data.name, seed=one.seed, options=one.data.options)


def cost(arguments: list[str]) -> tuple[float, float]:
    """Processor and wall seconds of a command with a cache that holds only the drawn scenes."""
    # on the same disk, so that the scenes need not be copied
    with tempfile.TemporaryDirectory(dir=cache_folder().parent) as folder:
        cache = Path(folder) / "cache"
        cache.mkdir()
        for name in DRAWN:
            if (cache_folder() / name).is_dir():
                shutil.copytree(cache_folder() / name, cache / name, copy_function=os.link)
        before, begun = used(), time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "mmpoison", *arguments, "--out", str(Path(folder) / "out")],
            env={**os.environ, "MMPOISON_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return used() - before, time.perf_counter() - begun


def used() -> float:
    """Processor seconds of all child processes so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
