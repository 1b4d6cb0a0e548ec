"""Tables for LaTeX and for spreadsheets."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpoison.reporting.table import Cell, Column, Compared, Link, Table
from mmpoison.reporting.terminal_tables import csv_text, latex
from mmpoison.statistics import Summary

MEAN = Summary(2, 1 / 3, 0.1, 0.0, 0.9)


def of(*cells: Cell, title: str = "All_50%") -> Table:
    columns = tuple(Column(f"c{number}") for number in range(len(cells)))
    return Table(title, columns, (cells,), note="A & B.")


def test_latex_is_escaped_and_has_no_bare_glyph() -> None:
    text = latex([of("a_b {c} \\d", MEAN, None, 2e-9, Compared(MEAN, 0.5, "▼"))])
    assert r"\caption{All\_50\%}" in text
    assert (
        r"a\_b \{c\} \textbackslash{}d & 0.333 $\pm$ 0.100 [0.000, 0.900] & -- & $<$ 0.001 &"
        in text
    )
    assert r"$\blacktriangledown$ 0.500 \\" in text
    assert r"A \& B." in text
    assert r"\begin{tabular}{lrrrr}" in text
    assert text.isascii()


def test_csv_of_several_tables_is_one_table() -> None:
    one = of("x", MEAN, (0.1, 0.2), title="one")
    other = Table("other", (Column("c0"), Column("new")), ((Link("y", "there"), 5),))
    rows = list(csv.DictReader(io.StringIO(csv_text([one, other]))))
    assert [row["table"] for row in rows] == ["one", "other"]
    assert float(rows[0]["c1"]) == 1 / 3
    assert (rows[0]["c1 sd"], rows[0]["c2 low"], rows[0]["c2 high"]) == ("0.1", "0.1", "0.2")
    assert (rows[1]["c0"], rows[1]["new"], rows[1]["c1"], rows[0]["new"]) == ("y", "5", "", "")
    compared = list(csv.DictReader(io.StringIO(csv_text([of("x", Compared(MEAN, 0.5))]))))
    assert compared[0]["c1 paper"] == "0.5"


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_a_spreadsheet_runs_nothing(start: str) -> None:
    text = csv_text([of(f"{start}cmd|' /C calc'!A0", -0.5, title=f"{start}1")])
    (row,) = csv.reader(io.StringIO(text.partition("\n")[2]))
    assert row[0] == f"'{start}1"
    assert row[1].startswith(f"'{start}cmd")
    assert row[2] == "-0.5"  # a number is one


@given(st.lists(st.text(), min_size=1, max_size=4), st.integers(1, 3))
def test_csv_has_a_line_for_each_row_whatever_the_text(texts: list[str], rows: int) -> None:
    columns = tuple(Column(f"c{number}") for number in range(len(texts)))
    text = csv_text([Table("t", columns, (tuple(texts),) * rows)])
    assert len(list(csv.DictReader(io.StringIO(text)))) == rows
    assert len(text.splitlines()) == rows + 1
