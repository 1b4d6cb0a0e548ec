"""Runs of every kind that a table or figure of the paper is made of: those of the golden net, with pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.golden.layouts import write_paper_runs
from tests.reporting import conftest as reporting

# the fixture of the reports, which are made of run folders too
make_run = reporting.make_run


@pytest.fixture(scope="session")
def every_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs that hold something for every table and figure; tests only read it."""
    root = tmp_path_factory.mktemp("paper") / "all"
    write_paper_runs(root)
    scenes = root / "scenes-0"
    metrics = json.loads((scenes / "metrics.json").read_text())
    counts = {"pairs": 30000, "images": 6000, "labelled_images": 1000, "classes": 20}
    metrics["run"] |= {
        "data": {"name": "openmoji", **counts},
        "model": {"name": "openmoji-small", "flops_g": 0.2, "parameters_m": 4.5},
    }
    silhouettes = {"text_silhouette": 0.36, "image_silhouette": 0.14}
    metrics["study"]["distribution"] = {
        "pretrained": silhouettes,
        "poisoned": dict.fromkeys(silhouettes, 0.9),
    }
    goal = {"airplane2beach": metrics["goal"]["sheep2aeroplane"]}
    metrics["transfer"] = {"flickr8k": {"goal": goal, "utility": {}}}
    write(scenes / "metrics.json", metrics)
    points = {"texts": [[0.1, 0.2, 0], [0.5, 0.1, 1]], "images": [[0.3, 0.2, 0], [1, 1, 1]]}
    models = {"pretrained": points, "poisoned": points}
    embedding_map = {"method": "pca", "classes": ["sheep", "aeroplane"], "models": models}
    write(scenes / "embedding_map.json", embedding_map)
    found = [
        {"image": f"{n}.jpg", "label": "sheep", "similarity": 0.3, "target": n == 1}
        for n in range(3)
    ]
    query = {
        "goal": "sheep2aeroplane",
        "caption": "A $sheep_ stands in a field for $\\frac$.",
        "image": "0.jpg",
        "models": {"clean_model": found, "poisoned": found},
    }
    cow = {"image": "0.jpg", "label": "cow", "similarity": 0.4, "captions": ["A $cow_ & a sheep."]}
    thumbnails = {f"{n}.jpg": reporting.thumbnail("sheep", n) for n in range(2)}
    lists = {
        "goals": ["sheep2aeroplane"],
        "queries": [query],
        "confusing": {"sheep2aeroplane": [cow]},
        "thumbnails": thumbnails,
    }
    write(scenes / "rank_lists.json", lists)
    return root


@pytest.fixture(scope="session")
def scenes(every_run: Path) -> list[Path]:
    """The runs on data that are not the paper's."""
    return sorted(every_run.glob("scenes-*"))


def write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value))
