"""The summary of a matrix against a slow version, the gate, foreign files, and pages that escape what they show."""

from __future__ import annotations

import base64
import hashlib
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmpoison.reporting.table import markdown
from mmpoison_lab.matrix.page import matrix_html, write_matrix_pages
from mmpoison_lab.matrix.records import MatrixFacts, as_cells
from mmpoison_lab.matrix.summary import MatrixSummary, difference, of_column, summarise
from mmpoison_lab.matrix.tables import matrix_tables

GOALS = ("a2b", "b2c", "c2a")
SEEDS = (5, 6)
BAD = '<script>alert("1")</script> [red]\x1b[31m|$x_1$'


Row = dict[str, Any]


def summary_of(about: MatrixFacts, cells: Sequence[Row]) -> MatrixSummary:
    return summarise(about, as_cells(cells))


def cell(row: str, column: str, goal: str, seed: int, **more: Any) -> Row:
    about: dict[str, Any] = {"attack": "x", "goals": goal, "kind": "control", **more}
    return {"row": row, "column": column, "goal": goal, "seed": seed, **about}


def cells_of(
    row: str, column: str, successes: Sequence[float], utility: float = 0.9, **more: Any
) -> list[Row]:
    """Six cells, goal by goal."""
    places = itertools.product(GOALS, SEEDS)
    return [
        cell(row, column, goal, seed, hit_10=success, utility=utility, **more)
        for (goal, seed), success in zip(places, successes, strict=True)
    ]


def facts(*columns: str, rows: Sequence[str] = ("II", "weak")) -> MatrixFacts:
    return MatrixFacts("mine", "", 0.5, tuple(rows), columns, False)


UNDEFENDED = (0.9, 0.8, 1.0, 0.7, 0.9, 0.95)
FILTERED = (0.1, 0.0, 0.2, 0.1, 0.0, 0.05)
REPAIRED = (0.2, 0.1, 0.0, 0.2, 0.1, 0.0)


@pytest.fixture
def cells() -> list[Row]:
    numbers: dict[str, Any] = {
        "kind": "pre-training",
        "auroc": 0.9,
        "caught": 0.8,
        "clean_lost": 0.01,
    }
    return [
        *cells_of("II", "none", UNDEFENDED),
        *cells_of("II", "clean model", [0.0] * 6, 0.95),
        *cells_of("II", "filter", FILTERED, 0.85, **numbers),
        *cells_of("II", "repair", REPAIRED, 0.8, kind="post-training"),
        *cells_of("weak", "none", [0.4] * 6),
        *cells_of("weak", "filter", [0.0] * 6, **numbers),
    ]


def slow_interval(differences: Sequence[float], goals: Sequence[str]) -> tuple[float, float, float]:
    """Mean and interval of differences whose sums within a goal are what varies."""
    from scipy import stats

    mean = sum(differences) / len(differences)
    names = sorted(set(goals))
    total = 0.0
    for name in names:
        own = sum(d - mean for d, goal in zip(differences, goals, strict=True) if goal == name)
        total += own * own
    count = len(names)
    error = math.sqrt(count / (count - 1) * total) / len(differences)
    half = float(stats.t.ppf(0.975, count - 1)) * error
    return mean, mean - half, mean + half


@pytest.mark.parametrize(
    ("name", "title"),
    [("matrix", "openmoji"), ("matrix-openmoji-both", "openmoji-both")],
)
def test_the_title_names_the_data(name: str, title: str, cells: list[Row]) -> None:
    named = replace(facts("filter", "repair"), name=name, data="openmoji")
    assert f"<h1><bdi>Attacks against defences: {title}</bdi></h1>" in matrix_html(
        summary_of(named, cells)
    )


def test_paired_differences_are_those_of_a_slow_version(cells: list[Row]) -> None:
    summary = summary_of(facts("filter", "repair"), cells)
    row = next(row for row in summary.rows if row.name == "II")
    goals = [goal for goal in GOALS for _ in SEEDS]
    for column, found in (("filter", FILTERED), ("repair", REPAIRED)):
        wanted = slow_interval([b - a for a, b in zip(UNDEFENDED, found, strict=True)], goals)
        change = difference(row.cells, "none", column)
        assert change is not None
        assert (change.value, change.low, change.high) == pytest.approx(wanted)
        assert change.clusters == 3
    lost = difference(row.cells, "filter", "none", "utility")
    assert lost is not None
    assert lost.value == pytest.approx(0.05)
    gained = difference(row.cells, "clean model", "none", "utility")
    assert gained is not None
    assert gained.value == pytest.approx(-0.05)


def test_only_pieces_that_have_both_are_paired(cells: list[Row]) -> None:
    some = [c for c in cells if not (c["column"] == "filter" and c["goal"] == "a2b")]
    pieces = as_cells([c for c in some if c["row"] == "II"])
    found = difference(pieces, "none", "filter")
    assert found is not None
    assert found.n == 4
    assert found.value == pytest.approx(np.mean(FILTERED[2:]) - np.mean(UNDEFENDED[2:]))
    assert difference(pieces, "none", "nothing") is None


def test_a_row_counts_only_where_the_attack_succeeds(cells: list[Row]) -> None:
    summary = summary_of(facts("filter", "repair"), cells)
    assert {row.name: row.counts for row in summary.rows} == {"II": True, "weak": False}
    assert len(of_column(summary.pooled(summary.counted()), "filter")) == 6
    success = matrix_tables(summary)[0].to_json()["rows"]
    assert success[1] == {
        "Attack": "weak",
        "n": 6,
        "clean model": "–",
        "none": "0.40",
        "filter": "attack failed",
        "repair": "–",
    }
    # with its trigger an attack may succeed although its captions find nothing without
    triggered = [*cells_of("weak", "none", [0.0] * 6, with_trigger=0.9)]
    found = summary_of(facts(rows=["weak"]), triggered)
    assert found.rows[0].counts


def test_attacks_compare_on_the_goals_and_seeds_that_all_have(cells: list[Row]) -> None:
    """One easy goal does not put an attack above another one that is stronger on that goal."""
    mine = [cell("mine", "none", "c2a", 5, hit_10=0.88), cell("mine", "filter", "c2a", 5, hit_10=0)]
    mine = [{**one, "utility": 0.9} for one in mine]
    names = ["mine", "II"]
    summary = summary_of(facts("filter", rows=names), [*mine, *cells])
    first, whole, effects = matrix_tables(summary, short=True)
    assert [column.name for column in effects.columns][-2:] == ["utility lost", "pieces"]
    assert [row["Attack"] for row in whole.to_json()["rows"]] == names
    assert [row["n"] for row in whole.to_json()["rows"]] == [1, 6]
    assert "so their means are not comparable" in whole.note
    rows = [(row["Attack"], row["n"], row["none"]) for row in first.to_json()["rows"]]
    assert rows == [("II", 1, "0.90"), ("mine", 1, "0.88")]
    assert "Attack success on the same goals and seeds" in matrix_html(summary)
    # the same pieces, or none in common: one table
    same = summary_of(facts("filter", rows=names), [*cells, *({**c, "row": "mine"} for c in cells)])
    assert len(matrix_tables(same, short=True)) == 2
    apart = summary_of(facts("filter", rows=names), [*cells, *({**c, "seed": 9} for c in mine)])
    assert "so their means are not comparable" in matrix_tables(apart, short=True)[0].note


def tables_of(summary: MatrixSummary) -> dict[str, list[dict[str, Any]]]:
    return {table.title: table.to_json()["rows"] for table in matrix_tables(summary)}


def test_each_effect_has_an_interval_and_a_probability(cells: list[Row]) -> None:
    """A defence that does nothing stays next to `none`, whatever the intervals of the others."""
    cells += cells_of("II", "noise", (1.0, 0.9, 0.85, 0.75, 0.8, 0.85))
    cells += cells_of("II", "nothing", UNDEFENDED)
    names = ["filter", "repair", "noise", "nothing"]
    rows = {
        row["Defence"]: row
        for row in tables_of(summary_of(facts(*names), cells))[
            "All attacks that count: each defence"
        ]
    }
    # by column, own ones first, not by what intervals hold
    assert list(rows) == ["clean model", "none", *names]
    assert (rows["none"]["change"], rows["none"]["beats none"]) == (None, None)
    assert (rows["filter"]["change"], rows["filter"]["beats none"]) == (
        "-0.80 [-1.00, -0.55]",
        "> 0.99",
    )
    assert rows["nothing"]["change"] == "0.00 [0.00, 0.00]"
    assert rows["nothing"]["beats none"] == "0.50"
    assert rows["noise"]["beats none"] == "0.60"
    page = matrix_html(summary_of(facts(*names), cells))
    assert "group" not in page.partition("</style>")[2].replace("colgroup", "")
    # one goal gives no interval, and no probability
    one = summary_of(facts(*names), [c for c in cells if c["goal"] == "a2b"])
    found = tables_of(one)["All attacks that count: each defence"]
    assert {row["beats none"] for row in found} == {None, "–"}


def test_counts_are_of_each_column(cells: list[Row]) -> None:
    assert "All columns were measured on 12 pieces of 3 goals and 2 seeds (5, 6);" in matrix_html(
        summary_of(facts("filter"), [c for c in cells if c["column"] in ("none", "filter")])
    )
    own = [{**c, "seed": c["seed"] + 2, "column": "mine"} for c in cells if c["column"] == "filter"]
    own += [{**c, "seed": c["seed"] + 2} for c in cells if c["column"] == "none"]
    published = [c for c in cells if c["column"] in ("none", "filter")]
    published += [{**c, "column": "other"} for c in published if c["column"] == "filter"]
    summary = summary_of(facts("mine", "filter", "other"), [*published, *own])
    page = matrix_html(summary)
    assert "Most columns were measured on 12 pieces of 3 goals and 2 seeds (5, 6);" in page
    assert (
        "mine was measured on other pieces than most columns, 12 pieces of 3 goals and 2 seeds (7, 8):"
        in page
    )
    counts = {
        row["Defence"]: (row["pieces"], row["goals"], row["seeds"])
        for row in tables_of(summary)["The defences"]
    }
    assert counts == {
        "none": (24, 3, "5, 6, 7, 8"),
        "mine": (12, 3, "7, 8"),
        "filter": (12, 3, "5, 6"),
        "other": (12, 3, "5, 6"),
    }


def hostile(cells: list[Row]) -> MatrixSummary:
    more = cells_of(BAD, "none", UNDEFENDED, note=BAD, needs=BAD, carrier=BAD)
    more += cells_of(BAD, BAD, FILTERED, note=BAD, needs=BAD, method=BAD, kind="pre-training")
    return summary_of(facts("filter", BAD, rows=["II", BAD]), [*cells, *more])


def test_pages_escape_what_they_show(cells: list[Row], tmp_path: Path) -> None:
    summary = hostile(cells)
    page = matrix_html(summary)
    # the one script is the page's own, and nothing else may run
    (script,) = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'; base-uri 'none'" in page
    assert script in matrix_html(summary_of(facts("filter"), cells))
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page
    assert 'href="http' not in page
    text = markdown(matrix_tables(summary))
    assert "\x1b" not in text
    assert "\\|$x_1$" in text
    files = write_matrix_pages(summary, tmp_path / "out")
    assert {file.name for file in files} == {
        *("matrix.md", "matrix.html", "attack-success.svg", "utility-lost.svg"),
    }
    drawn = (tmp_path / "out" / "attack-success.svg").read_text()
    assert "<script" not in drawn


def test_the_command_of_a_page_says_where_the_data_are(cells: list[Row]) -> None:
    about = replace(facts("filter"), name="matrix-flickr8k", data="flickr8k")
    assert "run matrix --on flickr8k --data-root DATA --out" in matrix_html(
        summary_of(about, cells)
    )
    made = replace(facts("filter"), name="matrix", data="openmoji")
    assert "run matrix --out" in matrix_html(summary_of(made, cells))


def test_each_cell_leads_to_its_pieces(cells: list[Row]) -> None:
    summary = summary_of(facts("filter", "repair"), cells)
    page = matrix_html(summary)
    assert page.count('href="#pieces-ii"') == 4 + 3
    assert page.count('id="pieces-ii"') == 1
    text = markdown(matrix_tables(summary))
    assert text.count("(#pieces-ii)") == 4 + 3
    assert text.count('<a id="pieces-ii"></a>') == 1
    assert "--shade: 1.0" not in page.partition("</style>")[2].partition("Utility lost")[0]


def test_small_matrices_say_so(cells: list[Row]) -> None:
    page = matrix_html(summary_of(facts("filter"), cells))
    assert "fewer than 6 goals x 3 seeds" in page
    tuned = MatrixFacts("mine", "", 0.5, ("II",), ("filter",), True)
    assert "so they are not results" in matrix_html(summary_of(tuned, cells))


def test_a_number_that_is_not_there_is_null_in_json(cells: list[Row]) -> None:
    # the scan gives no model, so it has no utility
    scans = [cell("II", "scan", "a2b", 5, kind="check", p_value=0.5)]
    tables = tables_of(summary_of(facts("filter", "scan"), [*cells, *scans]))
    (scan,) = (row for row in tables["The defences"] if row["Defence"] == "scan")
    assert (scan["utility lost"], scan["without poison"]) == (None, None)
    (scan,) = (row for row in tables["II: each defence"] if row["Defence"] == "scan")
    assert (scan["success"], scan["change"], scan["utility lost"]) == (None, None, None)
