"""A run is packed by one command, and run again by another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
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
    two = cli("report", tmp_path / "first", tmp_path / "first", "--bundle", file)
    assert two.code == 2
    assert "seed 0 of its setting was given twice" in two.err


@pytest.mark.slow
def test_a_sweep_is_run_again_by_one_command(
    cli: Callable[..., Any], square_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    recipe = squares_recipe(square_folder, checkpoint)
    recipe["sweep"] = {"seeds": [0, 3], "grid": {"attack.samples": [1, 2]}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    done = cli("run", tmp_path / "mine.yaml", "--out", tmp_path / "first", "--workers", "1")
    assert done.code == 0, done.err
    file = tmp_path / "first.zip"
    packed = cli("report", tmp_path / "first", "--bundle", file)
    assert packed.code == 0, packed.err
    whole = b"".join(read_member(file, name) for name in MEMBERS if name != "manifest.json")
    for secret in (b"data:image", str(tmp_path).encode(), str(square_folder).encode()):
        assert secret not in whole
    assert "mmpoison run first.zip --set data.name=... --set model.name=..." in packed.out
    refused = cli("run", file, "--out", tmp_path / "second")
    assert refused.code == 2
    assert "give yours with --set data.name=..." in refused.err
    yours = ("--set", f"data.name={square_folder}", "--set", f"model.name={checkpoint}")
    again = cli("run", file, *yours, "--out", tmp_path / "second", "--workers", "1")
    assert again.code == 0, again.err
    assert "4 of 4 runs are complete" in again.out
    assert "numbers are those of the bundle" in again.out
    other = cli(
        "run", file, *yours, "--set", "training.max_steps=1", "--out", tmp_path / "third",
        "--workers", "1",
    )  # fmt: skip
    assert other.code == 0, other.err
    assert "numbers differ from the bundle's, by at most" in other.out


def test_a_matrix_says_how_it_is_shared(cli: Callable[..., Any], tmp_path: Path) -> None:
    from mmpoison.records.matrix import MATRIX_FILE

    (tmp_path / "matrix").mkdir()
    (tmp_path / "matrix" / MATRIX_FILE).write_text("{}")
    refused = cli("report", tmp_path / "matrix", "--bundle", tmp_path / "x.zip")
    assert refused.code == 2
    assert "this is a matrix: share its matrix.parquet" in refused.err
