"""Columns with names that nobody knows are found by what they hold, and a guess is said."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import captions_by_image

from mmpoison.datasets import load_pairs
from mmpoison.datasets.catalogue import stream_pairs
from mmpoison.datasets.formats.delimited import load_delimited
from mmpoison.datasets.formats.guessed_columns import (
    SAMPLE_CHARACTERS,
    SAMPLE_ROWS,
    complete_columns,
    sampled_rows,
)
from mmpoison.errors import InputError, MmpoisonNotice

PATHS = ["a/1.jpg", "a/2.JPG", "b/3.png"]
SENTENCES = ["a sheep on a hill", "two cows in a field", "the plane has landed"]


def guess(
    columns: dict[str, list[str]], root: Path = Path("nowhere"), **chosen: str
) -> tuple[dict[str, Any], list[str]]:
    """The columns that are chosen, and what was said of them."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = complete_columns(list(columns), chosen, "a.csv", root, lambda: columns)  # type: ignore[arg-type]
    assert all(one.category is MmpoisonNotice for one in said)
    return dict(found), [str(one.message) for one in said]


def test_columns_are_found_by_content() -> None:
    found, said = guess({"nr": ["1", "2", "3"], "Datei": PATHS, "Satz": SENTENCES})
    assert found == {"image_column": "Datei", "caption_column": "Satz"}
    assert said == [
        "a.csv: columns: image = Datei, caption = Satz (guessed from their content); say it with "
        "--option image_column=... --option caption_column=..."
    ]


def test_usual_names_need_no_guess() -> None:
    def sample() -> dict[str, list[str]]:
        raise AssertionError("nothing need be read")

    assert complete_columns(["image", "caption"], {}, "a", Path(), sample) == {}
    assert guess({"image": PATHS, "Satz": SENTENCES}) == (
        {"caption_column": "Satz"},
        [
            "a.csv: columns: caption = Satz (guessed from their content); say it with --option caption_column=..."
        ],
    )


def test_the_users_choice_is_not_guessed_again() -> None:
    found, said = guess({"x": PATHS, "y": SENTENCES, "z": SENTENCES[::-1]}, caption_column="y")
    assert found == {"image_column": "x", "caption_column": "y"}
    assert len(said) == 1
    assert "caption" not in said[0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"x": PATHS, "en": SENTENCES, "de": SENTENCES[::-1]},
            "a.csv: several columns hold sentences, en, de: say which with --option caption_column=NAME",
        ),
        (
            {"x": PATHS, "small": PATHS[::-1], "en": SENTENCES},
            "a.csv: several columns hold paths of images, x, small: say which with --option image_column=NAME",
        ),
        (
            {"x": PATHS, "nr": ["1", "2", "3"]},
            "a.csv: no column has a usual name for caption_column: name one of 'x', 'nr'",
        ),
        # one and the same text says nothing of an image
        (
            {"x": PATHS, "terms": ["all rights are reserved"] * 3},
            "a.csv: no column has a usual name for caption_column: name one of 'x', 'terms'",
        ),
        (
            {"a/1.jpg": ["a/2.jpg"], "a sheep on a hill": ["a cow"]},
            "a.csv: seems to hold a pair, not names of columns: add a first line such as image,caption",
        ),
    ],
)
def test_what_is_not_clear_is_asked(columns: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InputError) as caught:
        guess(columns)
    assert str(caught.value) == message


def test_paths_win_over_addresses_and_phrases_are_a_last_resort() -> None:
    web = [f"https://example.org/{n}.jpg?size=1" for n in range(3)]
    found, _ = guess({"web": web, "x": PATHS, "who": ["Ann Lee", "Bo", "C D"], "y": SENTENCES})
    assert found == {"image_column": "x", "caption_column": "y"}
    found, _ = guess(
        {"home": ["http://a.org/x"] * 3, "web": web, "y": ["a dog", "two cats", "one"]}
    )
    assert found == {"image_column": "web", "caption_column": "y"}


def test_files_that_are_there_decide(tmp_path: Path) -> None:
    for name in ("1", "2", "3.jpg", "4.jpg"):
        (tmp_path / name).touch()
    # names without an ending
    found, _ = guess({"n": ["8", "9"], "id": ["1", "2"], "y": SENTENCES[:2]}, tmp_path)
    assert found["image_column"] == "id"
    # of two columns of paths the one that leads to files
    columns = {"far": ["x/3.jpg", "x/4.jpg"], "near": ["3.jpg", "4.jpg"], "y": SENTENCES[:2]}
    assert guess(columns, tmp_path)[0]["image_column"] == "near"


def test_hostile_values_are_no_paths(tmp_path: Path) -> None:
    (tmp_path / "secret").touch()
    root = tmp_path / "data"
    root.mkdir()
    with pytest.raises(InputError, match="no column has a usual name for image_column"):
        guess({"x": ["../secret", "\x00", "a" * 9999, "\udcff"], "y": SENTENCES}, root)
    _, said = guess({"\x1b[2Jx": PATHS, "y" * 400: SENTENCES})
    assert "\x1b" not in said[0]
    assert len(said[0]) < 300


@given(st.lists(st.lists(st.text(max_size=30), min_size=2, max_size=2), max_size=20))
def test_any_content_gives_a_guess_or_one_line(rows: list[list[str]]) -> None:
    columns = {"p": [row[0] for row in rows], "q": [row[1] for row in rows]}
    try:
        found, said = guess(columns)
    except InputError as error:
        said = [str(error)]
    else:
        assert found["image_column"] != found["caption_column"]
    assert len(said) == 1
    assert "\n" not in said[0]


def test_a_sample_is_bounded() -> None:
    assert len(sampled_rows([["a"]] * 10 * SAMPLE_ROWS)) == SAMPLE_ROWS
    assert len(sampled_rows([["a" * (SAMPLE_CHARACTERS + 1)]] * 3)) == 1
    assert sampled_rows([]) == []


# -- in the formats --------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "eigene.csv"
    with file.open("w", newline="") as stream:
        rows = csv.writer(stream, delimiter=";")
        rows.writerow(["nr", "Datei", "Satz"])
        # more rows than are examined, one of them broken
        rows.writerows([n, f"{n % 200}.jpg", f"the sheep number {n}"] for n in range(300))
        rows.writerow(["too", "few"])
    return file


def test_a_table_of_text_is_read_whole_after_a_guess(table: Path) -> None:
    with pytest.warns(MmpoisonNotice, match=r"image = Datei, caption = Satz"):
        pairs = load_delimited(table)
    found = captions_by_image(pairs)
    assert len(found) == 200
    assert found["7.jpg"] == ["the sheep number 7", "the sheep number 207"]
    assert pairs.problems == (
        f"{table} line 302: has 2 fields, the header has 3 (a separator or a line break without quotes?)",
    )


def test_parquet_and_its_stream(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "parts"
    folder.mkdir()
    for part in range(2):
        rows = range(part * 5, part * 5 + 5)
        pq.write_table(
            pa.table(
                {
                    "nr": list(rows),
                    "Datei": pa.array([f"{n}.jpg" for n in rows]).dictionary_encode(),
                    # the second file alone would not tell
                    "Saetze": [[f"a sheep number {n}"] if not part else ["x"] for n in rows],
                }
            ),
            folder / f"{part}.parquet",
        )
    with pytest.warns(MmpoisonNotice, match=r"image = Datei, caption = Saetze"):
        pairs = load_pairs(folder)
    assert len(pairs) == 10
    with pytest.warns(MmpoisonNotice) as said:
        pieces = list(stream_pairs(folder, images_at_once=3))
    assert len(said) == 1
    assert [len(piece) for piece in pieces] == [3, 3, 3, 1]


def test_saved_by_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"Datei": ["1.jpg", "2.jpg"], "Satz": ["a sheep on hills", "a cow in grass"]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "saved"))
    with pytest.warns(MmpoisonNotice, match=r"image = Datei, caption = Satz"):
        pairs = load_pairs(tmp_path / "saved")
    assert captions_by_image(pairs) == {"1.jpg": ["a sheep on hills"], "2.jpg": ["a cow in grass"]}
