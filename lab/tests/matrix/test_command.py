"""`mmpoison run` of a matrix: the whole of it at a tiny size, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.cli.conftest import Outcome

from mmpoison.runs.recipe import experiment_of, load_recipe

from .conftest import matrix_value


@pytest.fixture
def recipe(work: Path) -> str:
    """`mine.yaml`, with two rows."""
    value = matrix_value(Path("squares"), Path("model"), seeds=[5])
    (work / "mine.yaml").write_text(yaml.safe_dump(value, sort_keys=False))
    return "mine.yaml"


@pytest.mark.usefixtures("workers_here")
def test_a_whole_matrix(cli: Callable[..., Outcome], recipe: str, work: Path) -> None:
    said = cli("run", recipe, "--out", "out", "--dry-run")
    assert said.code == 0
    assert said.out.startswith("out: 8 runs, 0 complete, 8 to run")
    assert not (work / "out").exists()
    done = cli("run", recipe, "--out", "out", "--workers", "1")
    assert done.code == 0, done
    assert "Attack success after each defence" in done.out
    assert len(done.out.splitlines()) <= 40
    out = work / "out"
    for name in ("matrix.md", "matrix.html", "runs.parquet", "attack-success.svg"):
        assert (out / name).is_file()
    assert not (out / "failures.jsonl").exists()

    # again: nothing is left
    assert "8 of 8 runs are complete (8 already were)" in cli("run", recipe, "--out", "out").out
    shown = cli("report", "out", "--json")
    tables = {table["title"]: table["rows"] for table in json.loads(shown.out)}
    assert [row["Attack"] for row in tables["Attack success after each defence"]] == ["II-own"]
    # a file of results shows what its folder shows, alone and next to another one
    alone = cli("report", "out/runs.parquet", "--json")
    assert json.loads(alone.out) == json.loads(shown.out)
    more = ("run", recipe, "--with", "rows=orphan", "--with", "columns=rank-gain", "--out", "mine")
    assert cli(*more).code == 0
    both = json.loads(cli("report", "mine", "out/runs.parquet", "--json").out)
    tables = {table["title"]: table["rows"] for table in both}
    assert [row["Attack"] for row in tables["Attack success after each defence"]] == [
        *("orphan", "II-own")
    ]
    assert cli("report", "out", "--html", "page.html", "--parquet", "all.parquet").code == 0
    assert Path("page.html").is_file()
    assert json.loads(cli("report", "all.parquet", "--json").out) == json.loads(shown.out)
    assert cli("report", "out", "--out", "docs").code == 0
    assert (work / "docs" / "matrix.md").read_bytes() == (out / "matrix.md").read_bytes()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--goals", "900"], "matrix.goals: 900 goals"),
        (["--seeds", "0-1"], "Seed 0 is reserved for tuning: try --seeds 5-7\n"),
        (["--out", "full"], "contains something other than an experiment"),
        (["--attack", "orphan"], "attack.name: recipe mine.yaml is a matrix"),
    ],
)
def test_what_cannot_be_run_is_one_line(
    refused: Callable[..., str], recipe: str, more: list[str], says: str
) -> None:
    assert says in refused(["run", recipe, "--out", "out", *more])


def test_python_says_which_command_runs_it(recipe: str) -> None:
    import mmpoison
    from mmpoison.errors import InputError

    with pytest.raises(InputError, match="has a matrix"):
        mmpoison.run(recipe)


def test_a_broken_folder_is_one_line(refused: Callable[..., str], work: Path) -> None:
    (work / "broken").mkdir()
    for text, says in (
        ("name: [x", "experiment.yaml"),
        ("- x", "is broken"),
        ("matrix: {rows: 3}", "is neither a folder of `run matrix`"),
        ("matrix: {rows: {}, columns: {}}", "is broken"),
    ):
        (work / "broken" / "experiment.yaml").write_text(text)
        assert says in refused("report broken")


def test_a_recipe_that_leaves_its_matrix_out_is_a_run(recipe: str, work: Path) -> None:
    value = yaml.safe_load((work / recipe).read_text())
    assert experiment_of(value) == "matrix"
    (work / "run.yaml").write_text(yaml.safe_dump(value | {"matrix": None}))
    assert experiment_of({"matrix": None}) is None
    assert load_recipe("run.yaml").seed == 0
