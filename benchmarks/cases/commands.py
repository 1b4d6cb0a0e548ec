"""Measures the cost of whole commands, and the difference between two runs of one recipe."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from functools import partial
from itertools import combinations
from pathlib import Path
from subprocess import DEVNULL, run

import numpy as np
from harness import Found, alone, clocked, flat, mmpoison

LEAN = ("--set", "filter=null", "--set", "sterilize=null")


def commands(starts: int = 5) -> Found:
    """The best of five starts of the command line and of Python, and the demo once, from an empty cache."""

    def best(*arguments: str) -> float:
        start = partial(run, [sys.executable, *arguments], check=True, stdout=DEVNULL)
        return float(min(clocked(start)[0][0] for _ in range(starts)))

    python = best("-c", "pass")
    with tempfile.TemporaryDirectory() as folder:
        demo = alone(mmpoison, "demo", "--out", f"{folder}/demo")
    return {
        "help_seconds": best("-m", "mmpoison", "--help"),
        "import_seconds": best("-c", "import mmpoison") - python,
        "demo_seconds": demo["seconds"],
    }


def all_goals(recipe: str = "openmoji-heads", single: int = 1, sweep: int = 4) -> Found:
    """All 380 goals of OpenMoji scenes in one sweep, against the same runs one by one, in processor time.

    A single run starts with a cache that holds nothing but the drawn scenes: it decodes the images, computes the
    features, and trains its clean model. The sweep shares these. Two sweeps, of one goal and of several, give the fixed
    part and the part of each goal; both are taken to all goals. Filter and repair are left out, as in figure 5b.
    """
    from mmpoison.datasets import load_dataset
    from mmpoison.datasets.openmoji.scene_data import CLASSES
    from mmpoison.runs.recipe import load_recipe

    goals = [f"{a}2{b}" for a in CLASSES for b in CLASSES if a != b]
    chosen = goals[:: len(goals) // max(single, sweep)]  # spread over the classes
    data = load_recipe(recipe).data
    load_dataset(data.name, seed=load_recipe(recipe).seed, options=data.options)

    def swept(count: int) -> float:
        return _cost("run", recipe, "--goals", ",".join(chosen[:count]), "--workers", "1", *LEAN)

    runs = [_cost("run", recipe, "--goals", goal, "--no-models", *LEAN) for goal in chosen[:single]]
    one, several = swept(1), swept(sweep)
    each = (several - one) / (sweep - 1)
    alone_ = float(np.mean(runs))
    whole = one - each + len(goals) * each
    return {"single_run_s": alone_, "each_goal_s": each, "share": whole / (len(goals) * alone_)}


def _cost(*arguments: str) -> float:
    """Processor seconds of a command with a cache that holds only the drawn scenes."""
    from mmpoison.base.files import cache_folder

    # on the same disk, so that the scenes need not be copied
    with tempfile.TemporaryDirectory(dir=cache_folder().parent) as folder:
        cache = Path(folder) / "cache"
        for drawn in ("data", "sprites"):
            shutil.copytree(cache_folder() / drawn, cache / drawn, copy_function=os.link)
        environment = {"MMPOISON_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        done = alone(mmpoison, *arguments, "--out", f"{folder}/out", **environment)
    return float(done["cpu_seconds"])


# -- the same numbers again --------------------------------------------------------------------------------------------

SCENES = {"unlabelled": 300, "per_class": 50, "held_out": 200}
TIMES = {"seconds", "pairs_per_second"}
MODELS = ("clean_model", "poisoned", "filtered", "sterilized")


def determinism(threads: tuple[int, ...] = (1, 2), steps: int = 60) -> Found:
    """How much two runs of one recipe differ: with one thread, with two, and between one and two.

    A run is the recipe `openmoji` on fewer scenes and with fewer steps, in a process of its own, with a cache of its
    own. Each number of threads runs twice. Compared is what they write: `metrics.json` without its times, the losses of
    every training, the measures of every model, and the embeddings of the test part by each run's models. The
    pre-trained model has the same weights in every run: its embeddings show what threads change before any training.
    """
    with tempfile.TemporaryDirectory() as place:
        runs = {
            f"{count}{attempt}": _run(f"{place}/{count}{attempt}", count, steps)
            for count in threads
            for attempt in "ab"
        }
    pairs = [(f"{count}a", f"{count}b") for count in threads]
    pairs += [(f"{one}a", f"{other}a") for one, other in combinations(threads, 2)]
    return {f"{one} and {other}": _differences(runs[one], runs[other]) for one, other in pairs}


def _run(folder: str, threads: int, steps: int) -> Found:
    settings = [f"--set=data.options.{key}={value}" for key, value in SCENES.items()]
    settings.append(f"--set=training.max_steps={steps}")
    environment = {
        "OMP_NUM_THREADS": str(threads),
        # a thread that waits sleeps: the same numbers, and much sooner where others compute too
        "OMP_WAIT_POLICY": "PASSIVE",
        "MMPOISON_CACHE": f"{folder}/cache",
    }
    out = Path(folder, "run")
    command = ["run", "openmoji", "--out", str(out), "--models", "--device", "cpu", *settings]
    alone(mmpoison, *command, **environment)
    alone(embed_test_part, folder, **environment)
    metrics = flat(json.loads((out / "metrics.json").read_text("utf-8")))
    found = {key: each for key, each in metrics if TIMES.isdisjoint(key.split("."))}
    for name in MODELS:
        lines = (out / "logs" / name / "steps.jsonl").read_text("utf-8").splitlines()
        losses = [json.loads(line)["loss"] for line in lines]
        found |= {f"loss.{name}.step {step}": loss for step, loss in enumerate(losses)}
        found[f"loss.{name}.mean"] = sum(losses) / len(losses)
    return {"numbers": found, "embeddings": dict(np.load(f"{folder}/embeddings.npz"))}


def embed_test_part(folder: str) -> None:
    """Write the embeddings of the test part by the models of a run."""
    from mmpoison.datasets import load_dataset
    from mmpoison.evaluation import TestEmbeddings, TestSet
    from mmpoison.models import load_encoder, prepare_pixels

    pairs = load_dataset("openmoji", seed=0, options=SCENES)
    test = TestSet.of(pairs)
    models = {"pretrained": "openmoji-small"} | {n: f"{folder}/run/models/{n}" for n in MODELS}
    embedded = {}
    for name, model in models.items():
        encoder = load_encoder(model)
        inputs = prepare_pixels(encoder, pairs, images=test.gallery)
        found = TestEmbeddings.of(encoder, inputs, test)
        embedded[name] = np.concatenate([found.images, found.texts])
    np.savez(f"{folder}/embeddings.npz", **embedded)


def _differences(one: Found, other: Found) -> Found:
    """Return the largest absolute differences between the files of two runs, and whether all but the times is equal."""
    first, second = one["numbers"], other["numbers"]

    def largest(*words: str) -> float:
        keys = [key for key in first.keys() & second.keys() if all(word in key for word in words)]
        both = ((first[key], second[key]) for key in keys)
        return max((abs(a - b) for a, b in both if isinstance(a, int | float)), default=0.0)

    found: Found = {"all but times equal": first == second, "drift": largest("drift.")}
    for name in MODELS:
        found[name] = {
            "loss of the first step": largest(f"loss.{name}.step 0"),
            "mean loss": largest(f"loss.{name}.mean"),
            "loss of any step": largest(f"loss.{name}.step"),
            "Hit@10": largest("goal.", f".{name}.", "hit@10"),
            "MinRank": largest("goal.", f".{name}.", "min_rank"),
            "utility": largest("utility.", f".{name}."),
        }
    found["embeddings, one component of a unit vector"] = {
        name: float(np.abs(each - other["embeddings"][name]).max())
        for name, each in one["embeddings"].items()
    }
    return found
