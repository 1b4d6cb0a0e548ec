"""Small files that unpack to gigabytes are refused by their headers, before memory is taken for them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.defenses.scan.embedded.conftest import make_pairs, npy_pair

from mmpoison.base import untrusted
from mmpoison.datasets.catalogue import DATASETS
from mmpoison.defenses.scan import ShardError, open_embedded
from mmpoison.defenses.scan.read import tables as columns_module
from mmpoison.defenses.scan.read.files import DataFile
from mmpoison.defenses.scan.read.formats.npy import ArrayFile
from mmpoison.defenses.scan.write.keep_lists import map_subset
from mmpoison.errors import InputError

ROWS = 50


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte in place of 256, so that the bombs are small."""
    monkeypatch.setattr(untrusted, "MAX_UNPACKED", 1 << 20)
    monkeypatch.setattr(columns_module, "MOST_TEXT", 1 << 20)


def equal_lists(rows: int, numbers: int, kind: Any) -> pa.Array:
    offsets = pa.array(np.arange(rows + 1) * numbers, pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(np.zeros(rows * numbers), kind))


@pytest.mark.parametrize("group", [10_000, 500])
def test_lists_that_are_all_equal(tmp_path: Path, group: int) -> None:
    column = equal_lists(10_000, 64, pa.float32())
    table = pa.table({"text": column, "image": column})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=group)
    with pytest.raises(InputError, match=r"a\.parquet: [0-9,]+ bytes unpack to .* bomb\?\)"):
        open_embedded(tmp_path, format="parquet-lists")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_array_of_zeros(tmp_path: Path, method: int) -> None:
    np.save(tmp_path / "a.npy", np.zeros((100_000, 64), np.float16))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
        archive.write(tmp_path / "a.npy", "a.npy")
    array = ArrayFile(DataFile(str(tmp_path / "a.npz")), "a")
    for read in (array.header, array.read):
        with pytest.raises(ShardError, match=r"array 'a': [0-9,]+ bytes unpack to .*bomb"):
            read()


VALUE = b"x" * 100_000
REPEATED = pa.DictionaryArray.from_arrays(pa.array([0] * ROWS, pa.int32()), pa.array([VALUE]))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([np.zeros(1_000_000, np.int8)] + [None] * (ROWS - 1), pa.list_(pa.int8())),
        REPEATED,
        pa.StructArray.from_arrays([REPEATED], ["bytes"]),
        pa.array([[("key", VALUE)]] * ROWS, pa.map_(pa.string(), pa.binary())),
    ],
    ids=["list<int8>", "binary", "struct", "map"],
)
def test_an_own_column_of_one_value(tmp_path: Path, column: pa.Array) -> None:
    folder = npy_pair(tmp_path, make_pairs(ROWS))
    table = pq.read_table(folder / "pairs.parquet").append_column("own", column)
    pq.write_table(table, folder / "pairs.parquet")
    assert (folder / "pairs.parquet").stat().st_size < 20_000
    (shard,) = open_embedded(folder).shards
    assert len(shard.ids()) == ROWS
    with pytest.raises(ShardError, match="bomb"):
        shard.table(np.arange(ROWS))
    if not pa.types.is_list(column.type):
        # one value, as often as an honest file has it
        assert shard.table(np.array([1]))["own"].to_pylist() == column.slice(1, 1).to_pylist()


def test_an_own_column_of_a_table_of_pairs(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    own = pa.array([np.zeros(1_000_000, np.int8)], pa.list_(pa.int8()))
    table = pa.table({"image": ["a.jpg"], "caption": ["a dog"], "own": own})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: [0-9,]+ bytes unpack to"):
        DATASETS["parquet"].load(tmp_path, own_columns=True)


def header_of(shape: tuple[int, ...], kind: str) -> bytes:
    words = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return np.lib.format.magic(1, 0) + len(words).to_bytes(2, "little") + words


def test_a_shape_of_400_digits_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(header_of((10**300, 16), "'<f2'"))
    (tmp_path / "b.npy").write_bytes(header_of((10**300,), "[('f0', '<u8'), ('f1', '<u8')]"))
    for read in (
        ArrayFile(DataFile(str(tmp_path / "a.npy"))).header,
        lambda: map_subset(tmp_path / "b.npy"),
    ):
        with pytest.raises(InputError, match="shape") as caught:
            read()
        assert len(str(caught.value)) < 250 + len(str(tmp_path))


@pytest.mark.filterwarnings("error")
def test_numbers_that_float32_cannot_hold_are_not_finite(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[1e308, 1.0]]))
    found = ArrayFile(DataFile(str(tmp_path / "a.npy"))).read()
    assert np.isinf(found).tolist() == [[True, False]]
