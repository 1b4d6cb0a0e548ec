"""The bundle of a sweep: one recipe makes all its runs again, and nothing of its maker's machine is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.reporting.test_bundle import PICTURE, SECRET
from tests.reporting.test_overview import write_run

from mmpoison.errors import InputError
from mmpoison.records.bundle import read_facts, read_member
from mmpoison.records.run_files import Metrics
from mmpoison.reporting.bundle_sweep import bundle_runs, write_sweep_bundle
from mmpoison.runs.recipe import parse_recipe
from mmpoison.runs.sweeps.sweep_runs import Sweep, load_sweep

BASE: dict[str, Any] = {
    "name": "mine",
    "data": {"name": "rsicd-ucm", "root": f"{SECRET}/photos", "options": {}},
    "model": {"name": "openmoji-small"},
    "attack": {"name": "single-target-label", "goal": "sheep2aeroplane", "samples": 2},
    "training": {"epochs": 1},
    "filter": {"method": "relevance-filter", "encoder": "openmoji-mini", "clean_loss": 0.02},
}
OTHERS: tuple[dict[str, Any], ...] = (
    {},
    {"attack": {"name": "single-target-label", "goal": "cat2dog", "samples": 2}},
    {"attack": {"name": "single-target-image", "goal": "cat2dog", "pairs": 9}},
    {"filter": None},
    {"filter": {"method": "suspicious-groups", "encoder": "openmoji-mini", "clean_loss": 0.02}},
    {"filter": {"method": "relevance-filter", "encoder": "openmoji-mini", "threshold": 0.8}},
    {"training": {"epochs": 2, "batch_size": 7}},
    {"sterilize": {"training": {"epochs": 1}}},
)


def write_runs(folder: Path, others: tuple[dict[str, Any], ...], seeds: tuple[int, ...]) -> list[Path]:  # fmt: skip
    runs = []
    for number, other in enumerate(others):
        for seed in seeds:
            run = folder / f"{number}-seed{seed}"
            recipe = parse_recipe({**BASE, **other, "seed": seed}, "test")
            write_run(run, seed, tuple(recipe.attack.goals))
            (run / "recipe.yaml").write_text(recipe.to_yaml())
            metrics = json.loads((run / "metrics.json").read_text())
            metrics["run"] |= {"data": {"name": f"{SECRET}/photos"}, "poisoned_pairs": number}
            (run / "metrics.json").write_text(json.dumps(metrics))
            lists = {"goal": "x", "queries": [], "thumbnails": {"a.jpg": PICTURE}}
            (run / "rank_lists.json").write_text(json.dumps(lists))
            runs.append(run)
    return runs


def read_back(file: Path, changes: dict[str, Any]) -> Sweep:
    return load_sweep(file, changes, classes=lambda recipe: ())


@pytest.mark.parametrize("count", [1, 2, len(OTHERS)])
def test_the_bundle_makes_the_same_runs(tmp_path: Path, count: int) -> None:
    runs = write_runs(tmp_path / "runs", OTHERS[:count], (0, 4))
    file = tmp_path / "x.zip"
    assert write_sweep_bundle(runs, file).needs == ("data.root",)
    with pytest.raises(InputError, match="give yours with --data-root DIR"):
        read_back(file, {})
    sweep = read_back(file, {"data.root": f"{SECRET}/photos"})
    made = [run.recipe.to_yaml() for run in sweep.runs]
    assert made == [(run / "recipe.yaml").read_text() for run in runs]
    # the numbers of each run are found by its variant and its seed
    theirs = bundle_runs(file)
    assert len(theirs) == len(runs)
    for one, run in zip(sweep.runs, runs, strict=True):
        found = theirs[one.parameters.get("variant"), one.recipe.seed]
        ours = Metrics.read(run / "metrics.json")
        assert found.to_json()["goal"] == ours.to_json()["goal"]
        assert found.run.poisoned_pairs == ours.run.poisoned_pairs


def test_nothing_of_the_machine_is_in_it(tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "runs", OTHERS, (0, 4))
    file = tmp_path / "x.zip"
    write_sweep_bundle(runs, file)
    names = ("bundle.json", "recipe.yaml", "metrics.json", "report.html")
    whole = b"".join(read_member(file, name) for name in names)
    for secret in (SECRET, str(tmp_path), "data:image"):
        assert secret.encode() not in whole
    assert read_facts(file)["runs"] == len(runs)
    assert b"report of 16 runs" in read_member(file, "report.html")
    first = file.read_bytes()
    write_sweep_bundle(runs, file)
    assert file.read_bytes() == first


def test_what_cannot_be_packed_is_one_line(tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "runs", OTHERS[:2], (0, 4))
    file = tmp_path / "x.zip"
    with pytest.raises(InputError, match="has seeds 4, another has 0, 4"):
        write_sweep_bundle([runs[0], runs[1], runs[3]], file)
    with pytest.raises(InputError, match="seed 0 of its setting was given twice"):
        write_sweep_bundle([*runs, runs[0]], file)
    other = yaml.safe_load((runs[2] / "recipe.yaml").read_text())
    other["data"]["root"] = f"{SECRET}/elsewhere"
    (runs[2] / "recipe.yaml").write_text(yaml.safe_dump(other))
    with pytest.raises(InputError, match=r"the runs differ in data\.root"):
        write_sweep_bundle([runs[0], runs[2]], file)
    assert not file.exists()


@pytest.mark.parametrize("part", ["variants", "grid"])
@pytest.mark.parametrize("key", ["data", "data.root"])
def test_a_strangers_sweep_names_no_folder(tmp_path: Path, part: str, key: str) -> None:
    import zipfile

    changes: dict[str, Any] = {key: ["/srv"] if part == "grid" else "/srv"}
    recipe = {**BASE, "data": {"name": "coco"}}
    recipe["sweep"] = {part: changes if part == "grid" else {"a": changes}}
    file = tmp_path / "x.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("recipe.yaml", yaml.safe_dump(recipe))
    with pytest.raises(InputError, match="names other files"):
        read_back(file, {})


@pytest.mark.parametrize("metrics", [{}, {"runs": 3}, {"runs": [1]}, {"runs": [{"seed": "x"}]}])
def test_broken_numbers_are_one_line(tmp_path: Path, metrics: Any) -> None:
    import zipfile

    file = tmp_path / "x.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("metrics.json", json.dumps(metrics))
    with pytest.raises(InputError) as caught:
        bundle_runs(file)
    assert "\n" not in str(caught.value)
