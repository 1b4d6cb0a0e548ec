"""Every row of a source is kept, dropped or reported, exactly once and in order: each format with each output."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.conftest import write_tar
from tests.defenses.scan.whole.test_shard_passes import Here

import datasets
import mmpoison
from mmpoison.defenses.scan import scan as module
from mmpoison.defenses.scan.cut.score_filter import PairScores, ScoreFilter
from mmpoison.defenses.scan.read.pass_runner import ReadPairs
from mmpoison.models import DualEncoder

Row = dict[str, Any]

GOOD = [f"{name}.png" for name in "abc"]
LEFT_OUT = ["", "../a.png", "https://example.org/a.png"]
"""Images of rows that give no pair."""
UNREADABLE = ["broken.png", "missing.png"]
"""Images of pairs that go, because nobody can look at them."""


@pytest.fixture(autouse=True, scope="module")
def in_this_process() -> Iterator[None]:
    """Compute in this process; starting others takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "make_workers", lambda *given, **more: [Here()])
        yield


class Coin(ScoreFilter):
    """Drops captions that say so."""

    name: ClassVar[str] = "coin"
    source: ClassVar[str] = "a test"
    summary: ClassVar[str] = "drops captions that say so"
    parameters: ClassVar[dict[str, str]] = {}
    cost: ClassVar[str] = "none"

    def score(self, read: ReadPairs) -> PairScores:
        def score(number: int) -> Any:
            shard: Any = read.runner.shards[number]
            found = np.array([float("drop" in text) for text in shard.captions()])
            found[np.isnan(read.distance(number))] = np.nan
            return found

        return PairScores(score)


# -- The same rows in each format: few images and captions, so that many are equal and stand apart. -------------------

CAPTIONS = ["a red square", "drop me", 'a "blue", square\nof two lines', "drop me too"]
IMAGES = GOOD * 3 + UNREADABLE + LEFT_OUT
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "image": st.sampled_from(IMAGES),
            "caption": st.sampled_from(CAPTIONS),
            "id": st.sampled_from(["7", "007", "x"]),
            "score": st.sampled_from([0.5, 1.5]),
        }
    ).map(lambda row: {**row, "split": "val" if row["image"] == "c.png" else "train"}),
    min_size=1,
    max_size=12,
).map(
    lambda rows: [
        {"image": "a.png", "caption": "a", "id": "7", "score": 0.5, "split": "train"},
        *rows,
    ]
)


def write_csv(folder: Path, rows: list[Row]) -> Path:
    with (folder / "pairs.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "pairs.csv"


def read_csv(file: Path) -> list[Row]:
    with file.open(newline="") as stream:
        return [{**row, "score": float(row["score"])} for row in csv.DictReader(stream)]


def write_parquet(folder: Path, rows: list[Row]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), folder / "pairs.parquet", row_group_size=3)
    return folder / "pairs.parquet"


def write_parquets(folder: Path, rows: list[Row]) -> Path:
    half = len(rows) // 2
    for name, part in (("a", rows[:half]), ("b", rows[half:])):
        (folder / "set").mkdir(exist_ok=True)
        if part:
            pq.write_table(pa.Table.from_pylist(part), folder / "set" / f"{name}.parquet")
    return folder / "set"


def read_parquets(place: Path) -> list[Row]:
    files = sorted(place.rglob("*.parquet")) if place.is_dir() else [place]
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def write_arrow(folder: Path, rows: list[Row]) -> Path:
    datasets.Dataset.from_list(rows).save_to_disk(folder / "set")
    return folder / "set"


def read_arrow(folder: Path) -> list[Row]:
    return datasets.load_from_disk(str(folder)).to_list()  # type: ignore[no-any-return]


FORMATS: dict[str, tuple[Callable[[Path, list[Row]], Path], str, Callable[[Path], list[Row]]]] = {
    "csv": (write_csv, "kept.csv", read_csv),
    "parquet": (write_parquet, "kept.parquet", read_parquets),
    "several": (write_parquets, "kept", read_parquets),
    "hugging-face": (write_arrow, "kept", read_arrow),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name, colour in zip(GOOD, ("red", "green", "blue"), strict=True):
        Image.new("RGB", (32, 32), colour).save(folder / name)
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def fresh(photos: Path) -> Callable[[], Iterator[Path]]:
    """A folder with the images, for each example."""

    def make() -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as name:
            for file in photos.iterdir():
                (Path(name) / file.name).hardlink_to(file)
            yield Path(name)

    return make


def scanned(data: Path, out: Path, encoder: DualEncoder, **options: Any) -> Any:
    coin = Coin(threshold=0.5)
    given = {"planted": False, "progress": False, "method": coin, "encoder": encoder, **options}
    return mmpoison.scan(data, out=out, **given)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=10, deadline=None)
@given(rows=ROWS)
def test_a_table(name: str, fresh: Any, make_encoder: Any, rows: list[Row]) -> None:
    for folder in fresh():
        write, kept, read = FORMATS[name]
        data = write(folder, rows)
        options = {"options": {"images": str(folder)}} if data.is_dir() else {}
        done = scanned(data, folder / "scan", make_encoder(7), **options)
        stay = [
            row
            for row in rows
            if row["image"] not in LEFT_OUT
            and (
                row["split"] == "val"
                or not (row["image"] in UNREADABLE or "drop" in row["caption"])
            )
        ]
        judged = [row for row in rows if row["image"] not in LEFT_OUT and row["split"] == "train"]
        gone = [row for row in judged if row not in stay]
        assert read(folder / "scan" / kept) == stay
        drop = pq.read_table(folder / "scan" / "drop.parquet")
        assert drop.column_names == [
            *rows[0], "scan_score", "group", "reason", "shard", "row",
        ]  # fmt: skip
        own = [{key: row[key] for key in rows[0]} for row in drop.to_pylist()]
        assert [{**row, "score": float(row["score"])} for row in own] == gone
        unreadable = [row["reason"].startswith("its image cannot") for row in drop.to_pylist()]
        assert unreadable == [row["image"] in UNREADABLE for row in gone]
        lost = len(rows) - len(stay) - len(gone)
        assert (done.left_out.rows if done.left_out else 0) == lost
        assert bool(done.left_out and done.left_out.examples) == (lost > 0)
        assert (done.pairs, done.dropped) == (len(judged), len(gone))
        assert done.failed == []


# -- Rows with several captions, and tars. -----------------------------------------------------------------------------

ITEMS = st.lists(
    st.tuples(
        st.sampled_from(GOOD + UNREADABLE[:1]), st.lists(st.sampled_from(CAPTIONS), max_size=3)
    ),
    min_size=1,
    max_size=8,
).map(lambda items: [("a.png", ["a"]), *items])


def split_captions(items: list[tuple[str, list[str]]]) -> list[list[str]]:
    return [
        [text for text in texts if "drop" not in text and image not in UNREADABLE]
        for image, texts in items
    ]


@settings(max_examples=10, deadline=None)
@given(items=ITEMS)
def test_lists_of_captions(
    fresh: Any, make_encoder: Any, items: list[tuple[str, list[str]]]
) -> None:
    for folder in fresh():
        rows: list[Row] = [
            {"image": image, "captions": texts, "n": n} for n, (image, texts) in enumerate(items)
        ]
        kind = pa.list_(pa.string())
        schema = pa.schema([("image", pa.string()), ("captions", kind), ("n", pa.int64())])
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / "pairs.parquet")
        scanned(folder / "pairs.parquet", folder / "scan", make_encoder(7))
        stay = split_captions(items)
        expected = [{**row, "captions": kept} for row, kept in zip(rows, stay, strict=True) if kept]
        assert read_parquets(folder / "scan" / "kept.parquet") == expected
        drop = pq.read_table(folder / "scan" / "drop.parquet").to_pylist()
        said = [(row["n"], row.get("caption", row["captions"][0])) for row in drop]
        assert said == [
            (row["n"], text)
            for row, kept in zip(rows, stay, strict=True)
            for text in row["captions"]
            if text not in kept
        ]


@settings(max_examples=10, deadline=None)
@given(items=ITEMS)
def test_lines_of_captions(
    fresh: Any, make_encoder: Any, items: list[tuple[str, list[str]]]
) -> None:
    """A pairs folder names an image once."""
    items = list(dict(reversed(items)).items())
    for folder in fresh():
        lines = [
            {"image": image, "captions": texts, "own": [n]}
            for n, (image, texts) in enumerate(items)
        ]
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (folder / "captions.jsonl").write_text(text)
        if not any(texts for _, texts in items if _ != "broken.png"):
            continue
        stay = split_captions(items)
        if not any(stay):
            continue
        scanned(folder, folder / "scan", make_encoder(7))
        kept = [json.loads(line) for line in (folder / "scan" / "kept.jsonl").open()]
        assert kept == [
            {**line, "captions": left}
            for line, left in zip(lines, stay, strict=True)
            if left or not line["captions"]
        ]
        again = mmpoison.load(folder / "scan" / "kept.jsonl", root=folder)
        assert len(again) == sum(map(len, stay))


@settings(max_examples=10, deadline=None)
@given(items=ITEMS)
def test_tars(
    fresh: Any, photos: Path, make_encoder: Any, items: list[tuple[str, list[str]]]
) -> None:
    """A reader of the lists knows only the key, so a sample stays if all of its captions do."""
    for folder in fresh():
        tars = folder / "tars"
        tars.mkdir()
        names = [f"{n:05}{n % 3:04}" for n in range(len(items))]
        for number in range(2):
            members: dict[str, bytes] = {}
            for name, (image, texts) in list(zip(names, items, strict=True))[number::2]:
                members[f"{name}.png"] = (photos / image).read_bytes()
                facts = {"uid": "same", "captions": texts}
                members[f"{name}.json"] = json.dumps(facts).encode()
            write_tar(tars / f"{number:05}.tar", members)
        scanned(tars, folder / "scan", make_encoder(7))
        stay = split_captions(items)
        expected = [
            name
            for name, kept, (_, texts) in zip(names, stay, items, strict=True)
            if texts and len(kept) == len(texts)
        ]
        keep = mmpoison.keep_filter(folder / "scan")
        found = webdataset.WebDataset(
            [str(file) for file in sorted(tars.glob("*.tar"))], shardshuffle=False
        ).select(keep)
        assert sorted(sample["__key__"] for sample in found) == expected
        drop = pq.read_table(folder / "scan" / "drop.parquet").to_pylist()
        assert len(drop) == sum(len(texts) for _, texts in items) - sum(map(len, stay))
        assert {row["__key__"] for row in drop} <= set(names)


# -- What cannot be read to its end. -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["parquet", "tar"])
def test_a_file_that_is_cut_short_is_a_failure(
    ending: str, photos: Path, make_encoder: Any, tmp_path: Path
) -> None:
    image = (photos / "a.png").read_bytes()
    for name in ("00000", "00001", "00002"):
        file = tmp_path / "set" / f"{name}.{ending}"
        file.parent.mkdir(exist_ok=True)
        if ending == "tar":
            members: dict[str, bytes] = {}
            for n in range(20):
                members |= {f"{n}.png": image, f"{n}.txt": b"a"}
            write_tar(file, members)
        else:
            cells = [{"bytes": image, "path": None}] * 20
            pq.write_table(pa.table({"image": cells, "caption": ["a"] * 20}), file)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    done = scanned(tmp_path / "set", tmp_path / "scan", make_encoder(7))
    assert 40 <= done.pairs < 60
    (failed,) = done.failed
    assert f"00002.{ending}" in failed.reason


def test_paths_of_another_folder_are_found_where_all_exist(
    photos: Path, make_encoder: Any, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    rows = [{"image": f"{photos}/{name}", "caption": "a"} for name in GOOD * 2]
    write_csv(tmp_path, rows)
    write_parquet(tmp_path, rows)
    for file in ("pairs.csv", "pairs.parquet"):
        done = scanned(tmp_path / file, tmp_path / f"scan-{file}", make_encoder(7))
        assert done.pairs == 6
        assert (tmp_path / f"scan-{file}" / done.data_root).resolve() == photos.resolve()
    assert f"{tmp_path}/pairs.csv: images: {photos}" in [str(one.message) for one in recwarn]
