"""Text, JSON, YAML and CSV of strangers: every bound is reached, and what is reached is one line."""

from __future__ import annotations

import csv
import io
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mmpoison.base.untrusted import (
    BoundedRows,
    bounded_lines,
    parse_json,
    parse_yaml,
    plain_file,
    read_bytes,
    read_json,
    read_text,
    read_yaml,
)
from mmpoison.errors import InputError

# -- Text, JSON and YAML of strangers: every bound is reached, and what is reached is one line.


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abcdefghij", min_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


def _aliases(template: str) -> str:
    """Nine levels of nine aliases each: 387 million values in ten lines."""
    lines = ["a: &a " + template.format("x")]
    for before, name in zip("abcdefghi", "bcdefghij", strict=True):
        lines.append(f"{name}: &{name} " + template.format(",".join([f"*{before}"] * 9)))
    return "\n".join(lines)


@given(PLAIN)
def test_what_json_writes_is_read(value: Any) -> None:
    assert parse_json(json.dumps(value), "x") == value


@given(PLAIN)
def test_what_yaml_writes_is_read(value: Any) -> None:
    assert parse_yaml(yaml.safe_dump(value, allow_unicode=True), "x") == value


@given(st.text() | st.text("[]{}:-&*!<>'\"\n 0123456789ax,?|#%@`"))
def test_no_text_makes_a_traceback(text: str) -> None:
    for parse in (parse_json, parse_yaml):
        with suppress(InputError):
            parse(text, "x")


@pytest.mark.parametrize(
    "text",
    ["[" * 900_000, "9" * 5000, "[1" + "0" * 400 + "]", "1e999", "NaN", "-Infinity", "{" * 100],
)
def test_json_that_would_break_later_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^x: not valid JSON"):
        parse_json(text, "x")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 900_000, "nested too deep"),
        ("[" * 65 + "]" * 65, "nested deeper than 64"),
        ("seed: " + "9" * 5000, "64 bits"),
        ("a: !!bool x", "not of its type"),
        ("a: .inf", "not finite"),
        ("a: &a [*a]", "inside the value"),
        (_aliases("[{}]"), "aliases expanded"),
        ("a: &a {x: 1}\n" + _aliases("{{<<: [{}]}}").split("\n", 1)[1], "aliases expanded"),
        ("a: !!python/object:os.system x", "constructor"),
        ("? [a]\n: b", "unhashable"),
        ("a: \x00", "special characters"),
        ('a: "\\ud800"', "surrogates not allowed"),
    ],
)
def test_yaml_that_would_break_later_is_refused(text: str, why: str) -> None:
    with pytest.raises(InputError, match=r"^x: not valid YAML") as caught:
        parse_yaml(text, "x")
    assert why in str(caught.value)


def test_an_alias_in_a_small_file_is_allowed() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: *x", "x") == {"a": [1, 2], "b": [1, 2]}


def test_a_date_stays_text() -> None:
    assert parse_yaml("description: 2001-99-99", "x") == {"description": "2001-99-99"}


def test_files_are_bounded(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text('"' + "a" * 2000 + '"')
    assert len(read_json(file)) == 2000
    with pytest.raises(InputError, match="larger than the limit of 1,024 bytes"):
        read_bytes(file, 1024)
    with pytest.raises(InputError, match="larger than the limit of 1,024 bytes"):
        read_yaml(file, 1024)
    file.write_bytes(b"\xff\xff")
    with pytest.raises(InputError, match="not UTF-8"):
        read_text(file)
    with pytest.raises(InputError, match="no such file"):
        read_text(tmp_path / "none")
    with pytest.raises(InputError, match="cannot be read"):
        read_text(tmp_path)


def test_a_large_integer_of_json_is_a_float() -> None:
    large = parse_json("[9223372036854775807, 9223372036854775808, -1000000000000000000000]", "x")
    assert large == [2**63 - 1, 2.0**63, -1e21]
    assert [type(number) for number in large] == [int, float, float]


def test_links_out_of_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "inner.json").write_text("{}")
    (folder / "link.json").symlink_to("inner.json")
    (folder / "out.json").symlink_to(tmp_path / "secret")
    (folder / "loop").symlink_to("loop")
    assert plain_file(folder, "link.json") == folder / "link.json"
    for name in ("out.json", "../secret", "loop"):
        with pytest.raises(InputError, match=r"points outside|broken link"):
            plain_file(folder, name)


def test_the_links_of_the_hugging_face_cache_are_followed(tmp_path: Path) -> None:
    repository = tmp_path / "models--owner--name"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "abc").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    assert read_json(plain_file(snapshot, "config.json")) == {}


def test_lines_are_bounded() -> None:
    stream = io.BytesIO(b"short\n" + b"x" * 100 + b"\nnever seen\n")
    lines = bounded_lines(stream, "captions.jsonl", 50)
    assert next(lines) == b"short\n"
    with pytest.raises(InputError, match=r"jsonl line 2: longer than the limit of 50 bytes"):
        next(lines)


# -- CSV of strangers: what is read is what `csv.DictReader` gives, and every bound is reached.


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
    [("1," + "x" * 200_000, "line 2: broken CSV \\(field larger"), ('"a', "line 2: broken CSV")],
    ids=["field", "quote"],
)
def test_what_has_no_end_is_refused(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "x.csv").write_text("a,b\n" + content)
    with pytest.raises(InputError, match=says):
        list(BoundedRows(tmp_path / "x.csv"))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("image,label,label ,,\n1,sheep,cow,,\n")
    with pytest.raises(InputError, match=r"x\.csv line 1: 2 columns are called 'label': give them"):
        BoundedRows(tmp_path / "x.csv")


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="named pipe"):
        read_text(tmp_path / "pipe")
