"""Tables of a page: every number once, no part wider than the page."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpoison.reporting.html_report import PAGE, balanced_parts, page_tables
from mmpoison.reporting.table import Cell, Column, Table, cell_texts
from mmpoison.statistics import summarize


def fewest(widths: list[int], room: int) -> int:
    """The number of parts of the best division of all, by trying every one."""
    best = len(widths)
    for cuts in range(2 ** (len(widths) - 1)):
        places = [0, *(n for n in range(1, len(widths)) if cuts >> (n - 1) & 1), len(widths)]
        sums = [widths[start:end] for start, end in pairwise(places)]
        if all(sum(part) <= room or len(part) == 1 for part in sums):
            best = min(best, len(sums))
    return best


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(10, 100))
def test_parts_are_the_fewest_in_order(widths: list[int], room: int) -> None:
    parts = balanced_parts(widths, room)
    assert [n for part in parts for n in part] == list(range(len(widths)))
    assert all(sum(widths[n] for n in part) <= room or len(part) == 1 for part in parts)
    assert len(parts) == fewest(widths, room)


@given(st.integers(1, 30), st.integers(1, 12))
def test_equal_columns_are_divided_evenly(count: int, most: int) -> None:
    sizes = [len(part) for part in balanced_parts([1] * count, most)]
    assert max(sizes) == -(-count // len(sizes))


def table(columns: int, *, n: bool = True, name: str = "a setting") -> Table:
    numbers = [summarize([0.1 * k, 0.2 * k, 0.7]) for k in range(columns)]
    rows: list[tuple[Cell, ...]] = [
        (f"{name} {row}", *([3] if n else []), *numbers) for row in range(2)
    ]
    heads = (Column("Setting"), *([Column("n")] if n else []))
    return Table(
        "T\x1b", (*heads, *(Column(f"Hit@{k}") for k in range(columns))), tuple(rows), "A note."
    )


@pytest.mark.parametrize("n", [True, False])
@pytest.mark.parametrize("columns", [0, 1, 5, 10, 40])
def test_every_number_is_there_once(columns: int, n: bool) -> None:
    made = table(columns, n=n)
    parts = page_tables(made)
    fixed = 2 if n else 1
    assert len(parts) == 1 or columns > 7
    for place, row in enumerate(made.rows):
        cells = [c for part in parts for c in part.rows[place][fixed:]]
        # the lines of a cell are the parts of its one-line text
        assert [" ".join(cell.lines) for cell in cells] == cell_texts(row, made.columns)[fixed:]
        assert all(part.rows[place][0].lines == [row[0]] for part in parts)
    assert [part.title for part in parts] == ["T", *[""] * (len(parts) - 1)]
    assert [part.note for part in parts] == [*[""] * (len(parts) - 1), "A note."]
    assert len({part.label for part in parts}) == len(parts)


def test_long_names_leave_less_room() -> None:
    short, long = (len(page_tables(table(16, name=name))) for name in ("a", "a" * 70))
    assert long > short
    # between words a name is folded
    assert len(page_tables(table(16, name="a b" * 40))) <= short + 1
    assert PAGE < 70 * 16


def test_columns_are_left_out_by_name() -> None:
    (part,) = page_tables(table(3), leave_out=("n", "Hit@1"))
    assert [column.name for column in part.columns] == ["Setting", "Hit@0", "Hit@2"]
    assert [column.kind for column in part.columns] == ["left", "", ""]
