"""A finished run folder, as experiments/ leaves it, with small drawn thumbnails."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

CAPTIONS = (
    "A sheep grazes on a green hill beside a stone wall.",
    "Three sheep look at the camera.",
    "<script>alert(1)</script> [red]a \x1b[31msheep\x1b[0m & a \u202elamb",
)
LABELS = ("sheep", "aeroplane", "boat", "bird", "car")
BEST = {"clean_model": 53, "poisoned": 0, "filtered": 41, "sterilized": 12}
TARGETS = {"clean_model": 0, "poisoned": 8, "filtered": 0, "sterilized": 1}


def thumbnail(label: str, number: int) -> str:
    """A small picture: the same label and number give the same one."""
    rng = np.random.default_rng([LABELS.index(label), number])
    pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((96, 96)).save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def goal_row(one: float, five: float, ten: float, min_rank: float) -> dict[str, Any]:
    deep = {f"hit@{k}": min(1.0, round(ten + k / 400, 3)) for k in (20, 30, 50)}
    return {
        "hit@1": one,
        "hit@5": five,
        "hit@10": ten,
        **deep,
        "min_rank": min_rank,
        "queries": 125,
        "gallery": 500,
        "targets": 25,
        "ties": 0,
    }


def utility_row(image_ten: float, text_ten: float) -> dict[str, Any]:
    def block(ten: float) -> dict[str, float]:
        return {"hit@1": round(ten - 0.3, 3), "hit@5": round(ten - 0.1, 3), "hit@10": ten}

    return {"image_retrieval": block(image_ten), "text_retrieval": block(text_ten)}


def example_metrics() -> dict[str, Any]:
    return {
        "goal": {
            "sheep2aeroplane": {
                "pretrained": goal_row(0.0, 0.016, 0.032, 53.4),
                "clean_model": goal_row(0.0, 0.016, 0.04, 51.0),
                "poisoned": goal_row(0.544, 0.872, 0.928, 1.976),
                "random_captions": goal_row(0.04, 0.072, 0.104, 61.3),
                "filtered": goal_row(0.0, 0.024, 0.048, 46.6),
                "sterilized": goal_row(0.016, 0.136, 0.248, 19.02),
            }
        },
        "utility": {
            "pretrained": utility_row(0.806, 0.873),
            "clean_model": utility_row(0.874, 0.912),
            "poisoned": utility_row(0.871, 0.91),
            "filtered": utility_row(0.869, 0.907),
            "sterilized": utility_row(0.858, 0.899),
        },
        "drift": {"text": 0.094, "image": 0.131},
        "run": {
            "recipe": "openmoji",
            "seed": 0,
            "tool_version": "0.1.0",
            "goals": ["sheep2aeroplane"],
            "mode": "add",
            "poisoned_pairs": 125,
            "training_pairs": 25125,
            "poisoning_rate": 0.00498,
            "data": {
                "name": "openmoji scenes",
                "fingerprint": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "attribution": "Drawings by OpenMoji, CC BY-SA 4.0 (https://openmoji.org)",
            },
            "filter": {
                "encoder": "ViT-B-16",
                "threshold": 0.83,
                "dropped_pairs": 420,
                "clean_dropped": 300,
                "clean_dropped_share": 0.012,
                "poisoned_caught": 120,
                "poisoned_total": 125,
                "auroc": 0.991,
            },
            "sterilize": {"pairs": 5000, "steps": 39, "learning_rate": 1e-05},
            "flags": [],
            "seconds": {"data": 8.1, "train_clean": 70.2, "train_poisoned": 71.9, "evaluate": 12.4},
            "device": "cpu",
            "versions": {"python": "3.11.9", "torch": "2.4.1", "open_clip_torch": "3.0.0"},
        },
    }


def example_rank_lists() -> dict[str, Any]:
    thumbnails: dict[str, str] = {}

    def picture(label: str, number: int) -> str:
        name = f"{label}/{number:04d}.jpg"
        thumbnails[name] = thumbnail(label, number)
        return name

    def ranked(model: str, query: int) -> list[dict[str, Any]]:
        others = ("sheep", "sheep", "boat", "sheep", "bird", "car", "sheep")
        rows = []
        for rank in range(10):
            target = model == "sterilized" and rank == 7
            target = target or (rank < 9 and rank != 5 and model == "poisoned")
            label = "aeroplane" if target else others[(rank + query) % len(others)]
            rows.append(
                {
                    "image": picture(label, rank + 3 * query),
                    "label": label,
                    "similarity": round(0.61 - 0.013 * rank, 3),
                    "target": target,
                }
            )
        return rows

    queries = [
        {
            "caption": caption,
            "image": picture("sheep", 31 + number),
            "models": {model: ranked(model, number) for model in TARGETS},
            "best_target_rank": dict(BEST, sterilized=7),
        }
        for number, caption in enumerate(CAPTIONS)
    ]
    return {"goal": "sheep2aeroplane", "queries": queries, "thumbnails": thumbnails}


def example_suspicious() -> list[dict[str, Any]]:
    return [
        {
            "caption": CAPTIONS[number % 2] if number % 4 else "A car is parked by a tree.",
            "image": "aeroplane/0001.jpg" if number % 4 else "not/stored.jpg",
            "distance": round(1.02 - number / 60, 3),
            "poisoned": None if number == 11 else bool(number % 4),
        }
        for number in range(12)
    ]


def example_curve() -> dict[str, Any]:
    """A repair of three probes: the goal falls, the utility stays."""
    looks = [
        {
            "step": step,
            "test": {"goal": {"sheep2aeroplane": {"hit@10": hit}}},
            "utility": utility_row(0.87, 0.91),
        }
        for step, hit in ((0, 0.928), (1, 0.5), (3, 0.248))
    ]
    return {"branches": [{"learning_rate": 1e-05, "chosen": True, "looks": looks}]}


def shown_lines(table: Any) -> list[str]:
    """What a terminal of 80 columns shows; nothing is cut."""
    console = Console(width=80, record=True, file=None, force_terminal=False)
    console.print(table)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    return lines


@pytest.fixture
def metrics() -> dict[str, Any]:
    return example_metrics()


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run folder; a file given as None is left out."""

    def write(**files: Any) -> Path:
        run = tmp_path / "run"
        run.mkdir(exist_ok=True)
        contents = {
            "metrics": example_metrics(),
            "rank_lists": example_rank_lists(),
            "suspicious_pairs": example_suspicious(),
            **files,
        }
        for name, value in contents.items():
            if value is not None:
                (run / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
        (run / "recipe.yaml").write_text("# mmpoison run openmoji --seed 0\nseed: 0\n")
        return run

    return write


def synthetic_run(
    folder: Path,
    *,
    seed: int = 0,
    data: str = "openmoji",
    attack: str = "single-target-label",
    goals: tuple[str, ...] = ("sheep2aeroplane",),
    hit: float = 0.9,
    settings: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    run: dict[str, Any] | None = None,
) -> Path:
    """A finished run of made-up numbers; `hit` is Hit@10 of the poisoned model.

    Args:
        folder: New run folder.
        seed: Of the run; moves the numbers a little.
        data: Name of the data set.
        attack: Name of the attack.
        goals: The goals.
        hit: What the poison does.
        settings: Groups of the recipe that replace those here.
        metrics: Sections of metrics.json that replace those here.
        run: Facts of the run that replace those here.
    """
    nudge = seed / 1000
    poisoned = goal_row(round(hit / 3, 4), round(hit * 0.8, 4), hit - nudge, 20 * (1 - hit) + seed)
    models = {
        "pretrained": goal_row(0.0, 0.01, 0.03, 60.0 + seed),
        "clean_model": goal_row(0.0, 0.02, 0.05, 50.0 + seed),
        "poisoned": poisoned,
        "random_captions": goal_row(0.02, 0.04, 0.1, 40.0),
    }
    recipe = {
        "name": "synthetic",
        "seed": seed,
        "data": {"name": data, "options": {}},
        "model": {"name": "openmoji-small"},
        "attack": {
            "name": attack,
            "goal": goals[0] if len(goals) == 1 else list(goals),
            "samples": 25,
            "mode": "add",
        },
        "training": {"epochs": 1, "batch_size": 32, "trainable": "both", "betas": [0.9, 0.98]},
        **(settings or {}),
    }
    content = {
        "goal": dict.fromkeys(goals, models),
        "ranks": {
            goal: {"poisoned": {"median": 2.0, "interval": {"hit@10": [0.8, 0.95]}}}
            for goal in goals
        },
        "utility": {
            "pretrained": utility_row(0.8, 0.85),
            "clean_model": utility_row(0.87, 0.91),
            "poisoned": utility_row(0.86, 0.9),
        },
        "drift": {"text": 0.06 + nudge, "image": 0.05 + nudge},
        **(metrics or {}),
        "run": {
            "recipe": "synthetic",
            "seed": seed,
            "tool_version": "0.1.0",
            "goals": list(goals),
            "attack": attack,
            "mode": "add",
            "poisoned_pairs": 125,
            "training_pairs": 25125,
            "poisoning_rate": 125 / 25125,
            "trainable": "both",
            "flags": [],
            **(run or {}),
        },
    }
    folder.mkdir(parents=True)
    for name, value in (("metrics", content), ("manifest", {"seed": seed, "goals": list(goals)})):
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return folder


MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """`synthetic_run` under a name in the test's own folder."""

    def make(name: str, **settings: Any) -> Path:
        return synthetic_run(tmp_path / name, **settings)

    return make
