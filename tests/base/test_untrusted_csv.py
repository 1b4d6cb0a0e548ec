"""CSV of strangers: what is read is what `csv.DictReader` gives, and every bound is reached."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpoison.base.untrusted import MAX_RECORD, BoundedRows
from mmpoison.errors import InputError

CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@given(st.lists(st.tuples(CELL, CELL), max_size=5), st.sampled_from(["\n", "\r\n"]))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], end: str
) -> None:
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator=end).writerows([("a", "b"), *rows])
    file = tmp_path_factory.mktemp("csv") / "x.csv"
    file.write_bytes(b"\xef\xbb\xbf" + written.getvalue().encode())
    expected = list(csv.DictReader(io.StringIO(written.getvalue(), newline=""), strict=True))
    assert list(BoundedRows(file)) == expected


def test_lines_may_end_in_a_carriage_return(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"a,b\r1,2\r3,4\r")
    assert list(BoundedRows(tmp_path / "x.csv")) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("1," + "x" * (5 << 20), "line 2: longer than 4 MiB"),
        ("1," + "x" * 200_000, "line 2: broken CSV \\(field larger"),
        # a record of many fields, each over two lines: no line and no field is long
        ('"\n",' * (MAX_RECORD // 3), "a record of over 4,194,304 characters"),
        ('"a', "line 2: broken CSV"),
    ],
    ids=["line", "field", "record", "quote"],
)
def test_what_has_no_end_is_refused(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "x.csv").write_text("a,b\n" + content)
    with pytest.raises(InputError, match=says):
        list(BoundedRows(tmp_path / "x.csv"))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("image,label,label ,,\n1,sheep,cow,,\n")
    with pytest.raises(InputError, match=r"x\.csv line 1: 2 columns are called 'label': give them"):
        BoundedRows(tmp_path / "x.csv")
