"""`mmpoison poison`: the three attacks, presets, and a set made again from its manifest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmpoison.datasets import load_pairs

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


def test_attack_i(poison: Callable[..., dict[str, Any]]) -> None:
    made = poison("--attack", "single-target-image", *GOAL, "--samples", "3", "--seed", "2")
    assert (made["attack"], made["seed"]) == ("single-target-image", 2)
    assert made["options"]["target_image"] == "random"
    image = made["target_images"]["sheep2aeroplane"]
    assert {pair["poisoned_image"] for pair in made["pairs"]} == {image}
    # the reader sees what other programs will not see
    assert f"the target image {image}" in made["printed"]


def test_an_image_by_its_id(poison: Callable[..., dict[str, Any]]) -> None:
    chosen = ("--target-image", "aeroplane/10.png")
    made = poison("--attack", "single-target-image", *GOAL, "--share", "0.5", *chosen)
    assert made["target_images"] == {"sheep2aeroplane": "aeroplane/10.png"}


def test_the_centre_under_an_encoder(
    poison: Callable[..., dict[str, Any]], checkpoint: Path
) -> None:
    attack = ("--attack", "single-target-image", *GOAL, "--samples", "3")
    centre = ("--target-image", "centre", "--encoder", checkpoint)
    made = poison(*attack, *centre)
    # no choice of the seed
    again = poison(*attack, *centre, "--seed", "9", out="again")
    assert made["target_images"] == again["target_images"]
    assert made["options"]["encoder"] == str(checkpoint)


def test_several_goals_are_attack_iii(poison: Callable[..., dict[str, Any]]) -> None:
    made = poison(*GOAL, "--goal", "sofa2bird", "--pairs", "4", "--mode", "replace")
    assert made["attack"] == "multiple-target-labels"
    assert made["goals"] == ["sheep2aeroplane", "sofa2bird"]
    assert made["counts"]["poisoned_pairs"] == 8


def test_a_preset_is_named_in_the_manifest(poison: Callable[..., dict[str, Any]]) -> None:
    made = poison(*GOAL, "--preset", "reference-release")
    assert made["options"]["preset"] == "reference-release"
    assert (made["mode"], made["options"]["spread"]) == ("replace", "samples")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--attack", "single-target-image", "--mode", "replace"),
        ("--attack", "single-target-label", "--mode", "replace"),
        ("--carrier", "own"),
        ("--goal", "sofa2bird", "--carrier", "own", "--mode", "replace"),
    ],
)
def test_made_again_from_its_manifest(
    cli: Cli,
    poison: Callable[..., dict[str, Any]],
    square_folder: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
) -> None:
    made = poison(*arguments, *GOAL, "--samples", "3", "--seed", "4")
    assert ("lost their honest training captions" in made["printed"]) == ("own" in arguments)
    assert (made["options"].get("carrier") == "own") == ("own" in arguments)
    manifest = tmp_path / "out" / "manifest.json"
    made = poison("--from-manifest", manifest, out="again")
    assert load_pairs(tmp_path / "again").fingerprint == load_pairs(tmp_path / "out").fingerprint
    made.pop("printed")
    assert json.loads(manifest.read_text()) == made
    again = cli("data", "verify", tmp_path / "again", "--clean", square_folder)
    assert again.code == 0


@pytest.mark.parametrize("to", ["parquet", "pairs-folder"])
def test_conversion_says_what_other_programs_do_not_see(
    cli: Cli, poison: Callable[..., dict[str, Any]], tmp_path: Path, to: str
) -> None:
    for attack, says in (("single-target-image", True), ("single-target-label", False)):
        poison("--attack", attack, *GOAL, "--samples", "3", out=attack)
        made = cli(
            "data", "convert", tmp_path / attack, "--out", tmp_path / f"{attack}-c", "--to", to
        )
        assert made.code == 0
        assert ("see them in split test" in made.out) == says


def test_another_clean_set(
    cli: Cli, poison: Callable[..., dict[str, Any]], own_square_folder: Path, tmp_path: Path
) -> None:
    poison(*GOAL, "--samples", "3")
    file = own_square_folder / "captions.jsonl"
    file.write_text(file.read_text().replace("a sheep", "two sheep", 1))
    manifest = tmp_path / "out" / "manifest.json"
    command = ("poison", own_square_folder, "--from-manifest", manifest)
    result = cli(*command, "--out", tmp_path / "again")
    assert result.code == 2
    assert "the clean set is not the one that the manifest was made from" in result.err
