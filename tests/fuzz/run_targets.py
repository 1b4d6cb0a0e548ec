"""Targets that read what runs are made of and what they leave: recipes and run folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.fuzz import tokens
from tests.fuzz.target import Case, Target

RECIPE = """\
name: own
description: a recipe of a stranger
seed: 3
data:
  name: openmoji
  options: {per_class: 20}
model: {name: openmoji-small}
attack:
  name: single-target-label
  goal: sheep2sofa
  samples: 25
  mode: add
training:
  epochs: 1
  batch_size: 32
  learning_rate: 1.0e-4
filter:
  method: relevance-filter
  encoder: pretrained
  threshold: 0.8
sterilize:
  training: {epochs: 1}
  pairs: 100
study: [lists]
transfer:
  - data: {name: other}
sweep:
  seeds: [0, 1]
  grid: {attack.samples: [5, 10]}
  variants: {frozen: {training.trainable: image}, plain: null}
"""

EXTENDING = "extends: openmoji\nname: other\ntraining: {epochs: 2}\nsweep: null\nseed: 1\n"


def _recipe(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(RECIPE.replace("study: [lists]\n", ""))


def _recipe_examples() -> list[Case]:
    return [{"recipe.yaml": EXTENDING.encode()}]


def _read_recipe(folder: Path) -> None:
    """As `run`, `sweep` and `--set` read it."""
    from mmpoison.attacks import build_attack
    from mmpoison.base.untrusted import parse_changes
    from mmpoison.errors import InputError
    from mmpoison.runs.sweeps.sweep import load_sweep

    file = folder / "recipe.yaml"
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        parse_changes([line.replace(":", "=", 1) for line in lines[:5]])
    except InputError:
        pass
    sweep = load_sweep(file, {}, classes=lambda recipe: ["sheep", "sofa"])
    json.dumps([[run.id, run.parameters] for run in sweep.runs[:100]], default=str)
    recipe = sweep.runs[0].recipe
    recipe.to_yaml()
    build_attack(recipe.attack.name, recipe.attack.goals, recipe.attack.options)


def _sweep(folder: Path) -> None:
    listed = "name: x\nrecipe: {}\nruns:\n  a: {x: 1}\n  seed0: {}\n"
    (folder / "sweep.yaml").write_text(listed)


def _read_sweep(folder: Path) -> None:
    """As a second `sweep` reads what the first has left."""
    from mmpoison.runs.sweeps.sweep import SweepFolder

    SweepFolder(folder)._listed()


def _run(folder: Path) -> None:
    from tests.reporting.conftest import (
        example_metrics,
        example_rank_lists,
        example_suspicious,
    )

    ranked = example_rank_lists()
    # one picture is enough, and a small file is changed where it matters
    first = next(iter(ranked["thumbnails"].items()))
    ranked |= {"thumbnails": dict([first]), "queries": ranked["queries"][:1]}
    points = [{"x": 0.1 * n, "y": -0.2 * n, "label": "sheep", "kind": "image"} for n in range(4)]
    contents = {
        "metrics": example_metrics(),
        "rank_lists": ranked,
        "suspicious_pairs": example_suspicious()[:3],
        "embedding_map": {"points": points},
        "manifest": {"seed": 0, "goals": ["sheep2aeroplane"]},
    }
    (folder / "run").mkdir()
    for name, value in contents.items():
        (folder / "run" / f"{name}.json").write_text(json.dumps(value))
    (folder / "run" / "recipe.yaml").write_text("# mmpoison run openmoji\n" + RECIPE)


def _read_metrics(folder: Path) -> None:
    """As `report` counts: tables as Markdown and JSON, comparisons, the table of results."""
    from mmpoison.base.untrusted import read_json
    from mmpoison.reporting.compare import compare_models
    from mmpoison.reporting.results import expand, results_table
    from mmpoison.reporting.seeds import metrics_tables, seed_tables
    from mmpoison.reporting.table import markdown

    runs = expand([folder / "run"])
    tables = seed_tables(runs)
    markdown(tables)
    tables += metrics_tables(read_json(folder / "run" / "metrics.json"))
    results_table(runs)
    tables += compare_models(runs, "clean_model", "poisoned")
    json.dumps([table.to_json() for table in tables], allow_nan=False)


def _read_run(folder: Path) -> None:
    """As `report` shows it: on the terminal, the page of one run and of several."""
    from mmpoison.base.untrusted import read_json
    from mmpoison.reporting.html_report import render_runs_html, write_report
    from mmpoison.reporting.results import expand
    from mmpoison.reporting.seeds import seed_tables
    from mmpoison.reporting.terminal_tables import terminal, terminal_table

    run = folder / "run"
    write_report(run)
    _drawn(terminal_table(read_json(run / "metrics.json")))
    render_runs_html(expand([run]))
    _drawn(terminal(seed_tables([run])))


def _drawn(shown: object) -> None:
    from rich.console import Console

    with (Path("/dev/null")).open("w") as nowhere:
        Console(file=nowhere, width=120).print(shown)


def targets() -> list[Target]:
    """Every target that reads recipes and runs."""
    recipe: dict[str, tuple[Any, ...]] = {
        "epochs": (0, -1, 2**63 - 1, 1e308, "x"),
        "learning_rate": (0, -1, 1e308, "x"),
        "options": ({}, [], None, {"a": [1]}),
        "seeds": ([], [0, 0], [-1], [2**62]),
        "goal": ("a2b", ["a2b", "a2b"], [], [[]], ""),
        "grid": ({"seed": [0, 1]}, {"x.y": [1]}, {"attack.goal": [["a2b"]]}, {"": [1]}),
        "variants": ({"x": None}, {"": {}}, {"x": {"filter": None}}),
    }
    return [
        Target(
            "recipe",
            _recipe,
            {"recipe.yaml": "yaml"},
            _read_recipe,
            recipe,
            examples=_recipe_examples,
        ),
        Target(
            "sweep-folder",
            _sweep,
            {"sweep.yaml": "yaml"},
            _read_sweep,
            {"runs": ({}, [], {"a": None}, {"../x": {}}), "tries": (0, -1, "x"), "run": ("", 3)},
        ),
        Target(
            "metrics",
            _run,
            {"run/metrics.json": "json", "run/recipe.yaml": "yaml"},
            _read_metrics,
            tokens.METRICS_KEYS,
        ),
        Target(
            "run-page",
            _run,
            {
                "run/metrics.json": "json",
                "run/rank_lists.json": "json",
                "run/suspicious_pairs.json": "json",
                "run/embedding_map.json": "json",
                "run/recipe.yaml": "yaml",
            },
            _read_run,
            tokens.METRICS_KEYS,
        ),
    ]
