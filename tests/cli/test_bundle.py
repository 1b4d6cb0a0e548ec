"""A run is packed by one command, and run again by another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import squares_recipe

from mmpoison.records.bundle import MEMBERS, read_member
from mmpoison.runs.recipe import parse_recipe
from mmpoison.runs.run import run_recipe


def test_somebody_else_gets_the_same_numbers(
    cli: Callable[..., Any], square_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    recipe = parse_recipe(squares_recipe(square_folder, checkpoint), "test")
    run_recipe(recipe, tmp_path / "first", save_models=False)
    file = tmp_path / "first.zip"
    packed = cli("report", tmp_path / "first", "--bundle", file)
    assert packed.code == 0, packed.err
    # pictures are in the run's own page, and nowhere in the bundle
    assert "data:image" in (tmp_path / "first" / "rank_lists.json").read_text()
    for name in MEMBERS:
        content = read_member(file, name)
        assert b"data:image" not in content
        assert str(tmp_path).encode() not in content
        assert str(square_folder).encode() not in content
    assert "mmpoison run first.zip --set data.name=... --set model.name=..." in packed.out
    refused = cli("run", file, "--out", tmp_path / "second")
    assert refused.code == 2
    assert "give yours with --set data.name=..." in refused.err
    yours = ("--set", f"data.name={square_folder}", "--set", f"model.name={checkpoint}")
    done = cli("run", file, *yours, "--out", tmp_path / "second", "--no-save-models")
    assert done.code == 0, done.err
    assert "numbers are those of the bundle" in done.out
    other = cli(
        "run", file, *yours, "--seeds", "5", "--out", tmp_path / "third", "--no-save-models"
    )
    assert other.code == 0, other.err
    assert "numbers differ from the bundle's, by at most" in other.out
    two = cli("report", tmp_path / "first", tmp_path / "second", "--bundle", file)
    assert (two.code, two.err) == (2, "mmpoison: --bundle packs one run: name one run folder\n")
