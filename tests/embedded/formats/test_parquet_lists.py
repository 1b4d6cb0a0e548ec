"""Types of lists, row groups as shards, and rows that are missing or of another length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.embedded.conftest import Pairs, make_pairs, parquet_lists

from mmpoison.embedded import ShardError, open_embedded
from mmpoison.embedded.formats import parquet_lists as module
from mmpoison.errors import InputError

KINDS = [
    pa.list_(pa.float16()), pa.list_(pa.float32()), pa.list_(pa.float64()),
    pa.large_list(pa.float32()), pa.list_(pa.float16(), 16), pa.list_(pa.float32(), 16),
]  # fmt: skip


@pytest.fixture
def pairs() -> Pairs:
    return make_pairs(50)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_lists_of_every_kind(tmp_path: Path, pairs: Pairs, kind: Any) -> None:
    parquet_lists(tmp_path, [pairs], kind)
    source = open_embedded(tmp_path)
    text, image = source.shards[0].vectors()
    half = kind.value_type == pa.float16()
    assert text.dtype == image.dtype == (np.float16 if half else np.float32)
    np.testing.assert_array_equal(text, pairs.text)
    np.testing.assert_array_equal(image, pairs.image)
    assert source.dimension == 16
    assert source.shards[0].table(np.array([1])).to_pylist() == [
        {"key": pairs.keys[1], "text": pairs.captions[1]}
    ]


def test_row_groups_become_shards(
    tmp_path: Path, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS_A_SHARD", 12)
    parquet_lists(tmp_path, pairs.parts([45, 5]), group=8)
    source = open_embedded(tmp_path)
    assert [(s.name, s.rows) for s in source.shards] == [
        ("part-0-00000", 16), ("part-0-00001", 16), ("part-0-00002", 13), ("part-1", 5),
    ]  # fmt: skip
    assert [k for s in source.shards for k in s.ids()] == pairs.keys
    np.testing.assert_array_equal(
        np.concatenate([s.vectors()[0] for s in source.shards]), pairs.text
    )
    assert source.shards[1].table(np.array([15, 0]))["key"].to_pylist() == [
        pairs.keys[31],
        pairs.keys[16],
    ]


def test_one_file_and_the_folder_data(tmp_path: Path, pairs: Pairs) -> None:
    parquet_lists(tmp_path / "data", [pairs])
    assert open_embedded(tmp_path).pairs == 50
    assert open_embedded(tmp_path / "data" / "part-0.parquet").pairs == 50


def write(folder: Path, text: list[Any], image: list[Any], **more: Any) -> Path:
    kind = pa.list_(pa.float32())
    table = pa.table(
        {"text_embedding": pa.array(text, kind), "image_embedding": pa.array(image, kind), **more}
    )
    pq.write_table(table, folder / "a.parquet")
    return folder


def test_a_missing_list_or_number_is_nan(tmp_path: Path) -> None:
    write(tmp_path, [[1, 2], None, [3, 4]], [[1, 2], [5, None], [3, 4]])
    text, image = open_embedded(tmp_path).shards[0].vectors()
    np.testing.assert_array_equal(text, [[1, 2], [np.nan] * 2, [3, 4]])
    np.testing.assert_array_equal(image, [[1, 2], [5, np.nan], [3, 4]])
    assert open_embedded(tmp_path).id_kind == "row"


def test_lists_may_be_missing_at_first(tmp_path: Path) -> None:
    lists = [None] * 100 + [[1.0, 2.0]]
    write(tmp_path, lists, lists)
    source = open_embedded(tmp_path)
    assert source.dimension == 2
    assert np.isnan(source.shards[0].vectors()[0]).all(axis=1).sum() == 100


def test_two_shards_of_one_name_are_refused(
    tmp_path: Path, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS_A_SHARD", 12)
    parquet_lists(tmp_path, pairs.parts([45, 5]), group=8)
    (tmp_path / "part-1.parquet").rename(tmp_path / "part-0-00001.parquet")
    with pytest.raises(InputError, match="two shards are called 'part-0-00001'"):
        open_embedded(tmp_path)


def test_a_list_of_another_length(tmp_path: Path) -> None:
    write(tmp_path, [[1, 2], None, [3]], [[1, 2]] * 3)
    with pytest.raises(
        ShardError, match=r"'text_embedding' row 2: has 1 numbers, the others have 2"
    ):
        open_embedded(tmp_path).shards[0].vectors()


def test_columns_are_named_where_they_cannot_be_guessed(tmp_path: Path) -> None:
    kind = pa.list_(pa.float32())
    values = {name: pa.array([[1.0, 2.0]], kind) for name in ("a", "b", "text_x", "text_y")}
    pq.write_table(pa.table(values), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"embeddings of texts \(text_x, text_y\)\? Name it"):
        open_embedded(tmp_path)
    source = open_embedded(tmp_path, options={"text": "a", "image": "b"})
    assert source.shards[0].schema().names == ["text_x", "text_y"]
    with pytest.raises(InputError, match=r"has no column 'c' \(option text\)"):
        open_embedded(tmp_path, options={"text": "c", "image": "b"})
    pq.write_table(pa.table({"n": [1], **values}), tmp_path / "a.parquet")
    with pytest.raises(ShardError, match="column 'n' holds int64: lists of numbers are needed"):
        open_embedded(tmp_path, options={"text": "a", "image": "n"}).shards[0].vectors()


def test_a_broken_file_does_not_stop_the_others(tmp_path: Path, pairs: Pairs) -> None:
    parquet_lists(tmp_path, pairs.parts([20, 20, 10]))
    file = tmp_path / "part-1.parquet"
    raw = bytearray(file.read_bytes())
    file.write_bytes(raw[:-9])
    shards = open_embedded(tmp_path).shards
    assert [s.rows for s in shards] == [20, 0, 10]
    with pytest.raises(ShardError, match=r"part-1.parquet: broken Parquet file"):
        shards[1].vectors()
    assert shards[2].ids() == pairs.keys[40:]
