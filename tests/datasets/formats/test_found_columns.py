"""Which columns hold images and captions is found by their values, and said where the names do not tell."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpoison.datasets import load_pairs
from mmpoison.datasets.catalogue import stream_pairs
from mmpoison.datasets.formats.columns import (
    SAMPLE_ROWS,
    SAMPLE_SIZE,
    complete_columns,
)
from mmpoison.datasets.formats.delimited import _first_records
from mmpoison.errors import InputError, MmpoisonNotice

PATHS = ["a/1.jpg", "a/2.JPG", "b/3.png"]
WEB = [f"https://example.org/{n}.jpg?size=1" for n in range(3)]
SENTENCES = ["a sheep on a hill", "two cows in a field", "the plane has landed"]


def find(
    columns: dict[str, list[str]], root: Path = Path("nowhere"), **chosen: str
) -> tuple[dict[str, Any], list[str]]:
    """The columns that are chosen, and what was said of them."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = complete_columns(list(columns), chosen, "a.csv", root, lambda: columns)  # type: ignore[arg-type]
    assert all(one.category is MmpoisonNotice for one in said)
    return dict(found), [str(one.message) for one in said]


def test_columns_are_found_by_their_values() -> None:
    found, said = find({"nr": ["1", "2", "3"], "Datei": PATHS, "Satz": SENTENCES})
    assert found == {"image": "Datei", "caption": "Satz"}
    assert said == [
        "a.csv: columns: image = Datei, caption = Satz (found by their values); change it with "
        "--option image=NAME --option caption=NAME"
    ]


def test_a_usual_name_decides_only_with_its_values(tmp_path: Path) -> None:
    usual = {"Filepath": PATHS, "Title": ["sheep", "cows", "plane"], "text": SENTENCES}
    assert find(usual) == ({}, [])
    # names alone decide where there are no values, or none that tells
    assert find({"image": [], "caption": []}) == ({}, [])
    assert find({"image": ["01", "02"], "caption": ["1", "2"], "url": WEB[:2]}) == ({}, [])
    # paths win over addresses, names of files over numbers, and files that are there over others
    assert find({"image": WEB, "x": PATHS, "caption": SENTENCES})[0] == {"image": "x"}
    assert find({"image": ["7", "8", "9"], "x": PATHS, "text": SENTENCES})[0] == {"image": "x"}
    assert find({"img": PATHS, "title": ["7", "8", "9"], "y": SENTENCES})[0] == {"caption": "y"}
    for name in ("1.jpg", "2.jpg", "n"):
        (tmp_path / name).touch()
    here = {"image": ["a/1.jpg", "a/2.jpg"], "photo": ["1.jpg", "2.jpg"], "caption": SENTENCES[:2]}
    found, said = find(here, tmp_path)
    assert found == {"image": "photo"}
    assert "image = photo, caption = caption (found by their values)" in said[0]
    # names without an ending
    assert find({"x": ["n", "n"], "y": SENTENCES[:2]}, tmp_path)[0] == {
        "image": "x",
        "caption": "y",
    }
    both = {"thumb": ["1.jpg", "2.jpg"], "image": ["1.jpg", "2.jpg"], "caption": SENTENCES[:2]}
    assert find(both, tmp_path) == ({}, [])


def test_captions_are_the_longest_text() -> None:
    columns = {
        "x": PATHS,
        "digest": ["3f" * 32, "4a" * 32, "5b" * 32],
        "who": ["Ann Lee", "Bo", "C D"],
        "licence": ["Creative Commons Attribution 4.0 International"] * 3,
        "web": WEB,
        "y": SENTENCES,
    }
    assert find(columns)[0] == {"image": "x", "caption": "y"}
    assert find({"x": PATHS, "y": ["丘の羊", "二頭の牛", "犬"]})[0]["caption"] == "y"


def test_the_users_choice_is_kept() -> None:
    found, said = find({"x": PATHS, "y": SENTENCES, "z": SENTENCES[::-1]}, caption="y")
    assert found == {"image": "x", "caption": "y"}
    assert len(said) == 1
    assert "caption" not in said[0]
    assert find({"image": PATHS, "x": PATHS, "y": SENTENCES}, image="x", caption="y")[1] == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"x": PATHS, "small": PATHS[::-1], "en": SENTENCES},
            "a.csv: several columns hold images, x, small: say which with --option image=NAME",
        ),
        (
            {"x": PATHS, "nr": ["1", "2", "3"], "word": ["sheep", "cow", "plane"]},
            "a.csv: no column holds captions: say which with --option caption=NAME, one of nr, word",
        ),
        # one and the same text says nothing of an image
        (
            {"x": PATHS, "terms": ["all rights are reserved"] * 3},
            "a.csv: no column holds captions: say which with --option caption=NAME, one of terms",
        ),
        (
            {"home": ["http://a.org/x"] * 3, "web": WEB, "y": SENTENCES},
            "a.csv: no column holds file names, URLs are in home, web: download the images first, e.g. with "
            "img2dataset, or name the image column with --option image=NAME",
        ),
        (
            {"a/1.jpg": ["a/2.jpg"], "a sheep on a hill": ["a cow"]},
            "a.csv: seems to hold a pair, not column names: add a header line, e.g. image,caption",
        ),
        (
            {"image": PATHS, "text": SENTENCES, " text": SENTENCES},
            "a.csv: 2 columns are called 'text': give them different names",
        ),
    ],
)
def test_what_is_not_clear_is_asked(columns: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InputError) as caught:
        find(columns)
    assert str(caught.value) == message


def test_hostile_values_are_no_paths(tmp_path: Path) -> None:
    (tmp_path / "secret").touch()
    root = tmp_path / "data"
    root.mkdir()
    with pytest.raises(InputError, match="no column holds images"):
        find({"x": ["../secret", "\x00", "a" * 9999, "\udcff"], "y": SENTENCES}, root)
    _, said = find({"\x1b[2Jx": PATHS, "y" * 400: SENTENCES})
    assert "\x1b" not in said[0]
    assert len(said[0]) < 300


@given(st.lists(st.lists(st.text(max_size=30), min_size=2, max_size=2), max_size=20))
def test_any_content_gives_columns_or_one_line(rows: list[list[str]]) -> None:
    columns = {"p": [row[0] for row in rows], "q": [row[1] for row in rows]}
    try:
        found, said = find(columns)
    except InputError as error:
        said = [str(error)]
    else:
        assert found["image"] != found["caption"]
    assert len(said) == 1
    assert "\n" not in said[0]


def test_a_sample_is_bounded() -> None:
    assert len(_first_records([(2, ["a"], "a")] * 10 * SAMPLE_ROWS)) == SAMPLE_ROWS
    for wide in (["a" * (SAMPLE_SIZE + 1)], [""] * (SAMPLE_SIZE + 1)):
        assert len(_first_records([(2, wide, "")] * 3)) == 1
    assert _first_records([]) == []


# -- in the formats --------------------------------------------------------------------------------


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
