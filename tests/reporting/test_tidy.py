"""The tidy table of all runs: rows, settings, studies and Parquet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mmpoison.cli.app import app
from mmpoison.errors import InputError
from mmpoison.reporting.results import FIRST, results_table, to_arrow

MakeRun = Callable[..., Path]

# pyarrow loads parts of itself at the first call, which hypothesis would count as the time of a test
to_arrow([]).to_pylist()


def test_a_row_a_run_goal_and_model(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("sweep/runs/a", seed=0)
    make_run("sweep/runs/b", seed=1, goals=("sheep2aeroplane", "sofa2bird"))
    table = results_table([tmp_path / "sweep"])
    assert tuple(table.column_names[: len(FIRST)]) == FIRST
    assert table.num_rows == 4 + 8
    row = table.filter((pc.field("seed") == 1) & (pc.field("model") == "poisoned")).to_pylist()[1]
    assert row["goal"] == "sofa2bird"
    assert (row["original"], row["target"], row["study"]) == ("sofa", "bird", "main")
    assert row["hit@10"] == pytest.approx(0.899)
    assert row["hit@10.low"] == 0.8
    assert row["median_rank"] == 2.0
    assert row["utility.text_retrieval.hit@10"] == 0.9
    assert row["drift.text"] == pytest.approx(0.061)
    assert row["training.batch_size"] == 32
    assert row["training.betas"] == "[0.9, 0.98]"
    assert json.loads(row["attack.goal"]) == ["sheep2aeroplane", "sofa2bird"]
    assert row["run.poisoning_rate"] == 125 / 25125
    manifest = tmp_path / "sweep/runs/b/manifest.json"
    assert row["manifest"] == hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert Path(row["run"]) == manifest.parent


def test_what_a_run_did_not_compute_is_null(make_run: MakeRun) -> None:
    run = make_run("run", settings={"filter": None})
    rows = {row["model"]: row for row in results_table([run]).to_pylist()}
    assert rows["random_captions"]["utility.text_retrieval.hit@10"] is None
    assert rows["clean_model"]["drift.text"] is None
    assert "filtered" not in rows
    assert "filter" not in results_table([run]).column_names


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
    table = results_table([run]).to_pylist()
    found = [(r["study"], r["case"], r["x"], r["model"]) for r in table if r["study"] != "main"]
    assert found == [
        ("queries", "misused", None, "poisoned"),
        ("query-length", None, 2.0, "poisoned"),
        ("epochs", None, 0.0, "poisoned"),
        ("epochs", None, 1.0, "poisoned"),
        ("transfer", "other", None, "poisoned"),
        ("sterilize-curve", "1e-05", 50.0, "sterilized"),
    ]
    assert all(r["hit@10"] == 0.5 for r in table if r["study"] != "main")
    assert table[-1]["attack.samples"] == 25


def test_the_command_writes_parquet(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("runs/a")
    file = tmp_path / "results.parquet"
    done = CliRunner().invoke(app, ["report", str(tmp_path / "runs"), "--parquet", str(file)])
    assert done.exit_code == 0, done.output
    assert pq.read_table(file).num_rows == 4


def test_a_broken_recipe_is_one_line(make_run: MakeRun) -> None:
    run = make_run("run")
    (run / "recipe.yaml").write_text("a: [1")
    with pytest.raises(InputError, match=r"recipe\.yaml: not valid YAML"):
        results_table([run])
    (run / "recipe.yaml").write_text("- 1")
    with pytest.raises(InputError, match="mapping"):
        results_table([run])


VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=2,
)


@given(st.lists(st.fixed_dictionaries({}, optional={"a": VALUES, "b": VALUES}), max_size=3))
def test_any_settings_make_a_table(rows: list[dict[str, Any]]) -> None:
    table = to_arrow(rows)
    assert table.num_rows == len(rows)
    for given_row, row in zip(rows, table.to_pylist(), strict=True):
        for key, value in given_row.items():
            back = row[key]
            assert (back is None) == (value is None)
            if isinstance(value, str):
                assert back == value
            elif isinstance(back, str):
                assert json.loads(back) == value
            elif value is not None:
                assert back == pytest.approx(value)


def test_columns_of_one_kind_keep_it() -> None:
    table = to_arrow([{"n": 1, "x": 1, "b": True}, {"n": None, "x": 0.5, "b": False}])
    kinds = [table.schema.field(name).type for name in "nxb"]
    assert kinds == [pa.int64(), pa.float64(), pa.bool_()]
