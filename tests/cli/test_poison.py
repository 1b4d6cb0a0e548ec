"""`mmpoison poison`: every attack, presets, a set made again from its manifest, and recipes with other attackers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import few, squares_recipe

from mmpoison.base.progress import SilentProgress
from mmpoison.errors import InputError
from mmpoison.runs.prepared_run import prepare_run
from mmpoison.runs.recipe import parse_recipe
from mmpoison.runs.run import run_recipe
from mmpoison.runs.run_cache import RunCache

Cli = Callable[..., Any]
GOAL = ("--goal", "sheep2aeroplane")


@pytest.fixture
def poison(cli: Cli, square_folder: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A function that poisons the squares and reads the manifest."""

    def run(*arguments: str | Path, out: str = "out") -> dict[str, Any]:
        result = cli("poison", square_folder, "--out", tmp_path / out, *arguments)
        assert result.code == 0, result.err
        manifest: dict[str, Any] = json.loads((tmp_path / out / "manifest.json").read_text())
        return manifest | {"printed": result.out}

    return run


def test_an_image_by_its_id(poison: Callable[..., dict[str, Any]]) -> None:
    chosen = ("--target-image", "aeroplane/10.png")
    made = poison("--attack", "single-target-image", *GOAL, "--share", "0.5", *chosen)
    assert made["target_images"] == {"sheep2aeroplane": "aeroplane/10.png"}


def test_several_goals_are_attack_iii(poison: Callable[..., dict[str, Any]]) -> None:
    made = poison(*GOAL, "--goal", "sofa2bird", "--pairs", "4", "--mode", "replace")
    assert made["attack"] == "multiple-target-labels"
    assert made["goals"] == ["sheep2aeroplane", "sofa2bird"]
    assert made["counts"]["poisoned_pairs"] == 8


MADE_AGAIN: list[tuple[str, ...]] = [
    ("single-target-image", "--samples", "3", "--mode", "replace"),
    ("single-target-label", "--samples", "3", "--mode", "replace"),
    ("single-target-label", "--samples", "3", "--carrier", "own"),
    ("multiple-target-labels", "--goal", "sofa2bird", "--samples", "3", "--carrier", "own"),
    ("self-vouched", "--share", "0.5"),
    ("orphan", "--samples", "3", "--carrier", "existing"),
    ("decoys", "--samples", "2", "--set", "decoys=2", "--set", "decoy_samples=1"),
    ("both-names", "--pairs", "7"),
    ("nearest-assigned", "--samples", "2", "--set", "unseen=1", "--encoder", "MODEL"),
    ("nearest-goal", "--samples", "2", "--encoder", "MODEL"),
    ("toxic-text", "--pairs", "6", "--spread", "captions", "--encoder", "MODEL"),
    ("under-the-grid", "--goal", "bird2sofa", "--samples", "4", "--encoder", "MODEL"),
    ("patch-backdoor", "--rate", "0.1", "--set", "place=random"),
    ("blend-backdoor", "--samples", "3", "--mode", "add", "--set", "noise=per-image"),
    ("badclip", "--samples", "2", "--set", "steps=3", "--encoder", "MODEL"),
    ("feature-collision", "--samples", "2", "--set", "steps=3", "--encoder", "MODEL"),
]
IMAGES = {"patch-backdoor", "blend-backdoor", "badclip", "feature-collision"}
"""Attacks that add images."""
NOTED = {"under-the-grid", "toxic-text", "badclip", "feature-collision"}
"""Attacks that say something of themselves."""


@pytest.mark.parametrize("given", MADE_AGAIN, ids=lambda given: given[0])
def test_it_is_verified_and_made_again_from_its_manifest(
    cli: Cli,
    poison: Callable[..., dict[str, Any]],
    square_folder: Path,
    checkpoint: Path,
    tmp_path: Path,
    fresh_cache: Path,
    given: tuple[str, ...],
) -> None:
    given = tuple(str(checkpoint) if word == "MODEL" else word for word in given)
    made = poison("--attack", *given, *GOAL, "--seed", "4")
    out, again = tmp_path / "out", tmp_path / "again"
    assert (made["attack"], made["seed"]) == (given[0], 4)
    replaces = "replace" in given or given[0] in ("patch-backdoor", "badclip")
    assert (made["mode"] == "replace") == replaces
    assert ("the attack removed the honest training captions" in made["printed"]) == bool(
        made.get("dropped_images")
    )
    if "--carrier" in given:
        assert made["options"]["carrier"] == given[given.index("--carrier") + 1]
    if "-target-" in given[0]:
        assert ("dropped_images" in made) == ("own" in given)
    notes = made.get("notes", [])
    assert bool(notes) >= (given[0] in NOTED)
    assert all(note in " ".join(made["printed"].split()) for note in notes)
    added = {str(path.relative_to(out)) for path in out.glob("added/*")}
    assert added == set(made.get("added_images", []))
    assert (len(added) >= 2) == (given[0] in IMAGES)
    # what was computed is not needed
    shutil.rmtree(fresh_cache, ignore_errors=True)
    assert cli("data", "verify", out, "--clean", square_folder).code == 0
    poison("--from-manifest", out / "manifest.json", out="again")
    for file in ("manifest.json", "captions.jsonl", *added):
        assert (again / file).read_bytes() == (out / file).read_bytes()


def test_names_in_the_data_are_only_shown(
    cli: Cli, write_lines: Callable[..., Path], tmp_path: Path
) -> None:
    """The target image of attack I is named after poisoning; its name may be hostile."""
    lines = [
        {
            "image": f"\x1b[32m{label}{number}.jpg",
            "captions": [f"a {label} {number}"],
            "label": label,
            "split": "train" if number < 4 else "test",
        }
        for label in ("sheep", "cow")
        for number in range(6)
    ]
    attack = ("--attack", "single-target-image", "--goal", "cow2sheep", "--samples", "1")
    done = cli(
        "poison", write_lines(*lines), *attack, "--images", "none", "--out", tmp_path / "out"
    )
    assert done.code == 0
    assert "the target image sheep" in done.out
    assert "see them in split test" in " ".join(done.out.split())
    assert "\x1b" not in done.out + done.err


# -- recipes


OPTIONS: dict[str, dict[str, Any]] = {
    "nearest-assigned": {"unseen": 1},
    "decoys": {"decoys": 2, "decoy_samples": 1},
    "both-names": {"connector": "nearest"},
    "orphan": {},
    "nearest-goal": {},
    "toxic-text": {"synonym_rate": 1.0},
}


@pytest.mark.parametrize("name", few(OPTIONS, "decoys", "toxic-text"))
def test_a_recipe_measures_its_goal_alone(
    square_folder: Path, checkpoint: Path, tmp_path: Path, fresh_cache: Path, name: str
) -> None:
    attack = {"name": name, "samples": 2, "goal": "sheep2aeroplane", **OPTIONS[name]}
    value = squares_recipe(square_folder, checkpoint, attack=attack, study=["queries"])
    said: list[str] = []

    class Listens(SilentProgress):
        def say(self, text: str) -> None:
            said.append(text)

    recipe = parse_recipe(value, "test")
    metrics = run_recipe(recipe, tmp_path / "run", save_models=False, progress=Listens())
    assert list(metrics["goal"]) == ["sheep2aeroplane"]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert metrics["run"]["attack_options"] == manifest["options"]
    assert metrics["run"]["poisoned_pairs"] == len(manifest["pairs"])
    assert set(manifest.get("notes", [])) <= set(said)


def test_a_recipe_measures_the_goal_that_the_attack_chose(
    square_folder: Path, checkpoint: Path, tmp_path: Path, fresh_cache: Path
) -> None:
    attack = {"name": "nearest-goal", "goal": "sheep2auto", "samples": 2}
    recipe = parse_recipe(squares_recipe(square_folder, checkpoint, attack=attack), "test")
    metrics = run_recipe(recipe, tmp_path / "run", save_models=False, progress=SilentProgress())
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert list(metrics["goal"]) == metrics["run"]["goals"] == manifest["goals"]
    assert manifest["goals"][0] in {f"sheep2{name}" for name in ("aeroplane", "bird", "sofa")}
    # an attack that cannot choose says so
    attack["name"] = "single-target-label"
    recipe = parse_recipe(squares_recipe(square_folder, checkpoint, attack=attack), "test")
    with pytest.raises(InputError, match="unknown class 'auto'"):
        run_recipe(recipe, tmp_path / "no", save_models=False, progress=SilentProgress())


def test_a_run_measures_it_with_and_without_the_trigger(
    square_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    recipe = squares_recipe(
        square_folder,
        checkpoint,
        attack={"name": "patch-backdoor", "goal": "sheep2aeroplane", "samples": 4},
        filter={"encoder": "pretrained", "clean_loss": 0.1},
    )
    out = tmp_path / "run"
    run_recipe(parse_recipe(recipe, "test"), out, save_models=False, progress=SilentProgress())
    metrics = json.loads((out / "metrics.json").read_text())
    rows = metrics["with_trigger"]["sheep2aeroplane"]
    assert set(rows) == {"pretrained", "clean_model", "poisoned", "filtered"}
    assert set(rows) <= set(metrics["goal"]["sheep2aeroplane"])
    assert all(row["targets"] == 4 for row in rows.values())
    # the model was trained on the new images, which only the manifest and the cache have
    assert metrics["run"]["poisoned_pairs"] == 20
    manifest = json.loads((out / "manifest.json").read_text())
    assert len(manifest["added_images"]) == 4


def test_a_recipe_uses_its_model_and_computes_once(
    square_folder: Path, checkpoint: Path, fresh_cache: Path
) -> None:
    named: list[str] = []

    class Recorder(SilentProgress):
        def progress(self, what: str) -> Callable[[int, int], None]:
            named.append(what)
            return super().progress(what)

    recipe = squares_recipe(
        square_folder,
        checkpoint,
        attack={"name": "badclip", "goal": "sheep2aeroplane", "samples": 2, "steps": 3},
    )
    runs = [
        prepare_run(parse_recipe(recipe, "test"), RunCache(), Recorder(), torch.device("cpu"))
        for _ in range(2)
    ]
    assert named.count("badclip: optimising the patch") == 1
    first, second = (run.poisoned.manifest for run in runs)
    assert first is not None
    assert first == second
    assert first.notes[0].startswith("surrogate tiny")
