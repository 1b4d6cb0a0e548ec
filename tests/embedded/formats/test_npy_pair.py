"""Which files are taken, pieces of one pair of arrays, and ids without a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.embedded.conftest import Pairs, make_pairs, npy_pair

from mmpoison.embedded import open_embedded
from mmpoison.embedded.formats import npy as module
from mmpoison.errors import InputError


@pytest.fixture
def pairs() -> Pairs:
    return make_pairs(50)


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
def test_large_arrays_are_read_in_pieces(
    tmp_path: Path, pairs: Pairs, monkeypatch: pytest.MonkeyPatch, order: str, remote: bool
) -> None:
    monkeypatch.setattr(module, "ROWS_A_SHARD", 20)
    npy_pair(tmp_path, pairs)
    np.save(tmp_path / "text_emb.npy", np.array(pairs.text, order=order))  # type: ignore[call-overload]
    place = str(tmp_path)
    if remote:
        import fsspec

        store = fsspec.filesystem("memory")
        store.put(place, f"/{tmp_path.name}", recursive=True)
        place = f"memory://{tmp_path.name}"
    source = open_embedded(place)
    assert [(s.name, s.rows) for s in source.shards] == [
        ("00000", 20),
        ("00001", 20),
        ("00002", 10),
    ]
    assert source.pairs == 50
    text, image = (
        np.concatenate(v) for v in zip(*(s.vectors() for s in source.shards), strict=True)
    )
    np.testing.assert_array_equal(text, pairs.text)
    np.testing.assert_array_equal(image, pairs.image)
    assert [i for s in source.shards for i in s.ids()] == [str(n) for n in range(50)]
    assert source.shards[1].captions() == pairs.captions[20:40]
    assert source.shards[2].table(np.array([9])).to_pylist() == [
        {"id": 49, "caption": "caption 49"}
    ]


def test_pieces_cross_row_groups(
    tmp_path: Path, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS_A_SHARD", 20)
    npy_pair(tmp_path, pairs)
    file = tmp_path / "pairs.parquet"
    pq.write_table(pq.read_table(file), file, row_group_size=7)
    shards = open_embedded(tmp_path).shards
    assert [c for s in shards for c in s.captions() or ()] == pairs.captions
    assert shards[1].table(np.array([19, 0]))["id"].to_pylist() == [39, 20]


def test_options_name_the_files(tmp_path: Path, pairs: Pairs) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    np.save(folder / "a.npy", pairs.text)
    np.save(tmp_path / "b.npy", pairs.image)
    pq.write_table(pa.table({"name": pairs.keys, "words": pairs.captions}), folder / "m.parquet")
    pq.write_table(pa.table({"x": [1]}), folder / "n.parquet")
    options = {
        "text": "a.npy", "image": str(tmp_path / "b.npy"), "metadata": "m.parquet", "id": "name",
        "caption": "words",
    }  # fmt: skip
    source = open_embedded(folder, format="npy-pair", options=options)
    np.testing.assert_array_equal(source.shards[0].vectors()[1], pairs.image)
    assert (source.shards[0].ids(), source.shards[0].captions()) == (pairs.keys, pairs.captions)
    with pytest.raises(InputError, match="several Parquet files"):
        open_embedded(folder, format="npy-pair", options={**options, "metadata": None})
    with pytest.raises(
        InputError, match=r"no \.npy file has a usual name for the embeddings of text"
    ):
        open_embedded(folder, format="npy-pair")
    with pytest.raises(InputError, match=r"c\.npy: no such file"):
        open_embedded(folder, format="npy-pair", options={**options, "text": "c.npy"})


def test_without_a_table_ids_are_rows(tmp_path: Path, pairs: Pairs) -> None:
    npy_pair(tmp_path, pairs)
    (tmp_path / "pairs.parquet").unlink()
    source = open_embedded(tmp_path)
    assert (source.id_kind, source.shards[0].ids()[-1]) == ("row", "49")


@pytest.mark.parametrize("which", ["img_emb.npy", "pairs.parquet"])
def test_numbers_of_rows_that_differ(tmp_path: Path, pairs: Pairs, which: str) -> None:
    npy_pair(tmp_path, pairs)
    if which == "img_emb.npy":
        np.save(tmp_path / which, pairs.image[:49])
    else:
        pq.write_table(pq.read_table(tmp_path / which).slice(0, 49), tmp_path / which)
    with pytest.raises(InputError, match=rf"{which}: has 49 rows, .*text_emb.npy has 50"):
        open_embedded(tmp_path)


def test_a_truncated_array(tmp_path: Path, pairs: Pairs) -> None:
    npy_pair(tmp_path, pairs)
    file = tmp_path / "text_emb.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"text_emb.npy: cut short, 1 bytes? (is|are) missing"):
        open_embedded(tmp_path)


def test_captions_of_one_image(tmp_path: Path, pairs: Pairs) -> None:
    npy_pair(tmp_path, pairs)
    table = pa.table({"key": pairs.keys, "image_id": [n // 5 for n in range(50)]})
    pq.write_table(table, tmp_path / "pairs.parquet")
    assert open_embedded(tmp_path).shards[0].image_ids() == [str(n // 5) for n in range(50)]
