"""The files of a scan: complete, of one schema whatever the shards, whole or not there at all."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import refusal
from tests.defenses.scan.embedded.conftest import (
    Pairs,
    clip_retrieval,
    datacomp,
    make_pairs,
    npy_pair,
    subset,
)

from mmpoison.defenses.scan import ShardError, ShardVerdict, open_embedded, write_results
from mmpoison.defenses.scan.write.tables import ResultWriter, drop_schema, own_schema


@pytest.fixture
def pairs() -> Pairs:
    return make_pairs(60)


def every(step: int, rows: int) -> ShardVerdict:
    """Every so manieth pair goes."""
    drop = np.arange(rows) % step == 0
    score = np.arange(rows, dtype=np.float32)
    return ShardVerdict(score, drop, reason=["because"] * int(drop.sum()))


def scan(
    folder: Path, out: Path, step: int = 7, judge: Callable[[int], ShardVerdict] | None = None
) -> ResultWriter:
    """Write the results of a folder; `judge` is given the number of a shard."""
    source = open_embedded(folder)
    with write_results(out, source) as results:
        for number, shard in enumerate(source.shards):
            try:
                results.add(shard, judge(number) if judge else every(step, shard.rows))
            except ShardError as error:
                results.fail(shard, str(error))
        results.name_groups([{"images": 3}, {"images": 2}])
        assert not list(out.glob("[!.]*"))
    return results


def test_uids_become_a_subset_file(tmp_path: Path, pairs: Pairs) -> None:
    results = scan(datacomp(tmp_path / "set", pairs.parts([20, 25, 15])), tmp_path / "out")
    source = open_embedded(tmp_path / "set")
    kept: list[str] = []
    gone: list[str] = []
    for shard in source.shards:
        for row, uid in enumerate(shard.ids()):
            (gone if row % 7 == 0 else kept).append(uid)
    found = np.load(tmp_path / "out" / "keep.npy")
    assert found.dtype == np.dtype("u8,u8")
    assert found.tolist() == subset(kept)
    table = pq.read_table(tmp_path / "out" / "drop.parquet")
    assert table["uid"].to_pylist() == gone
    assert table["score"].to_pylist() == table["row"].to_pylist()
    assert set(table["reason"].to_pylist()) == {"because"}
    assert table["group"].null_count == len(gone)
    assert table["face_bboxes"].to_pylist() == [[[0.1, 0.2, 0.3, 0.4]]] * len(gone)
    with (tmp_path / "out" / "drop.csv").open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["uid"] for line in lines] == gone
    assert list(lines[0])[-5:] == ["score", "group", "reason", "shard", "row"]
    assert json.loads(lines[0]["face_bboxes"]) == [[0.1, 0.2, 0.3, 0.4]]
    assert results.notes == []
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "drop.csv", "drop.parquet", "groups.json", "keep.npy", "scores.parquet",
    ]  # fmt: skip
    assert json.loads((tmp_path / "out" / "groups.json").read_text()) == [
        {"group": 0, "images": 3},
        {"group": 1, "images": 2},
    ]


def test_ids_that_are_no_uids_give_no_subset_file_but_a_line(tmp_path: Path, pairs: Pairs) -> None:
    wrong = replace(pairs, uids=[*pairs.uids[:59], "no\x1b[31m\nhex"])
    results = scan(datacomp(tmp_path / "set", wrong.parts([30, 30])), tmp_path / "out")
    assert not (tmp_path / "out" / "keep.npy").exists()
    (line,) = results.notes
    assert line.startswith(r"no keep.npy: the id 'no\\x1b[31m\\nhex' of shard ")
    assert "\n" not in line
    assert "\x1b" not in line
    assert pq.read_table(tmp_path / "out" / "drop.parquet").num_rows == 10


def test_a_key_that_goes_in_one_shard_is_kept_in_none(tmp_path: Path) -> None:
    pairs = make_pairs(300)
    again = replace(pairs, keys=[*pairs.keys[:299], pairs.keys[20]])
    results = scan(clip_retrieval(tmp_path / "set", again.parts([150, 150])), tmp_path / "out", 10)
    lists = [p.read_text().splitlines() for p in sorted((tmp_path / "out" / "keep").iterdir())]
    gone = {pairs.keys[n] for n in range(300) if n % 10 == 0}
    assert [key for keys in lists for key in keys] == [k for k in again.keys if k not in gone]
    assert results.notes == [
        "on no list, although not dropped: 1 pair with the key of a dropped pair elsewhere"
    ]


def test_keys_that_restart_in_each_shard_give_no_list_but_a_line(tmp_path: Path) -> None:
    """Three runs of img2dataset, which all begin with 000000000: a list of bare keys would lose most of the rest."""
    parts = make_pairs(60).parts([20, 20, 20])
    parts = [replace(part, keys=parts[0].keys) for part in parts]
    folder = clip_retrieval(tmp_path / "set", parts)
    results = scan(
        folder,
        tmp_path / "out",
        judge=lambda number: ShardVerdict(np.zeros(20), np.arange(20) % 3 == number),
    )
    assert not (tmp_path / "out" / "keep").exists()
    (line,) = results.notes
    assert line.startswith("no list of pairs to keep: 40 of 40 kept pairs have the key of")
    assert "--option id=COLUMN" in line
    assert pq.read_table(tmp_path / "out" / "drop.parquet").num_rows == 20


def test_a_key_with_a_line_break_is_not_two_keys(tmp_path: Path, pairs: Pairs) -> None:
    keys = ["a\nb", "", *pairs.keys[2:]]
    folder = clip_retrieval(tmp_path / "set", [replace(pairs, keys=keys)])
    results = scan(folder, tmp_path / "out", step=100)
    assert (tmp_path / "out" / "keep" / "0.txt").read_text().splitlines() == keys[2:]
    assert results.notes[0].startswith("1 key cannot be in a list")


def test_rows_give_no_list_but_a_line(tmp_path: Path, pairs: Pairs) -> None:
    npy_pair(tmp_path / "set", pairs)
    (tmp_path / "set" / "pairs.parquet").unlink()
    results = scan(tmp_path / "set", tmp_path / "out")
    assert results.notes[0].startswith("no list of pairs to keep")
    table = pq.read_table(tmp_path / "out" / "drop.parquet")
    assert table.to_pylist()[1] == {
        "score": 7.0, "group": None, "reason": "because", "shard": "00000", "row": 7,
    }  # fmt: skip


def test_one_bad_shard_of_several_is_counted(tmp_path: Path, pairs: Pairs) -> None:
    folder = clip_retrieval(tmp_path / "set", pairs.parts([20, 20, 20]))
    file = folder / "metadata" / "metadata_1.parquet"
    file.write_bytes(file.read_bytes()[:-5])
    results = scan(folder, tmp_path / "out")
    assert [(r["shard"], r["pairs"], r["dropped"], r["unusable"]) for r in results.shards] == [
        ("0", 20, 3, 0), ("2", 20, 3, 0),
    ]  # fmt: skip
    ((name, reason),) = (one.values() for one in results.failed)
    assert name == "1"
    assert "metadata_1.parquet: broken Parquet file" in reason
    assert results.notes == [
        "1 shard could not be read (20 pairs by the headers): the pairs are in no list of pairs to keep"
    ]
    assert pq.read_table(tmp_path / "out" / "drop.parquet").num_rows == 6
    assert sorted(p.name for p in (tmp_path / "out" / "keep").iterdir()) == ["0.txt", "2.txt"]


def test_pairs_that_were_not_judged_are_counted(tmp_path: Path, pairs: Pairs) -> None:
    score = np.full(60, np.nan)
    score[3:] = 1
    group = np.full(60, -1)
    group[:2] = 4
    verdict = ShardVerdict(score, group == 4, group, ["a", "b"])
    results = scan(datacomp(tmp_path / "set", [pairs]), tmp_path / "out", judge=lambda _: verdict)
    assert results.shards[0]["unusable"] == 3
    table = pq.read_table(tmp_path / "out" / "drop.parquet")
    assert table["group"].to_pylist() == [4, 4]
    assert table["reason"].to_pylist() == ["a", "b"]
    assert np.isnan(table["score"].to_numpy()).all()


def test_own_columns_that_differ_between_shards_get_one_type(tmp_path: Path, pairs: Pairs) -> None:
    folder = clip_retrieval(tmp_path / "set", pairs.parts([20, 20, 20]))
    files = [folder / "metadata" / f"metadata_{n}.parquet" for n in range(3)]

    def put(number: int, **columns: Any) -> None:
        table = pq.read_table(files[number])
        for name, values in columns.items():
            table = table.append_column(name, pa.array(values))
        pq.write_table(table, files[number])

    put(0, score=[1] * 20, width=[1] * 20, boxes=pa.nulls(20), odd=["x"] * 20)
    put(1, width=[1.5] * 20, boxes=[[0.5]] * 20, odd=[[1]] * 20)
    put(2, row=["r"] * 20, own_row=["o"] * 20)
    assert own_schema(open_embedded(folder).shards).names == [
        "image_path", "caption", "url", "score", "width", "boxes", "odd", "row", "own_row",
    ]  # fmt: skip
    scan(folder, tmp_path / "out", step=10)
    table = pq.read_table(tmp_path / "out" / "drop.parquet")
    assert table["score"].to_pylist() == [1, 1, None, None, None, None]
    assert table["width"].to_pylist() == [1.0, 1.0, 1.5, 1.5, None, None]
    assert table["boxes"].to_pylist() == [None, None, [0.5], [0.5], None, None]
    assert table["odd"].to_pylist() == ["x", "x", "[1]", "[1]", None, None]
    assert table["row"].to_pylist() == [None] * 4 + ["r", "r"]
    assert table["own_row"].to_pylist() == [None] * 4 + ["o", "o"]
    assert table["scan_row"].to_pylist() == [0, 10] * 3
    assert table["scan_score"].to_pylist() == [0, 10] * 3


def test_names_of_columns_never_clash() -> None:
    own = pa.schema([pa.field(n, pa.int8()) for n in ("row", "scan_row", "scan_scan_row", "x")])
    names = drop_schema(own).names
    assert names[:4] == own.names
    assert len(names) == len(set(names)) == 9


def test_text_that_is_not_utf8_goes_through(tmp_path: Path, pairs: Pairs) -> None:
    folder = clip_retrieval(tmp_path / "set", [pairs])
    file = folder / "metadata" / "metadata_0.parquet"
    raw = pa.array([b"\xff\xfe"] * 60).view(pa.string())
    table = pq.read_table(file).drop_columns(["image_path"])
    pq.write_table(table.append_column("image_path", raw), file)
    results = scan(folder, tmp_path / "out")
    assert results.notes[0].startswith("51 keys cannot be in a list")
    scores = pq.read_table(tmp_path / "out" / "scores.parquet")
    assert scores["id"].to_pylist() == [r"\udcff"] * 60


@pytest.mark.parametrize("writer", [datacomp, clip_retrieval])
def test_nothing_is_left_of_a_scan_that_fails(tmp_path: Path, pairs: Pairs, writer: Any) -> None:
    def stopped(number: int) -> ShardVerdict:
        if number:
            raise KeyboardInterrupt
        return every(7, 30)

    with pytest.raises(KeyboardInterrupt):
        scan(writer(tmp_path / "set", pairs.parts([30, 30])), tmp_path / "out", judge=stopped)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("verdict", "says"),
    [
        (every(7, 59), "59 scores and 59 verdicts for 60 pairs"),
        (replace(every(7, 60), reason=["x"]), "1 reason for 9 dropped pairs"),
    ],
)
def test_verdicts_of_another_length_are_refused(
    tmp_path: Path, pairs: Pairs, verdict: ShardVerdict, says: str
) -> None:
    folder = datacomp(tmp_path / "set", [pairs])
    (tmp_path / "out").mkdir()
    assert says in refusal(scan, folder, tmp_path / "out", judge=lambda _: verdict)
