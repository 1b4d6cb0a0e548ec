"""What all formats have in common: they are recognised, read to the byte, and a bad shard does not stop the others."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.embedded import conftest as write
from tests.embedded.conftest import Pairs, make_pairs

from mmpoison.embedded import EMBEDDED_FORMATS, EmbeddedSource, ShardError, open_embedded
from mmpoison.errors import InputError

SIZES = (30, 41, 7)
Writer = Callable[[Path, Pairs], Path]
WRITERS: dict[str, Writer] = {
    "clip-retrieval": lambda folder, pairs: write.clip_retrieval(folder, pairs.parts(SIZES)),
    "datacomp": lambda folder, pairs: write.datacomp(folder, pairs.parts(SIZES)),
    "npy-pair": write.npy_pair,
    "parquet-lists": lambda folder, pairs: write.parquet_lists(folder, pairs.parts(SIZES)),
}


@pytest.fixture(params=sorted(WRITERS))
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Pairs]:
    pairs = make_pairs(sum(SIZES))
    return request.param, WRITERS[request.param](tmp_path / "set", pairs), pairs


def check_equal(source: EmbeddedSource, pairs: Pairs) -> None:
    """Everything that was written comes back, shard by shard; DataComp's shards have the order of their names."""
    order = []
    for shard in source.shards:
        text, image = shard.vectors()
        captions = shard.captions()
        assert captions is not None
        assert len(captions) == shard.rows == len(text) == len(image) == len(shard.ids())
        rows = np.array([pairs.captions.index(caption) for caption in captions])
        order += rows.tolist()
        assert text.dtype == image.dtype == np.float16
        np.testing.assert_array_equal(text, pairs.text[rows])
        np.testing.assert_array_equal(image, pairs.image[rows])
        expected = {
            "uid": [pairs.uids[r] for r in rows],
            "key": [pairs.keys[r] for r in rows],
        }.get(source.id_kind)
        if source.format == "npy-pair":
            expected = [str(r) for r in rows]
        assert shard.ids() == expected
    assert sorted(order) == list(range(len(pairs)))


def test_every_format_is_tested() -> None:
    assert sorted(WRITERS) == list(EMBEDDED_FORMATS)


def test_it_is_recognised_and_read(written: tuple[str, Path, Pairs]) -> None:
    name, folder, pairs = written
    source = open_embedded(folder)
    assert (source.format, source.root, source.dimension) == (name, str(folder), write.DIMENSION)
    assert source.pairs == len(pairs)
    assert len({shard.name for shard in source.shards}) == len(source.shards)
    check_equal(source, pairs)


def test_it_is_read_from_a_store(written: tuple[str, Path, Pairs]) -> None:
    _, folder, pairs = written
    store = fsspec.filesystem("memory")
    store.put(str(folder), f"/{folder.parent.name}/set", recursive=True)
    try:
        source = open_embedded(f"memory://{folder.parent.name}/set")
        assert source.pairs == len(pairs)
        check_equal(source, pairs)
        assert source.shards[0].table(np.array([1, 0])).num_rows == 2
        # what is gone after it was opened is found when it is read
        file = next(n for n in store.find(f"/{folder.parent.name}/set") if n.endswith(".parquet"))
        store.rm(file)
        lines = []
        for shard in source.shards:
            try:
                shard.ids()
            except ShardError as error:
                lines.append(str(error))
        assert lines == [f"memory://{file}: no such file"]
    finally:
        store.rm(f"/{folder.parent.name}", recursive=True)


def test_arrays_of_this_machine_are_mapped(written: tuple[str, Path, Pairs]) -> None:
    name, folder, _ = written
    text, _ = open_embedded(folder).shards[0].vectors()
    base: object = text
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap) == (name != "parquet-lists")


def test_a_shard_can_be_pickled(written: tuple[str, Path, Pairs]) -> None:
    shard = open_embedded(written[1]).shards[0]
    again = pickle.loads(pickle.dumps(shard))
    assert again == shard
    np.testing.assert_array_equal(again.vectors()[0], shard.vectors()[0])


def test_own_columns_come_back_unchanged(written: tuple[str, Path, Pairs]) -> None:
    name, folder, _ = written
    source = open_embedded(folder)
    rows = np.array([5, 0, 5, 2])
    for shard in source.shards:
        found = shard.table(rows)
        assert found.schema.equals(shard.schema(), check_metadata=False)
        place = {
            "clip-retrieval": f"metadata/metadata_{shard.name}.parquet",
            "npy-pair": "pairs.parquet",
        }.get(name, f"{shard.name}.parquet")
        whole = pq.read_table(folder / place)
        own = [n for n in whole.schema.names if not n.endswith("_embedding")]
        assert found.to_pydict() == whole.select(own).take(pa.array(rows)).to_pydict()
        assert shard.table(np.array([], dtype=np.int64)).num_rows == 0
        with pytest.raises(ShardError, match=r"has no row 10000"):
            shard.table(np.array([10_000]))


def test_an_unknown_option_is_refused(written: tuple[str, Path, Pairs]) -> None:
    with pytest.raises(InputError, match=r"has no option 'captoin': did you mean 'caption'"):
        open_embedded(written[1], options={"captoin": "x"})


@pytest.mark.parametrize("option", ["id", "caption", "image_id", "score"])
def test_a_column_that_is_not_there_is_named(written: tuple[str, Path, Pairs], option: str) -> None:
    with pytest.raises(InputError, match=rf"has no column 'nope' \(option {option}\): name one of"):
        open_embedded(written[1], options={option: "nope"})


def test_a_folder_of_something_else_lists_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError) as caught:
        open_embedded(tmp_path)
    line = str(caught.value)
    assert all(name in line for name in WRITERS)
    assert "img_emb/img_emb_*.npy" in line
    assert "\n" not in line


def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder or file"):
        open_embedded(tmp_path / "x")
    with pytest.raises(InputError, match="no such folder or file"):
        open_embedded("memory://nothing/there")
    with pytest.raises(InputError, match="cannot be opened"):
        open_embedded("nosuchstore://bucket/x")


def test_two_formats_in_one_place_are_ambiguous(tmp_path: Path) -> None:
    pairs = make_pairs(40)
    write.clip_retrieval(tmp_path, [pairs])
    write.datacomp(tmp_path, [pairs])
    with pytest.raises(InputError, match=r"could be clip-retrieval \(.*\) or datacomp"):
        open_embedded(tmp_path)
    assert open_embedded(tmp_path, format="datacomp").format == "datacomp"
