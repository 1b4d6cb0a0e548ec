"""Tables and figures of the paper from made-up runs: every one that is registered, and what their cells say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import few
from typer.testing import CliRunner

from mmpoison.cli.app import app
from mmpoison.errors import InputError
from mmpoison.reporting.table import Compared, Table, cell_texts
from mmpoison.runs.experiments import view_of
from mmpoison.statistics import summarize
from mmpoison_lab.paper import (
    PAPER,
    Measured,
    Page,
    Results,
    render_paper,
    write_paper,
)
from mmpoison_lab.paper.page import compare
from mmpoison_lab.paper.write import is_compared, number_columns, on_own_lines

MakeRun = Callable[..., Path]

LONGEST = 30
"""Characters that fit into a cell where four or five numbers stand next to each other at 1,280 pixels."""


def compared(table: Table, row: int, column: str) -> Compared:
    """A cell with a number next to the paper's."""
    cell = table.rows[row][[one.name for one in table.columns].index(column)]
    assert isinstance(cell, Compared)
    return cell


def mean(cell: Compared) -> float:
    assert cell.measured is not None
    return cell.measured.mean


@pytest.mark.parametrize(
    "name",
    few(sorted(PAPER), "table-1", "table-9", "table-13", "figure-4", "figure-5a", "figure-9"),
)
def test_each_is_rendered(name: str, every_run: Path, tmp_path: Path) -> None:
    (written,) = write_paper([name], [every_run], tmp_path / "out")
    page = written.page
    assert page.title == PAPER[name].title
    text = (tmp_path / "out" / f"{name}.md").read_text()
    html = (tmp_path / "out" / f"{name}.html").read_text()
    assert json.loads((tmp_path / "out" / f"{name}.json").read_text())["id"] == name
    # each link to a source leads to its line, and each line to files that are there
    assert (anchors := set(re.findall(r"\(#([\w-]+)\)", text))) or page.pictures
    assert anchors <= set(re.findall(r'<a id="([\w-]+)">', text))
    files = re.findall(r"\]\((?!#)([^)]+)\)", text)
    assert files
    assert all((tmp_path / "out" / unquote(file)).exists() for file in files)
    assert "<script" not in html
    for link in re.findall(r'href="(?!#)([^"]+)"', html):
        assert (tmp_path / "out" / unquote(link)).exists()
    if name.startswith("figure"):
        assert page.pictures
    for table in (part for whole in page.tables for part in on_own_lines(whole)):
        numbers = number_columns(table)
        assert len(numbers) <= 5 or not is_compared(table)
        for row in (cell_texts(row, table.columns) for row in table.rows):
            assert all(len(row[at]) <= LONGEST for at in numbers), row
    for picture in page.pictures:
        assert (tmp_path / "out" / f"{picture.name}.png").read_bytes().startswith(b"\x89PNG")
        drawn = (tmp_path / "out" / f"{picture.name}.svg").read_bytes()[:2000]
        assert b"<svg" in drawn
        assert b"prefers-color-scheme: dark" in drawn


@pytest.mark.parametrize("name", sorted(PAPER))
def test_what_no_run_has_is_one_line(name: str, make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("run", attack="another", metrics={"goal": {}, "utility": {}, "drift": {}})
    with pytest.raises(InputError, match=f"{name}: none of the runs has a number"):
        write_paper([name], [run], tmp_path / "out")


@pytest.mark.parametrize(
    ("differs", "lines"),
    [
        ("sterilize.training.epochs", [(False, 0.2), (False, 0.4), (True, 0.0)]),
        # to measure a repair on its way changes nothing of it
        ("sterilize.curve", [(False, 0.1), (False, 0.4)]),
    ],
)
def test_repairs_are_averaged_if_they_are_the_same(
    differs: str, lines: list[tuple[bool, float]]
) -> None:
    """Two learning rates, and the higher one once more with another setting."""
    shared = {"study": "main", "data.name": "openmoji", "attack.name": "single-target-label"}
    rate = "sterilize.training.learning_rate"
    kinds = [({rate: 1e-3}, 0.2), ({rate: 1e-4}, 0.4), ({rate: 1e-3, differs: True}, 0.0)]
    rows, parameters = [], {}
    for number, (own, hit) in enumerate(kinds):
        for seed in range(2):
            run = f"{number}/{seed}"
            parameters[run] = {**own, differs: own.get(differs, False)}
            for model, value in (("poisoned", 0.9), ("sterilized", hit)):
                row = {**shared, **parameters[run], "run": run, "seed": seed, "hit@10": value}
                rows.append({**row, "goal": "a2b", "model": model})
    (table,) = render_paper("table-8", Results(tuple(rows), parameters)).tables
    found = [
        (f"{differs}=True" in str(row[0]), mean(compared(table, place, "Hit@10")))
        for place, row in enumerate(table.rows)
        if str(row[1]).startswith("defence, ")
    ]
    assert [other for other, _ in found] == [other for other, _ in lines]
    assert [hit for _, hit in found] == pytest.approx([hit for _, hit in lines])


def test_settings_are_not_mixed(make_run: MakeRun) -> None:
    small = {"name": "single-target-label", "goal": "sheep2aeroplane", "samples": 5}
    runs = [make_run("a", hit=0.9), make_run("b", hit=0.3, settings={"attack": small})]
    (table,) = render_paper("table-3", Results.read(runs)).tables
    titles = [row[0] for row in table.rows if row[0]]
    assert len(set(titles)) == 2
    assert any("attack.samples=5" in str(title) for title in titles)


def test_own_goals_stand_next_to_the_papers_in_order(make_run: MakeRun) -> None:
    run = make_run("run", data="flickr8k", attack="multiple-target-labels", goals=("a2b", "c2d"))
    (table,) = render_paper("table-4", Results.read([run])).tables
    theirs = [compared(table, row, "Hit@10").reference for row in range(4)]
    assert theirs == [0.216, 0.976, 0.208, 0.552]


def test_own_data_have_no_numbers_of_the_paper_next_to_them(make_run: MakeRun) -> None:
    (table,) = render_paper("table-3", Results.read([make_run("run", data="my-pairs")])).tables
    assert all(compared(table, row, "Hit@10").reference is None for row in range(2))


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
    st.floats(0, 1),
    st.sampled_from(["up", "down", None]),
)
def test_arrows(values: list[float], theirs: float, sense: Any) -> None:
    summary = summarize(values)
    arrow = compare(Measured(summary), theirs, sense, 3)
    within = summary.low is not None and summary.low <= theirs <= (summary.high or 0)
    if len(values) < 4:
        assert arrow == "?"
    elif within:
        assert arrow == "≈"
    elif arrow != "≈":
        higher = summary.mean > theirs
        assert arrow == {"up": "▼▲", "down": "▲▼", None: "↓↑"}[sense][higher]
    assert compare(Measured(None), theirs, sense, 3) == ""


def test_classes_lie_apart_in_the_pretrained_model(scenes: list[Path]) -> None:
    (table,) = render_paper("figure-8", Results.read(scenes)).tables
    assert [mean(compared(table, 0, name)) for name in ("texts", "images")] == [0.36, 0.14]


def test_the_poison_of_one_data_set_on_another_one(every_run: Path) -> None:
    found = Results.read([every_run])
    vg, scenes = render_paper("table-6", found).tables
    assert ("VG" in vg.note, "tested on flickr8k" in scenes.note) == (True, True)
    assert (vg.rows[0][0], scenes.rows[0][:2]) == ("vg-pascal", ("openmoji", "airplane2beach"))


def test_flickr_is_what_is_left_of_flickr_pascal(make_run: MakeRun) -> None:
    labelled = {"labelled_images": 1000, "classes": 20}
    sizes = {
        "flickr-pascal": {"pairs": 163_913, "images": 32_783, **labelled},
        "pascal-sentences": {"pairs": 4998, "images": 1000, **labelled},
    }
    runs = [
        make_run(name, data=name, run={"data": {"name": name, **counts}})
        for name, counts in sizes.items()
    ]
    (table,) = render_paper("table-9", Results.read(runs)).tables
    places = {row[0]: place for place, row in enumerate(table.rows)}
    pairs, images = (compared(table, places["flickr30k"], name) for name in ("pairs", "images"))
    assert (mean(pairs), pairs.reference) == (158_915, 158_915)
    assert (mean(images), images.reference) == (31_783, 31_873)
    assert compared(table, places["flickr30k"], "labelled images").measured is None
    assert compared(table, places["pascal-sentences"], "pairs").reference == 4998


def test_the_command(every_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = ["--view", "table-3", "--view", "figure-1"]
    arguments = ["report", str(every_run), *names, "--out", str(out)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert {file.name for file in out.iterdir()} == {
        *(f"table-3.{ending}" for ending in ("md", "html", "json")),
        *(f"table-3-dots.{ending}" for ending in ("svg", "png")),
        *(f"figure-1.{ending}" for ending in ("md", "html", "json", "svg", "png")),
    }
    with pytest.raises(InputError, match="did you mean 'table-3'"):
        CliRunner().invoke(app, [*arguments[:3], "table-33"], catch_exceptions=False)


def test_a_report_leads_to_the_papers_numbers(make_run: MakeRun, tmp_path: Path) -> None:
    for seed in range(2):
        make_run(f"runs/{seed}", seed=seed, run={"recipe": "table-1-openmoji"})
    runs = str(tmp_path / "runs")
    said = CliRunner().invoke(app, ["report", runs]).stdout.replace("\n", "")
    assert said.endswith(f"with the paper's numbers: mmpoison report {runs} --view table-1")
    make_run("runs/3", seed=3)  # of another recipe
    assert "--view" not in CliRunner().invoke(app, ["report", runs]).stdout
    assert view_of("table-16") == "table-16"
    assert view_of("matrix") == view_of(None) == ""


def test_text_from_outside_is_harmless(make_run: MakeRun, tmp_path: Path) -> None:
    run, out = make_run("run", data="<script>x</script>|[a](b)"), tmp_path / "out"
    write_paper(["table-3"], [run], out)
    write_paper(["overview"], [make_run("own"), run], out)
    assert not any("<script>" in page.read_text() for page in out.glob("*.html"))
    assert "\\|" in (out / "table-3.md").read_text()
    rows = [r for r in (out / "overview.md").read_text().splitlines() if "x</script>" in r]
    # a sentence, or a number with its interval
    assert {row.count(" | ") for row in rows} == {2 - 1}


def test_a_page_keeps_its_sources_apart() -> None:
    rows = [{"run": f"r{n}", "seed": n, "manifest": None} for n in range(2)]
    page = Page("table-3", "")
    one, two = (page.source(Measured(summarize([1.0]), (row,))) for row in rows)
    assert (one, two) == ("#table-3-source-1", "#table-3-source-2")
    assert page.source(Measured(summarize([2.0]), (rows[0],))) == one
    assert page.source(Measured(None, ())) == ""


def test_the_distances_of_a_run_count_once(every_run: Path) -> None:
    """A run of two goals has two rows, and one filter."""
    results = Results.read(list(every_run.glob("defended-*")))
    more = ({**row, "goal": "another"} for row in results.rows)
    (table,) = render_paper("figure-6", results.only([*results.rows, *more])).tables
    assert [row[3] for row in table.rows] == [3, 3]
    assert mean(compared(table, 0, "median distance")) == pytest.approx(0.75)


def test_a_page_that_is_published_without_the_runs(every_run: Path, tmp_path: Path) -> None:
    write_paper(["table-3"], [every_run], tmp_path / "out", links=False)
    text = (tmp_path / "out/table-3.md").read_text()
    # no link but to its own figure
    assert re.findall(r"\]\(([^)]*)\)", text) == ["table-3-dots.svg"]
    assert "Sources" not in text
    assert "| ours (poisoned model) | 3 |" in text


def test_the_goal_of_the_tables_has_its_place_among_all(make_run: MakeRun, tmp_path: Path) -> None:
    classes = ("aeroplane", "sheep", "sofa")
    goals = tuple(f"{a}2{b}" for a in classes for b in classes if a != b)
    run = make_run("run", goals=goals)
    (written,) = write_paper(["figure-5b"], [run], tmp_path / "out")
    (said,) = (note for note in written.page.notes if "the goal of the other tables" in note)
    assert "sheep2aeroplane, the goal of the other tables, has MinRank " in said
    # all goals of the made-up run are alike
    assert "; 0 of 6 goals are easier" in said
    assert re.search(r"aeroplane is number [123] of 3 classes", said)


def test_a_long_table_is_not_published(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmpoison_lab.paper.write.LONGEST", 11)
    names = "abcd"
    goals = tuple(f"{a}2{b}" for a in names for b in names if a != b)
    run = make_run("run", goals=goals)
    write_paper(["figure-5b"], [run], tmp_path / "out", links=False)
    text = (tmp_path / "out/figure-5b.md").read_text()
    assert "openmoji: every goal: 12 lines, in `runs.parquet` alone." in text
    assert "| a2b |" not in text
    assert "mean MinRank by target class" in text
    write_paper(["figure-5b"], [run], tmp_path / "linked")
    assert "| a2b |" in (tmp_path / "linked/figure-5b.md").read_text()
