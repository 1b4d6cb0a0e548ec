"""The long table of all runs: one row per number, studies, settings; and Parquet, which may be somebody else's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mmpoison.cli.app import app
from mmpoison.errors import InputError
from mmpoison.reporting.results import (
    LONG,
    Results,
    RunRead,
    read_runs,
    results_table,
    write_results,
    write_table,
)

MakeRun = Callable[..., Path]


def test_a_row_a_number(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("sweep/runs/a", seed=0)
    run = make_run("sweep/runs/b", seed=1, goals=("sheep2aeroplane", "sofa2bird"))
    table = results_table([tmp_path / "sweep"])
    assert tuple(table.columns) == LONG
    of_goals = table[table["study"] == "main"].groupby(["run", "goal", "model"]).ngroups
    assert of_goals == 4 + 8
    picked = table[(table.seed == 1) & (table.model == "poisoned") & (table.goal == "sofa2bird")]
    values = dict(zip(picked.measure, picked.value, strict=True))
    assert values["hit@10"] == pytest.approx(0.899)
    assert values["hit@10.low"] == 0.8
    assert values["median_rank"] == 2.0
    assert values["utility.text_retrieval.hit@10"] == 0.9
    assert values["drift.text"] == pytest.approx(0.061)
    assert set(picked.attack) == {"single-target-label"}
    assert set(picked.run) == {str(run)}
    said = json.loads(picked.settings.iloc[0])
    assert (said["training.batch_size"], said["training.betas"]) == (32, [0.9, 0.98])
    assert said["attack.goal"] == ["sheep2aeroplane", "sofa2bird"]
    manifest = run / "manifest.json"
    assert said["manifest"] == hashlib.sha256(manifest.read_bytes()).hexdigest()
    facts = table[(table.seed == 1) & (table.study == "run")]
    assert dict(zip(facts.measure, facts.value, strict=True))["run.poisoning_rate"] == 125 / 25125
    assert facts.goal.isna().all()


def test_what_a_run_did_not_compute_is_absent(make_run: MakeRun) -> None:
    run = make_run("run", settings={"filter": None})
    table = results_table([run])
    of_model = {model: set(rows.measure) for model, rows in table.groupby("model")}
    assert "utility.text_retrieval.hit@10" not in of_model["random_captions"]
    assert "drift.text" not in of_model["clean_model"]
    assert "filtered" not in of_model
    assert "filter" not in json.loads(table.settings.iloc[0])


def test_studies_have_rows_of_their_own(make_run: MakeRun) -> None:
    row = {"hit@10": 0.5, "min_rank": 3.0, "words": 18.0}
    run = make_run(
        "run",
        metrics={
            "study": {
                "queries": {"sheep2aeroplane": {"poisoned": {"misused": row}}},
                "query_length": {"sheep2aeroplane": {"poisoned": {"2": row}}},
                "epochs": {"sheep2aeroplane": {"poisoned": {"0": row, "1": row}}},
            },
            "transfer": {"other": {"goal": {"sheep2aeroplane": {"poisoned": row}}}},
        },
    )
    probes = [{"step": 50, "test": {"goal": {"sheep2aeroplane": row}}, "utility": {}}]
    curve = {"branches": [{"learning_rate": 1e-5, "looks": probes}, {"looks": []}]}
    (run / "sterilize_curve.json").write_text(json.dumps(curve))
    rows = RunRead.of_folder(run).rows
    found = [(r["study"], r["case"], r["x"], r["model"]) for r in rows if r["study"] != "main"]
    assert found == [
        ("queries", "misused", None, "poisoned"),
        ("query-length", None, 2.0, "poisoned"),
        ("epochs", None, 0.0, "poisoned"),
        ("epochs", None, 1.0, "poisoned"),
        ("transfer", "other", None, "poisoned"),
        ("sterilize-curve", "1e-05", 50.0, "sterilized"),
    ]
    assert all(r["hit@10"] == 0.5 for r in rows if r["study"] != "main")
    assert rows[-1]["attack.samples"] == 25
    table = results_table([run])
    assert len(table[(table.study == "epochs") & (table.measure == "hit@10")]) == 2


def test_a_file_of_results_is_as_good_as_the_folders(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("runs/a", seed=0)
    make_run("runs/deeper/b", seed=1)
    file = tmp_path / "results.parquet"
    done = CliRunner().invoke(app, ["report", str(tmp_path / "runs"), "--parquet", str(file)])
    assert done.exit_code == 0, done.output
    assert set(pd.read_parquet(file)["run"]) == {"runs/a", "runs/deeper/b"}
    folders, found = Results.read([tmp_path / "runs"]), Results.read([file])
    assert found.parameters == folders.parameters
    assert [{k: v for k, v in row.items() if v is not None} for row in found.rows] == [
        {k: v for k, v in row.items() if v is not None} for row in folders.rows
    ]
    tables = [
        CliRunner().invoke(app, ["report", str(one), "--json"]) for one in (file, tmp_path / "runs")
    ]
    assert json.loads(tables[0].stdout) == json.loads(tables[1].stdout) != []


@pytest.mark.parametrize(
    ("measure", "value", "says"),
    [
        ("hit@10", 7.0, r"hit@10: 7\.0 is not from 0\.0 to 1\.0"),
        ("utility.image_retrieval.hit@10", float("nan"), "None is not from"),
        ("drift.text", -0.1, r"drift\.text: -0\.1 is not"),
        ("min_rank", float("inf"), "inf is not"),
        ("run.seconds.filter", float("inf"), "inf is not"),
    ],
)
def test_impossible_values_of_a_file_are_named(
    make_run: MakeRun, tmp_path: Path, measure: str, value: float, says: str
) -> None:
    file = tmp_path / "theirs.parquet"
    table = results_table([make_run("run")])
    table.loc[3, ["measure", "value"]] = measure, value
    write_table(table, file)
    with pytest.raises(InputError, match=rf"theirs\.parquet: not a file of results \(run .*{says}"):
        read_runs([file])


def test_broken_files_are_one_line(make_run: MakeRun, tmp_path: Path) -> None:
    file = tmp_path / "theirs.parquet"
    for content in (b"", b"PAR1", b"x" * 400):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"theirs\.parquet: not a file of results"):
            read_runs([file])
    table = write_results([make_run("run")], file)
    for odd in (table.drop(columns="seed"), table.assign(settings="{"), table.assign(seed=None)):
        odd.to_parquet(file)
        with pytest.raises(InputError, match=r"theirs\.parquet"):
            read_runs([file])


def test_a_broken_recipe_is_one_line(make_run: MakeRun) -> None:
    run = make_run("run")
    (run / "recipe.yaml").write_text("a: [1")
    with pytest.raises(InputError, match=r"recipe\.yaml: not valid YAML"):
        results_table([run])
    (run / "recipe.yaml").write_text("- 1")
    with pytest.raises(InputError, match="mapping"):
        results_table([run])


NUMBERS = st.dictionaries(
    st.sampled_from(["hit@10", "min_rank", "odd"]), st.floats(0, 1, width=32), max_size=3
)
PLACES = st.tuples(
    st.sampled_from(["a2b", None]),
    st.sampled_from(["poisoned", None]),
    st.sampled_from(["main", "queries"]),
    st.sampled_from(["x", None]),
    st.sampled_from([0.5, None]),
)
SETTINGS: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=2,
)


@settings(deadline=None)
@given(st.dictionaries(PLACES, NUMBERS, min_size=1, max_size=4), SETTINGS)
def test_any_numbers_and_settings_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, places: dict[Any, dict[str, float]], setting: Any
) -> None:
    file = tmp_path_factory.mktemp("any") / "results.parquet"
    rows = tuple(
        {**dict(zip(("goal", "model", "study", "case", "x"), place, strict=True)), **numbers}
        for place, numbers in places.items()
    )
    facts = {"run": "r", "recipe": "n", "seed": 3, "tool_version": "1", "attack.samples": setting}
    one = RunRead.of_rows("r", facts, rows)
    write_table(pd.DataFrame(list(one.long()), columns=list(LONG)), file)
    (back,) = read_runs([file])
    assert back.measured == rows
    assert back.parameters == {"attack.samples": setting}
