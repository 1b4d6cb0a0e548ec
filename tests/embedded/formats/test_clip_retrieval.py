"""Partitions by number, padded or not, and what is wrong with one of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.embedded.conftest import Pairs, clip_retrieval, make_pairs

from mmpoison.embedded import ShardError, open_embedded
from mmpoison.errors import InputError

SIZES = [5, 9, 3, 8, 4, 6, 7, 5, 3, 2, 11, 4]


@pytest.fixture
def pairs() -> Pairs:
    return make_pairs(sum(SIZES))


def all_keys(folder: Path) -> list[str]:
    return [key for shard in open_embedded(folder).shards for key in shard.ids()]


def test_partitions_are_padded_beyond_ten(tmp_path: Path, pairs: Pairs) -> None:
    clip_retrieval(tmp_path, pairs.parts(SIZES))
    assert (tmp_path / "img_emb" / "img_emb_00.npy").exists()
    source = open_embedded(tmp_path)
    assert [s.name for s in source.shards] == [f"{n:02d}" for n in range(12)]
    assert [s.rows for s in source.shards] == SIZES
    assert source.id_kind == "key"
    assert all_keys(tmp_path) == pairs.keys


def test_numbers_without_padding_are_in_numeric_order(tmp_path: Path, pairs: Pairs) -> None:
    clip_retrieval(tmp_path, pairs.parts(SIZES))
    for file in sorted(tmp_path.rglob("*_0?.*")):
        head, _, tail = file.name.rpartition("_0")
        file.rename(file.with_name(f"{head}_{tail}"))
    assert (tmp_path / "metadata" / "metadata_3.parquet").exists()
    assert all_keys(tmp_path) == pairs.keys


def test_two_files_of_one_number_are_refused(tmp_path: Path, pairs: Pairs) -> None:
    clip_retrieval(tmp_path, pairs.parts(SIZES))
    np.save(tmp_path / "img_emb" / "img_emb_1.npy", pairs.image)
    with pytest.raises(InputError, match=r"img_emb_\d+.npy has the same number"):
        open_embedded(tmp_path)


def test_without_text_it_is_refused(tmp_path: Path, pairs: Pairs) -> None:
    clip_retrieval(tmp_path, [pairs])
    for file in (tmp_path / "text_emb").iterdir():
        file.unlink()
    with pytest.raises(InputError, match=r"has no text_emb/text_emb_\*\.npy"):
        open_embedded(tmp_path)


def test_without_metadata_ids_are_rows(tmp_path: Path, pairs: Pairs) -> None:
    clip_retrieval(tmp_path, pairs.parts(SIZES))
    for file in (tmp_path / "metadata").iterdir():
        file.unlink()
    source = open_embedded(tmp_path)
    assert source.id_kind == "row"
    shard = source.shards[2]
    assert shard.ids() == ["0", "1", "2"]
    assert (shard.captions(), shard.image_ids(), shard.stored_scores()) == (None, None, None)
    assert shard.table(np.array([1])).num_columns == 0
    with pytest.raises(InputError, match="option id='uid': no table"):
        open_embedded(tmp_path, options={"id": "uid"})


def test_a_column_of_the_json_can_be_the_id(tmp_path: Path, pairs: Pairs) -> None:
    clip_retrieval(tmp_path, [pairs])
    file = tmp_path / "metadata" / "metadata_0.parquet"
    pq.write_table(pq.read_table(file).append_column("uid", pa.array(pairs.uids)), file)
    source = open_embedded(tmp_path, options={"id": "uid"})
    assert (source.id_kind, source.shards[0].ids()) == ("uid", pairs.uids)


BAD = {
    "a truncated npy": (
        lambda f: cut(f / "text_emb" / "text_emb_03.npy", 10),
        r"text_emb_03.npy: cut short, 10 bytes are missing",
    ),
    "no npy at all": (
        lambda f: (f / "img_emb" / "img_emb_03.npy").write_bytes(b"\x93NUMPY garbage"),
        r"img_emb_03.npy: is no .npy array",
    ),
    "an empty npy": (
        lambda f: (f / "text_emb" / "text_emb_03.npy").write_bytes(b""),
        r"text_emb_03.npy: is no .npy array",
    ),
    "objects": (
        lambda f: np.save(f / "text_emb" / "text_emb_03.npy", np.full((8, 16), None)),
        r"text_emb_03.npy: holds object: float16 or float32",
    ),
    "whole numbers": (
        lambda f: np.save(f / "text_emb" / "text_emb_03.npy", np.zeros((8, 16), np.int32)),
        r"text_emb_03.npy: holds int32",
    ),
    "one dimension": (
        lambda f: np.save(f / "text_emb" / "text_emb_03.npy", np.zeros(128, np.float16)),
        r"text_emb_03.npy: has the shape \(128,\)",
    ),
    "more rows of images": (
        lambda f: np.save(f / "img_emb" / "img_emb_03.npy", np.zeros((9, 16), np.float16)),
        r"img_emb_03.npy: has 9 rows, .*text_emb_03.npy has 8",
    ),
    "fewer rows of metadata": (
        lambda f: rewrite(f, lambda t: t.slice(0, 7)),
        r"metadata_03.parquet: has 7 rows, .*text_emb_03.npy has 8",
    ),
    "another dimension": (
        lambda f: each_side(f, np.zeros((8, 12), np.float16)),
        r"text_emb_03.npy: has 12 numbers a row, the others have 16",
    ),
    "a missing file": (
        lambda f: (f / "img_emb" / "img_emb_03.npy").unlink(),
        r"img_emb_03.npy: no such file",
    ),
    "a broken parquet": (
        lambda f: cut(f / "metadata" / "metadata_03.parquet", 20),
        r"metadata_03.parquet: broken Parquet file",
    ),
    "a link out of the folder": (
        lambda f: link(f / "text_emb" / "text_emb_03.npy", f.parent / "elsewhere.npy"),
        r"text_emb_03.npy: leads out of its folder",
    ),
}


def each_side(folder: Path, array: np.ndarray) -> None:
    for side in ("img", "text"):
        np.save(folder / f"{side}_emb" / f"{side}_emb_03.npy", array)


def cut(file: Path, count: int) -> None:
    file.write_bytes(file.read_bytes()[:-count])


def link(file: Path, target: Path) -> None:
    file.rename(target)
    file.symlink_to(target)


def rewrite(folder: Path, change: object) -> None:
    file = folder / "metadata" / "metadata_03.parquet"
    table = pq.read_table(file)
    pq.write_table(change(table), file)  # type: ignore[operator]


@pytest.mark.parametrize("fault", BAD)
def test_one_bad_partition_does_not_stop_the_others(
    fault: str, tmp_path: Path, pairs: Pairs
) -> None:
    folder = clip_retrieval(tmp_path / "set", pairs.parts(SIZES))
    damage, expected = BAD[fault]
    damage(folder)  # type: ignore[no-untyped-call]
    good = 0
    for shard in open_embedded(folder).shards:
        if shard.name == "03":
            with pytest.raises(ShardError, match=expected) as caught:
                shard.vectors()
            assert "\n" not in str(caught.value)
            with pytest.raises(ShardError, match=expected):
                shard.ids()
        else:
            assert len(shard.vectors()[0]) == len(shard.ids()) == SIZES[int(shard.name)]
            good += 1
    assert good == 11


def test_a_partition_that_lacks_a_column(tmp_path: Path, pairs: Pairs) -> None:
    folder = clip_retrieval(tmp_path, pairs.parts(SIZES))
    rewrite(folder, lambda table: table.drop_columns(["image_path"]))
    shards = open_embedded(folder).shards
    with pytest.raises(
        ShardError, match=r"metadata_03.parquet: has no column 'image_path', it has caption, url"
    ):
        shards[3].ids()
    assert len(shards[4].ids()) == SIZES[4]


def test_nothing_that_can_be_read(tmp_path: Path, pairs: Pairs) -> None:
    folder = clip_retrieval(tmp_path, pairs.parts(SIZES))
    for file in (folder / "text_emb").iterdir():
        file.write_bytes(b"x")
    with pytest.raises(InputError, match=r"text_emb_00.npy: is no .* \(none of 12 shards"):
        open_embedded(folder)


def test_a_partition_without_pairs(tmp_path: Path, pairs: Pairs) -> None:
    folder = clip_retrieval(tmp_path, pairs.parts([sum(SIZES), 0]))
    shard = open_embedded(folder).shards[1]
    assert shard.vectors()[0].shape == (0, 16)
    assert shard.ids() == []


def test_float32_and_columns_first_and_other_byte_orders(tmp_path: Path, pairs: Pairs) -> None:
    # mCLIP's text is not cast to float16
    folder = clip_retrieval(tmp_path, [pairs])
    wide = pairs.text.astype(np.float32)
    for array in (wide, np.asfortranarray(wide), wide.astype(">f4"), wide.astype(np.float64)):
        np.save(folder / "text_emb" / "text_emb_0.npy", array)
        text, image = open_embedded(folder).shards[0].vectors()
        assert [text.dtype.name, image.dtype.name] == ["float32", "float16"]
        np.testing.assert_array_equal(text, wide)
