"""`mmpoison run` of a matrix: the whole of it at a tiny size, from the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.conftest import Outcome

from mmpoison.runs.experiments import experiment_of
from mmpoison.runs.recipe import load_recipe
from mmpoison_lab.matrix.part import load_matrix
from mmpoison_lab.matrix.records import MatrixCell, read_cells, write_cells
from mmpoison_lab.matrix.run_matrix import _claim

from .conftest import matrix_value


@pytest.fixture
def recipe(work: Path) -> str:
    """`mine.yaml`, with two rows."""
    value = matrix_value(Path("squares"), Path("model"), seeds=[5])
    (work / "mine.yaml").write_text(yaml.safe_dump(value, sort_keys=False))
    return "mine.yaml"


def pieces(out: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(out / "pieces")): file.read_bytes()
        for file in sorted(out.glob("pieces/*/*/*.parquet"))
    }


@pytest.mark.usefixtures("workers_here")
def test_a_whole_matrix(cli: Callable[..., Outcome], recipe: str, work: Path) -> None:
    said = cli("run", recipe, "--out", "out", "--dry-run")
    assert said.code == 0
    assert said.out.startswith("out: 2 pieces, 0 complete; 10 measurements remain, 2 workers")
    assert not (work / "out").exists()
    done = cli("run", recipe, "--out", "out", "--workers", "1")
    assert done.code == 0, done
    assert "Attack success after each defence" in done.out
    out = work / "out"
    first = pieces(out)
    assert len(first) == 2 * 5
    for name in ("matrix.md", "matrix.html", "matrix.parquet", "attack-success.svg"):
        assert (out / name).is_file()
    assert not (out / "failures.jsonl").exists()
    cells = read_cells([out / "matrix.parquet"])
    assert {(cell.row, cell.column) for cell in cells} == {
        (row, column)
        for row in ("clean", "II-own")
        for column in ("clean model", "none", "relevance-filter", "clean-finetune", "rank-gain")
    }
    assert all(cell.note == "" for cell in cells)

    # again: nothing is left
    assert "2 pieces, 2 complete; 0 measurements remain" in cli("run", recipe, "--out", "out").out
    assert pieces(out) == first
    # what somebody else measured is not measured again, and of other settings it is refused
    other = ("run", recipe, "--out", "other", "--with", "from=out/matrix.parquet")
    assert "other: 2 pieces, 2 complete; 0 measurements remain" in cli(*other).out
    assert pieces(work / "other") == first
    assert (work / "other" / "matrix.yaml").read_bytes() == (out / "matrix.yaml").read_bytes()
    changed = cli(*other[:3], "third", *other[4:], "--set", "training.epochs=9")
    assert changed.code == 2
    assert "out/matrix.parquet: holds a matrix of other settings (recipe)" in changed.err
    assert not (work / "third").exists()

    shown = cli("report", "out", "--json")
    tables = {table["title"]: table["rows"] for table in json.loads(shown.out)}
    assert [row["Attack"] for row in tables["Attack success after each defence"]] == ["II-own"]
    assert cli("report", "out", "--html", "page.html", "--parquet", "all.parquet").code == 0
    assert Path("page.html").is_file()
    assert cli("report", "out", "--out", "docs").code == 0
    assert (work / "docs" / "matrix.md").read_bytes() == (out / "matrix.md").read_bytes()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--with", "rows=II-onw"], "--with rows: unknown row 'II-onw': did you mean 'II-own'?"),
        (["--with", "columns=nothing"], "--with columns: unknown column 'nothing'"),
        (["--goals", "900"], "matrix.goals: 900 goals"),
        (["--seeds", "0-1"], "Seed 0 is reserved for tuning: try --seeds 5-7\n"),
        (["--out", "full"], "holds something that is not a matrix"),
        (["--set", "matrix.rows=3"], "matrix.rows"),
        (["--with", "from=mine.yaml"], "mine.yaml: is no Parquet file"),
        (["--goal", "sheep2bird"], "--goal: recipe mine.yaml is a matrix"),
    ],
)
def test_what_cannot_be_run_is_one_line(
    refused: Callable[..., str], recipe: str, more: list[str], says: str
) -> None:
    assert says in refused(["run", recipe, "--out", "out", *more])


def published(recipe: str, **changes: Any) -> None:
    """Write `theirs.parquet`: two measurements of the recipe's matrix, the second one changed."""
    _claim(load_matrix(recipe), Path("theirs"), False)
    cell = MatrixCell("II-own", "none", "sheep2aeroplane", 5, "single-target-label", hit_10=0.5)
    cells = [replace(cell, seed=6), replace(cell, **changes)]
    write_cells(Path("theirs.parquet"), cells, Path("theirs/matrix.yaml").read_text())
    shutil.rmtree("theirs")


@pytest.mark.parametrize("more", [["--dry-run"], []])
def test_a_foreign_file_is_checked_before_anything_is_done(
    refused: Callable[..., str], recipe: str, more: list[str]
) -> None:
    command = ["run", recipe, "--out", "out", "--seeds", "5-6", "--with"]
    assert "/dev/zero: is a device" in refused([*command, "from=/dev/zero", *more])
    published(recipe, hit_10=7.0)
    assert "theirs.parquet: is no table of a matrix (row 1, column hit@10: 7.0 is not from 0" in (
        refused([*command, "from=theirs.parquet", *more])
    )


def test_seeds_that_nothing_is_paired_on_are_named(
    cli: Callable[..., Outcome], recipe: str, work: Path
) -> None:
    published(recipe)
    command = (
        "run",
        recipe,
        "--out",
        "out",
        "--with",
        "from=theirs.parquet",
        "--dry-run",
        "--seeds",
    )
    said = cli(*command, "6-7").out.splitlines()
    assert said[0] == "theirs.parquet: 2 measurements, seeds 5,6"
    assert said[1] == "seeds 5,7 are not both there and in this run: nothing can be paired on them"
    assert "are not both" not in cli(*command, "5-6").out
    assert not (work / "out").exists()


def test_python_says_which_command_runs_it(recipe: str) -> None:
    import mmpoison
    from mmpoison.errors import InputError

    with pytest.raises(InputError, match="has a matrix"):
        mmpoison.run(recipe)


def test_a_broken_folder_is_one_line(refused: Callable[..., str], work: Path) -> None:
    broken: dict[str, Any] = {"name": "x"}
    (work / "broken").mkdir()
    (work / "broken" / "matrix.yaml").write_text(yaml.safe_dump(broken))
    assert "is broken" in refused("report broken")


def test_a_recipe_that_leaves_its_matrix_out_is_a_run(recipe: str, work: Path) -> None:
    value = yaml.safe_load((work / recipe).read_text())
    assert experiment_of(value) == "matrix"
    (work / "run.yaml").write_text(yaml.safe_dump(value | {"matrix": None}))
    assert experiment_of({"matrix": None}) is None
    assert load_recipe("run.yaml").seed == 0
