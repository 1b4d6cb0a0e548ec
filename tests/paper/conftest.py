"""Made-up runs of every kind that a table or figure of the paper is made of."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.reporting import conftest as reporting

MakeRun = Callable[..., Path]

HIT = {"hit@1": 0.1, "hit@5": 0.4, "hit@10": 0.6, "min_rank": 9.0}


def picture() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (24, 24), (90, 120, 90)).save(buffer, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def probes() -> list[dict[str, Any]]:
    utility = {f"{way}_retrieval": {"hit@10": 0.8} for way in ("image", "text")}
    return [
        {
            "step": step,
            "epoch": step // 50,
            "utility": utility,
            "test": {"goal": {"sheep2aeroplane": {**HIT, "hit@10": 0.6 / (1 + step)}}},
        }
        for step in (0, 1, 10, 50, 100, 150)
    ]


# the fixture of the reports, which are made of run folders too
make_run = reporting.make_run


@pytest.fixture
def every_run(make_run: MakeRun, tmp_path: Path) -> Path:
    """A folder of runs that hold something for every table and figure."""
    row = {"hit@1": 0.2, "hit@5": 0.5, "hit@10": 0.7, "min_rank": 5.0, "words": 9.0}
    for seed in (0, 1, 2):
        make_run(
            f"all/II/seed{seed}",
            seed=seed,
            metrics={
                "study": {
                    "epochs": {
                        "sheep2aeroplane": {
                            "poisoned": {
                                str(e): {**row, "min_rank": 50.0 / (1 + e)} for e in range(4)
                            }
                        }
                    }
                },
                "transfer": {
                    "rsicd-ucm": {
                        "goal": {"airplane2beach": {"clean_model": row, "poisoned": row}},
                        "utility": {},
                    }
                },
            },
            run={
                "data": {
                    "name": "openmoji",
                    "pairs": 30000,
                    "images": 6000,
                    "labelled_images": 1000,
                    "classes": 20,
                },
                "model": {"name": "openmoji-small", "flops_g": 0.2, "parameters_m": 4.5},
            },
        )
        make_run(
            f"all/I/seed{seed}",
            seed=seed,
            attack="single-target-image",
            metrics={
                "study": {
                    "query_length": {
                        "sheep2aeroplane": {"poisoned": {str(n): row for n in (1, 2, 3)}}
                    }
                }
            },
        )
        make_run(
            f"all/III/seed{seed}",
            seed=seed,
            attack="multiple-target-labels",
            goals=("sheep2aeroplane", "sofa2bird"),
        )
        make_run(f"all/b/seed{seed}", seed=seed, data="openmoji-b")
        for part in ("image", "text"):
            training = {"epochs": 1, "trainable": part}
            make_run(f"all/{part}/seed{seed}", seed=seed, settings={"training": training})
        small = {"name": "single-target-label", "goal": "sheep2aeroplane", "samples": 5}
        make_run(
            f"all/few/seed{seed}",
            seed=seed,
            hit=0.4,
            settings={"attack": small},
            run={"poisoning_rate": 0.001, "poisoned_pairs": 25},
        )
    defended(make_run)
    goals = [f"{a}2{b}" for a in ("cat", "cow", "dog") for b in ("cat", "cow", "dog") if a != b]
    for goal in goals:
        make_run(f"all/goals/{goal}", goals=(goal,), settings={"model": {"name": "other"}})
    return tmp_path / "all"


def defended(make_run: MakeRun) -> None:
    """Runs with a filter and a repair, with all that is written beside the numbers."""
    for rate in (1e-5, 1e-4):
        run = make_run(
            f"all/defended/{rate:g}",
            settings={
                "filter": {"encoder": "openmoji-mini", "threshold": 0.8},
                "sterilize": {"training": {"learning_rate": rate}},
            },
            metrics={
                "goal": {
                    "sheep2aeroplane": {
                        name: {**HIT, "hit@10": hit}
                        for name, hit in (
                            ("clean_model", 0.05),
                            ("poisoned", 0.9),
                            ("filtered", 0.04),
                            ("sterilized", 0.1),
                        )
                    }
                },
                "utility": {
                    name: {f"{way}_retrieval": {"hit@10": 0.9} for way in ("image", "text")}
                    for name in ("clean_model", "poisoned", "filtered", "sterilized")
                },
            },
            run={
                "filter": {
                    "encoder": "openmoji-mini",
                    "threshold": 0.8,
                    "histogram": {
                        "edges": [0.6, 0.7, 0.8, 0.9],
                        "clean": [10, 80, 10],
                        "poisoned": [0, 2, 8],
                    },
                }
            },
        )
        curve = {"branches": [{"learning_rate": rate, "looks": probes()}], "steps_per_epoch": 50}
        (run / "sterilize_curve.json").write_text(json.dumps(curve))
        points = {"texts": [[0.1, 0.2, 0], [0.5, 0.1, 1]], "images": [[0.3, 0.2, 0], [1, 1, 1]]}
        embedding_map = {
            "method": "pca",
            "classes": ["sheep", "aeroplane"],
            "models": {"pretrained": points, "poisoned": points},
        }
        (run / "embedding_map.json").write_text(json.dumps(embedding_map))
        found = [
            {"image": f"{n}.jpg", "label": "sheep", "similarity": 0.3, "target": n == 1}
            for n in range(3)
        ]
        confusing = [
            {
                "image": "0.jpg",
                "label": "cow",
                "similarity": 0.4,
                "captions": ["A $cow_ & a sheep."],
            }
        ]
        lists = {
            "goals": ["sheep2aeroplane"],
            "queries": [
                {
                    "goal": "sheep2aeroplane",
                    "caption": "A $sheep_ stands in a field for $\\frac$.",
                    "image": "0.jpg",
                    "models": {"clean_model": found, "poisoned": found},
                }
            ],
            "confusing": {"sheep2aeroplane": confusing},
            "thumbnails": {f"{n}.jpg": picture() for n in range(2)},
        }
        (run / "rank_lists.json").write_text(json.dumps(lists))
