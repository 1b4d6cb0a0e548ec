"""`mmpoison data verify`: one table, the same as JSON, and an exit code that a script can trust."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

Cli = Callable[..., Any]


def test_a_sound_set(cli: Cli, square_folder: Path) -> None:
    result = cli("data", "verify", square_folder)
    assert result.code == 0
    assert "no format errors" in result.out
    assert "pairs-folder" in result.out
    assert "56 PNG, sides of 36 to 40 pixels" in result.out


def test_json_has_what_the_table_has(cli: Cli, own_square_folder: Path, tmp_path: Path) -> None:
    shutil.copy(own_square_folder / "sofa/00.png", own_square_folder / "sofa/11.png")
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
    assert found["duplicates"]["same"]["groups"] == [["sofa/00.png", "sofa/11.png"]]
    assert found["images"]["broken"] == {"missing": 1, "truncated": 0, "unreadable": 0}
    assert found["leakage"]["same_images"] == 1
    assert found["wrong"].keys() == {"images", "leakage"}


def test_notes_alone_leave_it_0(cli: Cli, own_square_folder: Path) -> None:
    shutil.copy(own_square_folder / "sofa/00.png", own_square_folder / "sofa/01.png")
    Image.open(own_square_folder / "bird/02.png").save(own_square_folder / "bird/02.jpg", "PNG")
    file = own_square_folder / "captions.jsonl"
    file.write_text(file.read_text().replace("bird/02.png", "bird/02.jpg"))
    result = cli("data", "verify", own_square_folder)
    assert result.code == 0
    assert "note: 2 images have the pixels of another" in result.out
    assert "bird/02.jpg is PNG" in result.out
    assert "no format errors" in result.out


def test_many_of_a_kind_are_cut(cli: Cli, own_square_folder: Path) -> None:
    for path in (own_square_folder / "sofa").iterdir():
        path.unlink()
    result = cli("data", "verify", own_square_folder)
    assert result.out.count("no such image") == 10
    assert "WRONG: 2 more of the kind 'images'" in result.out
    assert len(json.loads(cli("data", "verify", own_square_folder, "--json").out)["problems"]) == 12


def test_a_manifest_that_does_not_fit(cli: Cli, square_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "poisoned"
    assert (
        cli("poison", square_folder, "--goal", "sheep2sofa", "--samples", "3", "--out", out).code
        == 0
    )
    file = out / "captions.jsonl"
    file.write_text(file.read_text().replace("a sheep", "a goat"))
    result = cli("data", "verify", out)
    assert result.code == 1
    assert "manifest and captions differ" in result.out


def test_without_images(cli: Cli, own_square_folder: Path) -> None:
    shutil.rmtree(own_square_folder / "sofa")
    assert cli("data", "verify", own_square_folder).code == 1
    assert cli("data", "verify", own_square_folder, "--no-images").code == 0


def test_another_format(cli: Cli, square_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(square_folder, tmp_path / "folder")
    work = tmp_path / "folder"
    (work / "captions.jsonl").unlink()
    (work / "pairs.csv").write_text("image,caption\nsofa/00.png,a sofa\nsofa/01.png,\n")
    result = cli(
        *("data", "verify", work / "pairs.csv", "--format", "csv"),
        *("--option", "image=image", "--option", "caption=caption", "--json"),
    )
    found = json.loads(result.out)
    assert found["format"] == "csv"
    assert found["counts"]["images"] >= 1
