"""`mmpoison data verify`: one table, the same as JSON, and an exit code that a script can trust."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


def test_a_sound_set(cli: Cli, square_folder: Path) -> None:
    result = cli("data", "verify", square_folder)
    assert result.code == 0
    assert "no format errors" in result.out
    assert "pairs-folder" in result.out
    assert "broken images none" in " ".join(result.out.split())


def test_json_has_what_the_table_has(cli: Cli, own_square_folder: Path, tmp_path: Path) -> None:
    (own_square_folder / "bird/00.png").unlink()
    out = tmp_path / "found.json"
    shown = cli("data", "verify", own_square_folder, "--out", out)
    printed = cli("data", "verify", own_square_folder, "--json")
    assert shown.code == printed.code == 1
    found = json.loads(printed.out)
    assert found == json.loads(out.read_text())
    assert found["ok"] is False
    for line in [*found["problems"], *found["notes"]]:
        assert line in shown.out


def test_many_of_a_kind_are_cut(cli: Cli, own_square_folder: Path) -> None:
    for path in (own_square_folder / "sofa").iterdir():
        path.unlink()
    result = cli("data", "verify", own_square_folder)
    assert result.out.count("no such image") == 10
    assert "WRONG: 2 more of the kind 'images'" in result.out


def edited(manifest: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Change fields; `pairs` says what each pair gets, `first` what the first one gets."""
    for name, value in changes.items():
        if name in ("pairs", "first"):
            for pair in manifest["pairs"][: 1 if name == "first" else None]:
                pair |= value
        elif isinstance(value, dict):
            manifest[name] |= value
        else:
            manifest[name] = value
    return manifest


EDITS: list[tuple[dict[str, Any], str]] = [
    ({"goals": ["sofa2sheep"]}, "goal 'sofa2sheep', but no poisoned pair has it"),
    ({"first": {"goal": "bird2sofa"}}, "of 1 pair: goal 'bird2sofa' for a caption of class"),
    ({"first": {"goal": "sheep2bird"}}, "'sheep2bird' for a caption of class 'sheep' on an image"),
    (
        {"goals": ["bird2sofa"], "pairs": {"goal": "bird2sofa"}, "options": {"goal": "bird2sofa"}},
        "does not match the classes of 15 pairs: goal 'bird2sofa'",
    ),
    ({"seed": 8}, "seed 8 gives different pairs on the clean set"),
    ({"options": {"samples": 10**6}}, "cannot be run on the clean set: goal sheep2sofa: 1000000"),
    ({"options": {"goal": 5}}, "cannot be run on the clean set"),
    ({"counts": {"poisoned_samples": 2}}, "it says poisoned_samples 2, but its pairs make 3"),
    ({"counts": {"training_pairs": 99}}, "not a poison manifest"),
]


@pytest.mark.parametrize(("changes", "says"), EDITS)
def test_an_edited_manifest_is_found_by_the_clean_set(
    cli: Cli, square_folder: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    out = tmp_path / "poisoned"
    chosen = ("--goal", "sheep2sofa", "--samples", "3", "--seed", "7")
    assert cli("poison", square_folder, *chosen, "--out", out).code == 0
    verify = ("data", "verify", out, "--clean", square_folder, "--no-images", "--json")
    assert cli(*verify).code == 0
    file = out / "manifest.json"
    file.write_text(json.dumps(edited(json.loads(file.read_text()), changes)))
    result = cli(*verify)
    assert result.code == 1
    wrong = json.loads(result.out)["wrong"]["manifest"]
    assert any(says in line for line in wrong), wrong


def test_what_is_not_run_again_is_noted(cli: Cli, square_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "poisoned"
    chosen = ("--attack", "single-target-image", "--goal", "sheep2sofa", "--pairs", 3)
    assert cli("poison", square_folder, *chosen, "--out", out).code == 0
    file = out / "manifest.json"
    manifest = json.loads(file.read_text())
    for changes, says in (
        ({"tool_version": "0.9.0"}, "version 0.9.0, which may draw other samples"),
        ({"options": {"target_image": "centre"}}, "it needs a model"),
        ({"attack": "class-swap"}, "it is not installed"),
    ):
        file.write_text(json.dumps(edited(json.loads(json.dumps(manifest)), changes)))
        result = cli("data", "verify", out, "--clean", square_folder, "--no-images")
        assert result.code == 0
        assert says in " ".join(result.out.split())
