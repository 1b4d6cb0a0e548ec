"""Targets that read what runs are made of and what they leave: recipes and run folders."""

from __future__ import annotations

import functools
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
    from mmpoison.errors import InputError
    from mmpoison.experiments.recipe import load_recipe, parse_changes, read_recipe
    from mmpoison.experiments.sweep_runs import load_sweep

    file = folder / "recipe.yaml"
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        parse_changes([line.replace(":", "=", 1) for line in lines[:5]])
    except InputError:
        pass
    bool(read_recipe(str(file))[0].get("sweep"))
    sweep = load_sweep(file, {}, classes=lambda recipe: ["sheep", "sofa"])
    for run in sweep.runs[:3]:
        json.dumps([run.id, run.knobs], default=str)
        run.recipe.to_yaml()
    load_recipe(file, {"training.epochs": 2}).to_yaml()


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


def _read_run(folder: Path) -> None:
    """As `report` shows it: tables, Markdown, JSON, the page of one run and of several, Parquet."""
    from mmpoison.reporting import (
        _html,
        compare_models,
        expand,
        markdown,
        metrics_tables,
        render_runs_html,
        seed_tables,
        terminal,
        terminal_table,
        write_report,
        write_results,
    )
    from mmpoison.untrusted import read_json

    # compiling the templates takes a hundred times as long as filling them in
    if not hasattr(_html._environment, "cache_info"):
        _html._environment = functools.cache(_html._environment)
    run = folder / "run"
    runs = expand([run])
    tables = seed_tables(runs)
    markdown(tables)
    json.dumps([table.to_json() for table in tables], allow_nan=False)
    _drawn(terminal(tables))
    render_runs_html(runs)
    write_report(run)
    metrics = read_json(run / "metrics.json")
    _drawn(terminal_table(metrics))
    metrics_tables(metrics)
    write_results(runs, folder / "results.parquet")
    compare_models(runs, "clean_model", "poisoned")


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
            "run-folder",
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
