"""CSV and TSV: open_clip's tables just work, and every broken row is named by its line."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import captions_by_image, refusal

from mmpoison.datasets import DATASETS, load_pairs
from mmpoison.datasets.formats import delimited
from mmpoison.errors import InputError, MmpoisonWarning

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function that writes a table of text or bytes."""

    def make(content: str | bytes, name: str = "pairs.csv") -> Path:
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return make


# -- what is read ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "options", "captions"),
    [
        (
            'filepath\ttitle\na/1.jpg\ta sheep, grazing\na/2.jpg\ta "cow"\n',
            {},
            {"a/1.jpg": ["a sheep, grazing"], "a/2.jpg": ['a "cow"']},
        ),
        # a quote within a field without quotes is a letter, as for pandas, with which open_clip reads
        (
            'filepath\ttitle\n1.jpg\t12" record\n2.jpg\t"hello" he said\n',
            {},
            {"1.jpg": ['12" record'], "2.jpg": ["hello he said"]},
        ),
        # bars and blanks of Flickr30k
        (
            "image_name| comment_number| comment\n1.jpg| 0| two men\n1.jpg| 1| a bench\n",
            {},
            {"1.jpg": [" two men", " a bench"]},
        ),
        (
            "a~b\n1.jpg~x\n",
            {"image": "a", "caption": "b", "separator": "~"},
            {"1.jpg": ["x"]},
        ),
        (
            "a\tb,c\n1.jpg\tx\n",
            {"image": "a", "caption": "b,c", "separator": "\\t"},
            {"1.jpg": ["x"]},
        ),
    ],
    ids=["open_clip", "quotes", "flickr30k", "separator", "tab"],
)
def test_tables(write: Write, text: str, options: Any, captions: dict[str, list[str]]) -> None:
    file = write(text)
    pairs = load_pairs(file, **options)
    assert captions_by_image(pairs) == captions
    assert pairs.root == file.parent


def test_label_and_split(write: Write) -> None:
    file = write(
        "\ufeffFile_Name;Text;Class;Split\n1.jpg;x;sheep;Validation\n2.jpg;y;;\n3.jpg;z;cow;restval\n"
    )
    pairs = load_pairs(file)
    assert [line["label"] for line in pairs.lines()] == ["sheep", None, "cow"]
    assert [line["split"] for line in pairs.lines()] == ["val", "train", "train"]


def test_a_folder_with_one_table(write: Write, tmp_path: Path) -> None:
    write("image,caption\n1.jpg,x\n")
    assert captions_by_image(load_pairs(tmp_path)) == {"1.jpg": ["x"]}
    write("image,caption\n1.jpg,x\n", "other.tsv")
    assert "--format" in refusal(load_pairs, tmp_path)
    assert "other.tsv, pairs.csv" in refusal(load_pairs, tmp_path, format="csv")


def test_a_packed_table(write: Write) -> None:
    packed = gzip.compress(b"image,caption\n1.jpg,x\n" + b"2.jpg,y\n" * 3)
    assert len(load_pairs(write(packed, "pairs.csv.gz"))) == 4
    with pytest.warns(MmpoisonWarning, match="the rest is not read"):
        load_pairs(write(gzip.compress(b"image,caption\n1.jpg,x\n" * 9)[:-9], "pairs.csv.gz"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends(write: Write, end: str) -> None:
    file = write(end.join(["image,caption", '1.jpg,"two', 'lines"', "2.jpg,y"]))
    assert captions_by_image(load_pairs(file)) == {"1.jpg": [f"two{end}lines"], "2.jpg": ["y"]}


# -- what is broken --------------------------------------------------------------------------------

ROWS: dict[str, tuple[str | bytes, str]] = {
    "fewer fields": ("1.jpg", "line 3: has 1 fields, but the header has 2"),
    "more fields": ("1.jpg,a,b", "line 3: has 3 fields, but the header has 2"),
    "not UTF-8": (b"1.jpg,caf\xe9", "line 3: not UTF-8"),
    "zero byte": ("1.jpg,a\x00b", "line 3: holds a zero byte"),
    "long field": ("1.jpg," + "x" * 140_000, "line 3: a field of over 131,072 characters"),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_broken_row_is_left_out_and_named(write: Write, name: str) -> None:
    row, problem = ROWS[name]
    raw = row if isinstance(row, bytes) else row.encode()
    file = write(b"image,caption\n0.jpg,before\n" + raw + b"\n2.jpg,after\n")
    with pytest.warns(MmpoisonWarning, match="left out: "):
        pairs = load_pairs(file)
    assert captions_by_image(pairs) == {"0.jpg": ["before"], "2.jpg": ["after"]}
    assert len(pairs.problems) == 1
    assert problem in pairs.problems[0]
    assert str(file) in pairs.problems[0]


@pytest.mark.parametrize("after", [0, 3, 20_000])
def test_a_quote_that_is_never_closed_swallows_nothing(write: Write, after: int) -> None:
    rows = "".join(f"{n}.jpg,caption {n}\n" for n in range(after))
    file = write('image,caption\n0.jpg,first\nx.jpg,"open\n' + rows)
    with pytest.warns(MmpoisonWarning):
        pairs = load_pairs(file)
    assert len(pairs) == 1 + after
    assert len(pairs.problems) == 1
    assert f"{file} line 3: " in pairs.problems[0]
    assert "never closed" in pairs.problems[0]


def test_lines_are_counted_behind_an_open_quote(write: Write) -> None:
    with pytest.warns(MmpoisonWarning):
        pairs = load_pairs(write('image,caption\n1.jpg,"open\n2.jpg,x\n3.jpg\n'))
    assert [line.split(" line ")[1][:2] for line in pairs.problems] == ["2:", "4:"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        ("image,caption\n", "contains no image"),
        ('"', "line 1: a quote is opened and never closed"),
        ("\nimage,caption\n", "its first line is empty"),
        ("image,caption\n1.jpg,x\n".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "its first line is not UTF-8 text"),
        (
            "image,caption\n1.jpg,a\n2.jpg," + "x" * (5 << 20),
            "line 3: longer than 4 MiB, so it is refused",
        ),
    ],
    ids=[
        "empty",
        "none",
        "quote",
        "blank",
        "utf-16",
        "png",
        "line",
    ],
)
def test_a_file_that_is_no_such_table(write: Write, content: str | bytes, message: str) -> None:
    assert message in refusal(load_pairs, write(content))


def test_bad_options(write: Write, tmp_path: Path) -> None:
    file = write("image,caption\n1.jpg,x\n")
    assert "did you mean 'caption'" in refusal(load_pairs, file, caption="captoin")
    assert "give one character" in refusal(load_pairs, file, separator="::")
    assert "has no option 'column'" in refusal(load_pairs, file, column="x")
    assert "are both 'image'" in refusal(load_pairs, file, image="image", caption="image")
    # what the option was called
    assert "did you mean 'caption'?" in refusal(load_pairs, file, caption_column="caption")
    with pytest.raises(InputError, match="no such file"):
        DATASETS["csv"].load(tmp_path / "nowhere.csv")


# -- any text --------------------------------------------------------------------------------------

# no zero bytes, which are refused, and no half surrogates, which cannot be written
texts = st.text(
    st.one_of(
        st.sampled_from("\",;|\t\n\r'\\ a"),
        st.characters(exclude_categories=["Cs"], exclude_characters="\x00"),
    ),
    max_size=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    captions=st.lists(texts, min_size=1, max_size=6),
    separator=st.sampled_from(",\t;|"),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_any_caption_survives(
    tmp_path: Path, captions: list[str], separator: str, end: str
) -> None:
    file = tmp_path / "pairs.csv"
    # Python's writer leaves a carriage return without quotes, which makes two lines of it
    returns = any("\r" in text for text in captions)
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(
            stream,
            delimiter=separator,
            lineterminator=end,
            quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL,
        )
        writer.writerow(["image", "caption"])
        writer.writerows([f"{n // 2}.jpg", text] for n, text in enumerate(captions))
    pairs = load_pairs(file)
    assert list(pairs.captions) == captions
    assert [pairs.images.ids[i] for i in pairs.image] == [
        f"{n // 2}.jpg" for n in range(len(captions))
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "pairs.csv"
    file.write_bytes(b"image,caption\n1.jpg,whole\n" + raw)
    pairs = DATASETS["csv"].load(file)
    assert pairs.images.ids[0] == "1.jpg"
    "".join([*pairs.captions, *pairs.images.ids]).encode()


def test_a_packed_table_that_is_cut_at_once(tmp_path: Path) -> None:
    packed = gzip.compress(b"image,caption\n1.jpg,a sheep\n")
    (tmp_path / "x.csv.gz").write_bytes(packed[:20])
    with pytest.raises(InputError, match=r"x\.csv\.gz: broken after line 0"):
        load_pairs(tmp_path / "x.csv.gz")


# -- what has no end -------------------------------------------------------------------------------


def test_a_record_of_many_short_lines(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    # each time the file is read again it takes as long as the first
    monkeypatch.setattr(delimited, "MAX_REREADS", 2)
    # each field is short and each line too, so neither bound is reached
    file = write("image,caption\n1.jpg,a\n2.jpg," + '"some words\nand more",' * 200_000)
    with pytest.warns(MmpoisonWarning, match="a record of over 4,194,304 characters"):
        assert captions_by_image(load_pairs(file)) == {"1.jpg": ["a"]}


def test_a_packed_table_that_unpacks_to_a_thousand_times_its_size(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    # reading 64 MB of empty lines takes most of a minute
    monkeypatch.setattr(delimited, "LEAST_UNPACKED", 1 << 16)
    packed = gzip.compress(b"image,caption\n1.jpg,a\n" + b"\n" * (3 << 16), 1)
    assert "unpacks to more than 200 times its size" in refusal(
        load_pairs, write(packed, "pairs.csv.gz")
    )
