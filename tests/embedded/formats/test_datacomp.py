"""Which model's arrays are read, the stored score, and broken archives."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.embedded.conftest import Pairs, datacomp, make_pairs

from mmpoison.embedded import ShardError, open_embedded
from mmpoison.errors import InputError


@pytest.fixture
def pairs() -> Pairs:
    return make_pairs(50)


def test_l14_is_the_default_and_b32_a_choice(tmp_path: Path, pairs: Pairs) -> None:
    datacomp(tmp_path, [pairs])
    text, image = open_embedded(tmp_path).shards[0].vectors()
    np.testing.assert_array_equal(text, pairs.text)
    np.testing.assert_array_equal(image, pairs.image)
    text, _ = open_embedded(tmp_path, options={"model": "b32"}).shards[0].vectors()
    np.testing.assert_array_equal(text, pairs.text[:, ::-1])
    with pytest.raises(InputError, match="must be 'l14' or 'b32'"):
        open_embedded(tmp_path, options={"model": "h14"})


def test_b32_is_taken_where_there_is_nothing_else(tmp_path: Path, pairs: Pairs) -> None:
    datacomp(tmp_path, [pairs], models=("b32",))
    text, _ = open_embedded(tmp_path).shards[0].vectors()
    np.testing.assert_array_equal(text, pairs.text[:, ::-1])
    with pytest.raises(InputError, match="has no array 'l14_txt', it has b32_img, b32_txt"):
        open_embedded(tmp_path, options={"model": "l14"})


@pytest.mark.parametrize("model", ["b32", "l14"])
def test_the_stored_score_is_that_of_the_model(tmp_path: Path, pairs: Pairs, model: str) -> None:
    datacomp(
        tmp_path,
        [pairs],
        clip_b32_similarity_score=[0.25] * 50,
        clip_l14_similarity_score=[0.5] * 49 + [None],
    )
    scores = open_embedded(tmp_path, options={"model": model}).shards[0].stored_scores()
    assert scores is not None
    expected = np.full(50, 0.25 if model == "b32" else 0.5, np.float32)
    expected[49] = 0.25 if model == "b32" else np.nan
    np.testing.assert_array_equal(scores, expected)


def test_only_the_arrays_of_the_model_are_read(tmp_path: Path, pairs: Pairs) -> None:
    """The other members may be broken."""
    datacomp(tmp_path, [pairs])
    file = next(tmp_path.glob("*.npz"))
    raw = bytearray(file.read_bytes())
    start = raw.index(pairs.image[:, ::-1].tobytes()[:64])
    raw[start : start + 64] = bytes(64)
    file.write_bytes(raw)
    shard = open_embedded(tmp_path).shards[0]
    np.testing.assert_array_equal(shard.vectors()[1], pairs.image)


@pytest.mark.parametrize("remote", [False, True])
def test_compressed_archives_are_read(tmp_path: Path, pairs: Pairs, remote: bool) -> None:
    datacomp(tmp_path, [pairs])
    file = next(tmp_path.glob("*.npz"))
    np.savez_compressed(file, **dict(np.load(file).items()))
    place = f"local://{tmp_path}" if remote else str(tmp_path)
    text, image = open_embedded(place).shards[0].vectors()
    np.testing.assert_array_equal(text, pairs.text)
    np.testing.assert_array_equal(image, pairs.image)


def test_a_compressed_archive_that_lies_about_its_size(tmp_path: Path, pairs: Pairs) -> None:
    datacomp(tmp_path, [pairs, make_pairs(9, 1)])
    file = min(tmp_path.glob("*.npz"))
    head = np.lib.format.magic(1, 0)
    words = b"{'descr': '<f2', 'fortran_order': False, 'shape': (100000000000, 16), }"
    words += b" " * (118 - len(words) - 1) + b"\n"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("l14_txt", "l14_img"):
            archive.writestr(f"{name}.npy", head + len(words).to_bytes(2, "little") + words)
    first, second = open_embedded(tmp_path).shards
    with pytest.raises(ShardError, match=r"array 'l14_txt': cut short, 3,200,000,000,000 bytes"):
        first.vectors()
    assert len(second.vectors()[0]) == len(second.ids())


def test_uids_are_ids_and_all_columns_go_through(tmp_path: Path, pairs: Pairs) -> None:
    datacomp(tmp_path, [pairs])
    source = open_embedded(tmp_path)
    assert (source.id_kind, source.shards[0].ids()) == ("uid", pairs.uids)
    row = source.shards[0].table(np.array([3])).to_pylist()[0]
    assert row["uid"] == pairs.uids[3]
    assert row["face_bboxes"] == [[0.1, 0.2, 0.3, 0.4]]
    assert list(row) == [
        "uid", "url", "text", "original_width", "original_height", "clip_b32_similarity_score",
        "clip_l14_similarity_score", "face_bboxes", "sha256",
    ]  # fmt: skip


def test_images_can_be_told_by_their_hash(tmp_path: Path, pairs: Pairs) -> None:
    datacomp(tmp_path, [pairs], sha256=["x", "y"] * 25)
    shard = open_embedded(tmp_path, options={"image_id": "sha256"}).shards[0]
    assert shard.image_ids() == ["x", "y"] * 25
    assert open_embedded(tmp_path).shards[0].image_ids() is None


def test_without_uid_it_is_refused(tmp_path: Path, pairs: Pairs) -> None:
    datacomp(tmp_path, [pairs])
    file = next(tmp_path.glob("*.parquet"))
    pq.write_table(pq.read_table(file).drop_columns(["uid"]), file)
    with pytest.raises(InputError, match=r"has no column 'uid' \(option id\): name one of url"):
        open_embedded(tmp_path)
    assert open_embedded(tmp_path, options={"id": "url"}).id_kind == "key"


@pytest.mark.parametrize("keep", [0, 40, 2000])
def test_a_broken_archive_is_one_line(tmp_path: Path, pairs: Pairs, keep: int) -> None:
    datacomp(tmp_path, [pairs, make_pairs(9, 1)])
    file = min(tmp_path.glob("*.npz"))
    file.write_bytes(file.read_bytes()[:keep])
    first, second = open_embedded(tmp_path).shards
    assert first.rows == 0
    with pytest.raises(ShardError, match=r"\.npz: broken \.npz file"):
        first.vectors()
    assert len(second.vectors()[0]) == second.rows > 0


def test_an_archive_without_its_table(tmp_path: Path, pairs: Pairs) -> None:
    datacomp(tmp_path, [pairs, make_pairs(9, 1)])
    min(tmp_path.glob("*.parquet")).unlink()
    first, _ = open_embedded(tmp_path).shards
    with pytest.raises(ShardError, match=r"\.parquet: no such file"):
        first.vectors()


def test_text_that_a_small_file_repeats_is_refused(
    tmp_path: Path, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmpoison.embedded.own_columns.MOST_TEXT", 1000)
    datacomp(tmp_path, [pairs], text=pa.array(["x" * 100_000] * 50))
    shard = open_embedded(tmp_path).shards[0]
    with pytest.raises(ShardError, match="unpacks to too much text"):
        shard.captions()
    with pytest.raises(ShardError, match="unpacks to too much text"):
        shard.table(np.arange(50))
    assert shard.ids() == pairs.uids
