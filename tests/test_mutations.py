"""Valid files, spoilt in a thousand ways: each is read or refused in one line, and nothing else happens."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmpoison.attacks import SingleTargetLabel, build_attack
from mmpoison.attacks.rebuild import rebuild
from mmpoison.base.untrusted import read_json
from mmpoison.datasets import PairDataset, load_pairs, save_pairs
from mmpoison.defenses.filters.pair_labels import LabelFile, labelled_places, read_labels
from mmpoison.defenses.filters.pair_pieces import PairPieces
from mmpoison.errors import InputError, ResultError
from mmpoison.pages.review.filtered import filtered_pairs
from mmpoison.pairs.labels import labels_from_csv
from mmpoison.pairs.manifest import PoisonManifest
from mmpoison.pairs.splits import FrozenSplit, save_split
from mmpoison.reporting import metrics_tables, results_table, seed_tables, terminal_table
from mmpoison.runs.recipe import read_recipe, resolve_recipe
from mmpoison.runs.sweeps.folder import SweepFolder
from mmpoison.runs.sweeps.sweep_runs import load_sweep

Spoil = Callable[..., Iterator[bytes]]

RECIPE: dict[str, Any] = {
    "name": "x",
    "description": "2001-99-99",
    "seed": 3,
    "data": {"name": "openmoji", "root": None, "options": {"size": 64}},
    "model": {"name": "openmoji-small", "align": {"epochs": 1}},
    "attack": {"name": "single-target-label", "goal": "sheep2sofa", "samples": 2, "mode": "add"},
    "training": {"epochs": 1, "batch_size": 8, "betas": [0.9, 0.98], "learning_rate": 1e-5},
    "filter": {"method": "relevance-filter", "encoder": "pretrained", "threshold": 0.8},
    "robust_training": {"method": "x", "share": 0.5},
    "sterilize": {"training": {"epochs": 1}, "curve": True, "every": 2},
    "scan": {"method": "rank-gain", "false_alarms": 0.05},
    "study": ["queries"],
    "transfer": [{"data": {"name": "coco"}, "goal": "sheep2bird"}],
    "sweep": {
        "seeds": [0, 1],
        "goals": ["sheep2sofa"],
        "grid": {"attack.samples": [1, 2]},
        "variants": {"a": {"filter": None}, "b": None},
    },
}
ROW = {
    "hit@1": 0.1,
    "hit@5": 0.2,
    "hit@10": 0.3,
    "min_rank": 4.5,
    "queries": 25,
    "gallery": 90,
    "targets": 5,
    "ties": 0,
}
HITS = {"hit@1": 0.1, "hit@5": 0.2, "hit@10": 0.3}
UTILITY = {"image_retrieval": HITS, "text_retrieval": HITS}
METRICS: dict[str, Any] = {
    "goal": {"sheep2sofa": {"pretrained": ROW, "clean_model": ROW, "poisoned": ROW}},
    "utility": {"clean_model": UTILITY, "poisoned": UTILITY},
    "ranks": {"sheep2sofa": {"poisoned": {"median": 2.0, "interval": {"hit@10": [0.2, 0.4]}}}},
    "drift": {"text": 0.1, "image": 0.1},
    "study": {
        "queries": {"sheep2sofa": {"poisoned": {"caption": ROW}}},
        "query_length": {"sheep2sofa": {"poisoned": {"1": ROW}}},
        "epochs": {"sheep2sofa": {"poisoned": {"1": ROW}}},
    },
    "transfer": {"coco": {"goal": {"sheep2sofa": {"poisoned": ROW}}, "utility": {"poisoned": UTILITY}}},
    "run": {
        "recipe": "x",
        "seed": 0,
        "tool_version": "0.1.0",
        "goals": ["sheep2sofa"],
        "mode": "add",
        "attack": "single-target-label",
        "attack_options": {"samples": 2},
        "poisoned_pairs": 10,
        "poisoning_rate": 0.1,
        "data": {"name": "openmoji", "fingerprint": "ab"},
        "filter": {
            "threshold": 0.8,
            "dropped_pairs": 4,
            "suspected_goals": [{"sentence": "x", "example_captions": ["a"]}],
        },
        "flags": [],
        "versions": {"torch": "2.6.0"},
    },
}  # fmt: skip


def survives(*uses: Callable[[], object]) -> int:
    """How many uses of a spoilt file gave a result; the others were refused in one short line."""
    done, refused = 0, list[str]()
    for use in uses:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                use()
            done += 1
        except (InputError, ResultError) as error:
            refused.append(str(error))
    for line in refused:
        assert len(line.splitlines()) == 1, line
        assert len(line) < 2000, line
    return done


def as_yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, allow_unicode=True, sort_keys=False))


def as_lines(value: Any) -> str:
    lines = value if isinstance(value, list) else [value]
    return "".join(json.dumps(line) + "\n" for line in lines)


def as_csv(value: Any) -> str:
    rows = value if isinstance(value, list) else [value]
    return "".join(
        ",".join(map(str, row if isinstance(row, list) else [row])) + "\n" for row in rows
    )


def test_recipes(mutations: Spoil, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"

    def resolve() -> None:
        value, where = read_recipe(file)
        recipe = resolve_recipe(value, {}, where)
        recipe.to_yaml().encode()
        build_attack(recipe.attack.name, recipe.attack.goals, recipe.attack.options)

    done = 0
    for write in (as_yaml, json.dumps):
        for raw in mutations(RECIPE, write, 60):
            file.write_bytes(raw)
            done += survives(resolve, lambda: load_sweep(file, classes=lambda _: ["a", "b"]))
    assert done


def test_manifests(mutations: Spoil, squares: PairDataset, tmp_path: Path) -> None:
    poisoned = SingleTargetLabel("sheep2sofa", pairs=5).poison(squares)
    folder = save_pairs(poisoned, tmp_path / "poisoned", images="none")
    file = folder / "manifest.json"
    valid = json.loads(file.read_text())

    def copy() -> None:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        save_pairs(load_pairs(folder), tmp_path / "copy", images="none")

    done = 0
    for raw in mutations(valid, json.dumps, 100):
        file.write_bytes(raw)
        done += survives(copy, lambda: rebuild(squares, PoisonManifest.read(file)))
    assert done


def test_captions(mutations: Spoil, squares: PairDataset, tmp_path: Path) -> None:
    folder = save_pairs(squares, tmp_path / "pairs", images="none")
    lines = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]

    def copy() -> None:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        save_pairs(load_pairs(folder), tmp_path / "copy", images="none")
        load_pairs(tmp_path / "copy")

    done = 0
    for raw in mutations(lines, as_lines, 100):
        (folder / "captions.jsonl").write_bytes(raw)
        done += survives(copy, lambda: list(PairPieces(folder)))
    assert done


def test_labels(mutations: Spoil, squares: PairDataset, tmp_path: Path) -> None:
    names = [f"{image}#0" for image in squares.images.ids[:12]]
    file = tmp_path / "labels.csv"

    def label() -> None:
        with LabelFile(file, names[:2]) as labels:
            labels.set(names[0], "drop")

    done = 0
    for raw in mutations([["pair", "verdict"], *([name, "keep"] for name in names)], as_csv, 100):
        file.write_bytes(raw)
        done += survives(
            lambda: labelled_places(PairPieces(squares), "train", read_labels(file), file), label
        )
    assert done
    images = [[str(image), "sheep", "train"] for image in squares.images.ids]
    for raw in mutations([["image", "label", "split"], *images], as_csv, 60):
        file.write_bytes(raw)
        survives(lambda: labels_from_csv(squares, file))


def test_verdicts(mutations: Spoil, squares: PairDataset, tmp_path: Path) -> None:
    index = squares.image.tolist()
    lines = [
        {"pair": f"{squares.images.ids[image]}#{row - index.index(image)}", "caption": caption,
         "keep": True, "distance": 0.5}
        for row, (caption, image) in enumerate(zip(squares.captions[:30], index[:30], strict=True))
    ]  # fmt: skip
    done = 0
    for raw in mutations(lines, as_lines, 150):
        (tmp_path / "verdicts.jsonl").write_bytes(raw)
        done += survives(lambda: filtered_pairs(tmp_path, PairPieces(squares), 3))
    assert done


def test_splits(mutations: Spoil, squares: PairDataset, tmp_path: Path) -> None:
    file = tmp_path / "split.json"
    save_split(squares, file)
    valid = json.loads(file.read_text())
    for raw in mutations(valid, json.dumps, 100):
        file.write_bytes(raw)
        survives(lambda: FrozenSplit.read(file))


def test_what_a_sweep_has_left(mutations: Spoil, tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    listed = {"name": "x", "recipe": {}, "runs": {"a": {"x": 1}, "seed0": {}}}
    for raw in mutations(listed, as_yaml, 60):
        (tmp_path / "sweep.yaml").write_bytes(raw)
        survives(folder._listed)
    for raw in mutations([{"run": "a", "error": "x", "tries": 1, "detail": "y"}], as_lines, 60):
        (tmp_path / "failures.jsonl").write_bytes(raw)
        survives(folder.failures)


def test_metrics_of_a_foreign_run(mutations: Spoil, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(as_yaml({**RECIPE, "sweep": None}))
    file = tmp_path / "metrics.json"
    done = 0
    for raw in mutations(METRICS, json.dumps, 120):
        file.write_bytes(raw)
        done += survives(
            lambda: terminal_table(read_json(file)),
            lambda: metrics_tables(read_json(file)),
            lambda: results_table([tmp_path]),
            lambda: [table.to_json() for table in seed_tables([tmp_path])],
        )
    assert done


@pytest.mark.slow
def test_pages_of_a_foreign_run(mutations: Spoil, tmp_path: Path) -> None:
    from mmpoison.reporting import render_html, render_runs_html

    file = tmp_path / "metrics.json"
    for raw in mutations(METRICS, json.dumps, 40, seed=1):
        file.write_bytes(raw)
        survives(lambda: render_html(tmp_path), lambda: render_runs_html([tmp_path]))
