"""`mmpoison poison` and recipes with attackers who know the filters or choose captions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import few, squares_recipe

from mmpoison.errors import InputError
from mmpoison.runs.progress import SilentProgress
from mmpoison.runs.recipe import parse_recipe
from mmpoison.runs.run import run_recipe

Cli = Callable[..., Any]
GOAL = ("--goal", "sheep2aeroplane")

ATTACKS: dict[str, tuple[str, ...]] = {
    "self-vouched": ("--share", "0.5"),
    "orphan": ("--samples", "3", "--carrier", "existing"),
    "decoys": ("--samples", "2", "--set", "decoys=2", "--set", "decoy_samples=1"),
    "both-names": ("--pairs", "7"),
    "nearest-assigned": ("--samples", "2", "--set", "unseen=1", "--encoder"),
    "nearest-goal": ("--samples", "2", "--encoder"),
    "toxic-text": ("--pairs", "6", "--spread", "captions", "--encoder"),
    "under-the-grid": ("--goal", "bird2sofa", "--samples", "4", "--encoder"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_it_is_listed_verified_and_made_again(
    cli: Cli, square_folder: Path, checkpoint: Path, tmp_path: Path, attack: str
) -> None:
    given: list[Any] = [*ATTACKS[attack]]
    if given[-1] == "--encoder":
        given.append(checkpoint)
    out = tmp_path / "out"
    made = cli("poison", square_folder, "--out", out, "--attack", attack, *GOAL, *given)
    assert made.code == 0, made.err
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["attack"] == attack
    assert manifest["mode"] == "add"
    assert all(note in " ".join(made.out.split()) for note in manifest.get("notes", []))
    assert ("notes" in manifest) >= (attack in ("under-the-grid", "toxic-text"))
    assert cli("data", "verify", out, "--clean", square_folder).code == 0
    again = tmp_path / "again"
    rebuilt = cli("poison", square_folder, "--out", again, "--from-manifest", out / "manifest.json")
    assert rebuilt.code == 0, rebuilt.err
    for file in ("manifest.json", "captions.jsonl"):
        assert (again / file).read_bytes() == (out / file).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--set", "decoy=3"), "--decoy: attack 'decoys': unknown option 'decoy': did you mean"),
        (("--set", "goal=a2b"), "unknown option 'goal'"),
        (("--set", "seed=3"), "unknown option 'seed'"),
        (("--set", "decoys"), "KEY=VALUE is needed"),
        (("--set", "decoys=0"), "decoys 0 is not a whole number"),
        (("--mode", "replace"), "--mode: attack 'decoys': unknown option 'mode'"),
        (("--rate", "0.1"), "--rate: attack 'decoys': unknown option 'rate'"),
    ],
)
def test_bad_options(
    cli: Cli, square_folder: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    command = ("poison", square_folder, "--out", tmp_path / "out", "--attack", "decoys", *GOAL)
    result = cli(*command, "--samples", "1", *arguments)
    assert result.code == 2
    assert says in result.err
    assert len(result.err.splitlines()) == 1


def test_a_surrogate_must_be_named(cli: Cli, square_folder: Path, tmp_path: Path) -> None:
    attack = ("--attack", "nearest-assigned", *GOAL, "--samples", "1")
    result = cli("poison", square_folder, "--out", tmp_path / "out", *attack)
    assert result.code == 2
    assert "attack 'nearest-assigned' needs embeddings here" in result.err


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
