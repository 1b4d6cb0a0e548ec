"""Tables of the paper as they are published: lines of their own, nothing lost, and a figure above."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpoison.reporting.table import Column, Compared, Table, cell_texts
from mmpoison.statistics import summarize
from mmpoison_lab.paper import Results, render_paper, write_paper
from mmpoison_lab.paper.write import dot_plot, on_own_lines

MakeRun = Callable[..., Path]


def texts(table: Table) -> list[list[str]]:
    return [cell_texts(row, table.columns) for row in table.rows]


def test_other_tables_stay() -> None:
    table = Table("T", (Column("a"), Column("paper")), (("x", "y"),))
    assert on_own_lines(table) == [table]
    assert dot_plot(table) is None


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.lists(st.floats(0, 1), min_size=1, max_size=4)),
            st.one_of(st.none(), st.floats(0, 1)),
            st.booleans(),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_no_number_is_lost(cells: list[tuple[list[float] | None, float | None, bool]]) -> None:
    """Every number of the one-cell form is there once, whatever is measured, printed, or shown with deviations."""
    made = [
        Compared(None if values is None else summarize(values), reference, "≈" if values and reference else "",
                 spread=spread)
        for values, reference, spread in cells
    ]  # fmt: skip
    columns = [Column(f"c{n}", narrow=n % 2 == 0) for n in range(len(made))]
    table = Table(
        "T", (Column("measured on"), *columns, Column("paper")), (("scenes", *made, "COCO"),)
    )
    spread = any(cell.spread for cell in made)
    laid_out = on_own_lines(table)
    seen: list[str] = []
    for one in laid_out:
        for row in texts(one):
            seen += re.findall(r"\d\.\d+", " ".join(row[1:]))
    wanted: list[str] = []
    for cell, column in zip(made, columns, strict=True):
        (text,) = cell_texts([cell], [column])
        wanted += re.findall(r"\d\.\d+", text)
        shown = cell.measured is not None and cell.measured.sd is not None
        # where one cell has its deviation, the others of the table have theirs by their own choice
        assert spread or not shown or "±" not in text
    assert sorted(seen) == sorted(wanted)


def test_a_figure_stands_above_the_table(every_run: Path, tmp_path: Path) -> None:
    write_paper(["table-5"], [every_run], tmp_path)
    text = (tmp_path / "table-5.md").read_text()
    assert text.index("](table-5-dots.svg)") < text.index("| measured on |")
    assert (tmp_path / "table-5-dots.svg").stat().st_size > 1000
    assert (tmp_path / "table-5.html").read_text().count("<figure") == 1
    # seven numbers: four, then three
    heads = re.findall(r"(?m)^\| measured on \|.*$", text)
    assert [head.count("Hit@") for head in heads] == [3, 3]
    assert ["MinRank" in head for head in heads] == [True, False]


def test_the_figure_has_the_numbers_of_the_table(make_run: MakeRun) -> None:
    runs = [make_run(f"s{seed}", seed=seed) for seed in range(3)]
    (table,) = render_paper("table-3", Results.read(runs)).tables
    figure = dot_plot(table)
    at = [column.name for column in table.columns].index("Hit@10")
    cells = [cell for row in table.rows[:2] if isinstance(cell := row[at], Compared)]
    summaries = [cell.measured for cell in cells if cell.measured]
    assert len(summaries) == 2
    axis = figure.axes[2]
    assert axis.get_title() == "Hit@10"
    dots, _, (bars,) = axis.containers[0]
    assert list(dots.get_xdata()) == [s.mean for s in summaries]
    ends = [(segment[0][0], segment[1][0]) for segment in bars.get_segments()]
    assert ends == [pytest.approx((s.low, s.high)) for s in summaries]
    (diamonds,) = [line for line in axis.lines if line.get_marker() == "D"]
    assert list(diamonds.get_xdata()) == [c.reference for c in cells]
    assert next(t.get_text() for t in figure.axes[0].get_yticklabels()).startswith(
        "openmoji, sheep2"
    )


def test_without_matplotlib_the_table_is_written(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmpoison_lab.paper.write.is_installed", lambda package: False)
    write_paper(["table-3"], [make_run("run")], tmp_path / "out")
    assert {file.suffix for file in (tmp_path / "out").iterdir()} == {".md", ".html", ".json"}
