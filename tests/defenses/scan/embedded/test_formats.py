"""Every format of embeddings: recognised, read to the byte, its options, refusals, and one bad shard of three."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import refusal
from tests.defenses.scan.embedded import conftest as write
from tests.defenses.scan.embedded.conftest import make_pairs

from mmpoison.defenses.scan import EmbeddedSource, ShardError, open_embedded
from mmpoison.defenses.scan.read.formats import npy, parquet_lists

SIZES = (30, 41, 7)
PAIRS = make_pairs(sum(SIZES))
PARTS = PAIRS.parts(SIZES)
WRITERS: dict[str, Callable[[Path], Path]] = {
    "clip-retrieval": lambda folder: write.clip_retrieval(folder, PARTS),
    "datacomp": lambda folder: write.datacomp(folder, PARTS),
    "npy-pair": lambda folder: write.npy_pair(folder, PAIRS),
    "parquet-lists": lambda folder: write.parquet_lists(folder, PARTS),
}


def whole(source: EmbeddedSource, side: int = 0) -> Any:
    return np.concatenate([shard.vectors()[side] for shard in source.shards])


def cut(file: Path, end: int) -> None:
    file.write_bytes(file.read_bytes()[:end])


def rewrite(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(file)), file)


def shorter(table: pa.Table) -> pa.Table:
    return table.slice(0, len(table) - 1)


def cast(name: str, kind: Any) -> Callable[[Path], None]:
    """Give a column another type; of the type null it loses its values."""

    def change(table: pa.Table) -> pa.Table:
        old = table.column(name)
        new = pa.nulls(len(table)) if kind == pa.null() else pa.array(range(len(old)), kind)
        return table.set_column(table.schema.get_field_index(name), name, new)

    return lambda file: rewrite(file, change)


def only_b32(file: Path) -> None:
    np.savez(file, **{name: array for name, array in np.load(file).items() if "b32" in name})


def in_memory(folder: Path) -> str:
    """Copy a folder to a store and return its address there."""
    fsspec.filesystem("memory").put(str(folder), f"/{folder.parent.name}/set", recursive=True)
    return f"memory://{folder.parent.name}/set"


# -- what all formats have in common ---------------------------------------------------------------


@pytest.fixture(params=sorted(WRITERS))
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    return request.param, WRITERS[request.param](tmp_path / "set")


@pytest.mark.parametrize("writer", [write.clip_retrieval, write.parquet_lists])
def test_no_rows_are_refused(tmp_path: Path, writer: Any) -> None:
    folder = writer(tmp_path / "in", [PAIRS.part(slice(0))])
    assert "in: has no embeddings: its files hold 0 pairs" in refusal(open_embedded, folder)


def check_equal(source: EmbeddedSource) -> None:
    """Everything that was written comes back, shard by shard; DataComp's shards have the order of their names."""
    order: list[int] = []
    for shard in source.shards:
        text, image = shard.vectors()
        captions = shard.captions()
        assert captions is not None
        assert len(captions) == shard.rows == len(text) == len(image) == len(shard.ids())
        rows = [PAIRS.captions.index(caption) for caption in captions]
        order += rows
        assert text.dtype == image.dtype == np.float16
        np.testing.assert_array_equal(text, PAIRS.text[rows])
        np.testing.assert_array_equal(image, PAIRS.image[rows])
        of_kind = {"uid": PAIRS.uids, "key": PAIRS.keys}.get(source.id_kind, [])
        numbered = source.format == "npy-pair"
        assert shard.ids() == [str(row) if numbered else of_kind[row] for row in rows]
    assert sorted(order) == list(range(len(PAIRS)))


def test_it_is_recognised_read_mapped_and_pickled(written: tuple[str, Path]) -> None:
    name, folder = written
    source = open_embedded(folder)
    assert (source.format, source.root, source.dimension) == (name, str(folder), write.DIMENSION)
    assert source.pairs == len(PAIRS)
    assert len({shard.name for shard in source.shards}) == len(source.shards)
    check_equal(source)
    text, _ = source.shards[0].vectors()
    base: object = text
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap) == (name != "parquet-lists")
    again = pickle.loads(pickle.dumps(source.shards[0]))
    assert again == source.shards[0]
    np.testing.assert_array_equal(again.vectors()[0], text)


def test_it_is_read_from_a_store(written: tuple[str, Path]) -> None:
    store, place = fsspec.filesystem("memory"), in_memory(written[1])
    source = open_embedded(place)
    assert source.pairs == len(PAIRS)
    check_equal(source)
    assert source.shards[0].table(np.array([1, 0])).num_rows == 2
    # what is gone after it was opened is found when it is read
    file = next(n for n in store.find(place.removeprefix("memory:/")) if n.endswith(".parquet"))
    store.rm(file)
    lines = []
    for shard in source.shards:
        try:
            shard.ids()
        except ShardError as error:
            lines.append(str(error))
    assert lines == [f"memory://{file}: no such file"]


def test_own_columns_come_back_unchanged(written: tuple[str, Path]) -> None:
    name, folder = written
    source = open_embedded(folder)
    rows = np.array([5, 0, 5, 2])
    for shard in source.shards:
        found = shard.table(rows)
        assert found.schema.equals(shard.schema(), check_metadata=False)
        place = {
            "clip-retrieval": f"metadata/metadata_{shard.name}.parquet",
            "npy-pair": "pairs.parquet",
        }.get(name, f"{shard.name}.parquet")
        table = pq.read_table(folder / place)
        own = [n for n in table.schema.names if not n.endswith("_embedding")]
        assert found.to_pydict() == table.select(own).take(pa.array(rows)).to_pydict()
        assert shard.table(np.array([], dtype=np.int64)).num_rows == 0
        with pytest.raises(ShardError, match=r"has no row 10000"):
            shard.table(np.array([10_000]))


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["id", "caption", "image_id", "score", "captoin"])
def test_options_that_do_not_fit(written: tuple[str, Path], option: str) -> None:
    said = refusal(open_embedded, written[1], options={option: "nope"})
    typo = "has no option 'captoin': did you mean 'caption'"
    assert (
        typo if option == "captoin" else f"column 'nope' (option {option}): name one of"
    ) in said


def each_file(folder: Path, pattern: str, change: Callable[[Path], Any]) -> None:
    for file in sorted(folder.glob(pattern)):
        change(file)


CLIP, NPY = "clip-retrieval", "npy-pair"
REFUSED: list[tuple[str, str, Callable[[Path], Any], dict[str, str], str]] = [
    (CLIP, "img_emb", lambda f: np.save(f / "img_emb_01.npy", [1]), {}, "has the same number"),
    (CLIP, "text_emb/*", Path.unlink, {}, "has no text_emb/text_emb_*.npy"),
    (CLIP, "metadata/*", Path.unlink, {"id": "uid"}, "option id='uid': no table"),
    (CLIP, "text_emb/*", lambda f: cut(f, 1), {}, "cannot be read) (none of 3 shards"),
    ("datacomp", "*.npz", only_b32, {"model": "l14"}, "has no array 'l14_txt'; it has b32_img"),
    ("datacomp", "*.parquet", cast("uid", pa.float64()), {}, "'uid' holds double: ids must be"),
    (NPY, "*.parquet", lambda f: shutil.copy(f, f.with_stem("n")), {}, "several Parquet files"),
    (NPY, "text*", lambda f: f.rename(f.with_stem("a")), {}, "no .npy file has a usual name for"),
    (NPY, "", Path.exists, {"text": "c.npy"}, "c.npy: no such file"),
    (NPY, "img*", lambda f: np.save(f, PAIRS.image[:49]), {}, "img_emb.npy: has 49 rows, "),
    (NPY, "text*", lambda f: cut(f, -1), {}, "text_emb.npy: cut short, missing 1 byte"),
]


@pytest.mark.parametrize(("name", "pattern", "change", "options", "says"), REFUSED)
def test_what_is_refused(
    tmp_path: Path, name: str, pattern: str, change: Any, options: dict[str, str], says: str
) -> None:
    folder = WRITERS[name](tmp_path)
    each_file(folder, pattern or "*", change)
    assert says in refusal(open_embedded, folder, format=name, options=options)


def test_a_place_whose_format_is_not_clear(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    line = refusal(open_embedded, tmp_path)
    assert all(name in line for name in (*WRITERS, "img_emb/img_emb_*.npy"))
    for writer in ("clip-retrieval", "datacomp"):
        WRITERS[writer](tmp_path)
    assert "could be clip-retrieval (" in refusal(open_embedded, tmp_path)
    assert open_embedded(tmp_path, format="datacomp").format == "datacomp"


# -- one bad shard ---------------------------------------------------------------------------------


def leads_out(file: Path) -> None:
    file.rename(file.parents[2] / "elsewhere.npy")
    file.symlink_to(file.parents[2] / "elsewhere.npy")


def claims_terabytes(file: Path) -> None:
    head = np.lib.format.magic(1, 0)
    words = b"{'descr': '<f2', 'fortran_order': False, 'shape': (100000000000, 16), }"
    words += b" " * (118 - len(words) - 1) + b"\n"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("l14_txt", "l14_img"):
            archive.writestr(f"{name}.npy", head + len(words).to_bytes(2, "little") + words)


def saved(array: Any) -> Callable[[Path], None]:
    return lambda file: np.save(file, array)


TEXT, IMAGE, TABLE = "text_emb/*", "img_emb/*", "metadata/*"
FAULTS: list[tuple[str, str, Callable[[Path], Any], str]] = [
    (CLIP, TEXT, lambda f: cut(f, -10), "cut short, missing 10 bytes"),
    (CLIP, IMAGE, lambda f: f.write_bytes(b"\x93NUMPY garbage"), "is not a .npy array"),
    (CLIP, TEXT, saved(np.full((41, 16), None)), "holds object: expected float16 or float32"),
    (CLIP, TEXT, saved(np.zeros(128, np.float16)), r"has shape \(128,\)"),
    (CLIP, IMAGE, saved(np.zeros((42, 16), np.float16)), "has 42 rows, .* has 41"),
    (CLIP, TEXT, saved(np.zeros((41, 12), np.float16)), "has 12 numbers per row, .* have 16"),
    (CLIP, TABLE, lambda f: rewrite(f, shorter), "has 40 rows, .*text_emb_1.npy has 41"),
    (CLIP, IMAGE, Path.unlink, "no such file"),
    (CLIP, TABLE, lambda f: cut(f, -20), "broken Parquet file"),
    (CLIP, TEXT, leads_out, "points outside its folder"),
    ("datacomp", "*.npz", lambda f: cut(f, -9), r"broken \.npz file"),
    ("datacomp", "*.npz", claims_terabytes, "cut short, missing 3,200,000,000,000 bytes"),
]


@pytest.mark.parametrize(("name", "pattern", "damage", "says"), FAULTS)
def test_one_bad_shard_does_not_stop_the_others(
    tmp_path: Path, name: str, pattern: str, damage: Callable[[Path], Any], says: str
) -> None:
    folder = WRITERS[name](tmp_path / "set")
    file = sorted(folder.glob(pattern))[1]
    damage(file)
    first, bad, last = open_embedded(folder).shards
    for read in (bad.vectors, bad.ids) if name == CLIP else (bad.vectors,):
        with pytest.raises(ShardError, match=rf"{file.name}.*{says}") as caught:
            read()
        assert "\n" not in str(caught.value)
    for shard in (first, last):
        assert len(shard.vectors()[0]) == len(shard.ids()) == shard.rows > 0


def test_a_shard_that_lacks_a_column(tmp_path: Path) -> None:
    folder = WRITERS["clip-retrieval"](tmp_path)
    file = folder / "metadata" / "metadata_1.parquet"
    rewrite(file, lambda table: table.drop_columns(["image_path"]))
    _, bad, last = open_embedded(folder).shards
    assert "metadata_1.parquet: has no column 'image_path'; it has caption, url" in refusal(bad.ids)
    assert len(last.ids()) == 7


# -- clip-retrieval --------------------------------------------------------------------------------


@pytest.mark.parametrize("padded", [True, False])
def test_partitions_are_in_the_order_of_their_numbers(tmp_path: Path, padded: bool) -> None:
    sizes = [5, 9, 3, 8, 4, 6, 7, 5, 3, 2, 11, 0, 15]
    write.clip_retrieval(tmp_path, PAIRS.parts(sizes))
    for file in [] if padded else sorted(tmp_path.rglob("*_0?.*")):
        head, _, tail = file.name.rpartition("_0")
        file.rename(file.with_name(f"{head}_{tail}"))
    source = open_embedded(tmp_path)
    assert [s.name for s in source.shards] == [f"{n:02d}" if padded else str(n) for n in range(13)]
    assert [s.rows for s in source.shards] == sizes
    assert source.id_kind == "key"
    assert [key for shard in source.shards for key in shard.ids()] == PAIRS.keys
    # one has no pairs
    assert source.shards[11].vectors()[0].shape == (0, 16)


@pytest.mark.parametrize(
    ("name", "tables"), [("clip-retrieval", "metadata/*"), ("npy-pair", "pairs.parquet")]
)
def test_without_a_table_ids_are_rows(tmp_path: Path, name: str, tables: str) -> None:
    folder = WRITERS[name](tmp_path)
    each_file(folder, tables, Path.unlink)
    source = open_embedded(folder)
    shard = source.shards[-1]
    assert (source.id_kind, shard.ids()) == ("row", [str(row) for row in range(shard.rows)])
    assert (shard.captions(), shard.image_ids(), shard.stored_scores()) == (None, None, None)
    assert shard.table(np.array([1])).num_columns == 0


def test_columns_of_the_table_have_a_meaning_by_option_or_name(tmp_path: Path) -> None:
    folder = write.clip_retrieval(tmp_path / "clip", [PAIRS])
    file = folder / "metadata" / "metadata_0.parquet"
    rewrite(file, lambda table: table.append_column("uid", pa.array(PAIRS.uids)))
    source = open_embedded(folder, options={"id": "uid"})
    assert (source.id_kind, source.shards[0].ids()) == ("uid", PAIRS.uids)
    folder = write.npy_pair(tmp_path / "npy", PAIRS)
    images = [n // 5 for n in range(len(PAIRS))]
    pq.write_table(pa.table({"key": PAIRS.keys, "image_id": images}), folder / "pairs.parquet")
    shard = open_embedded(folder).shards[0]
    assert (shard.ids(), shard.image_ids()) == (PAIRS.keys, [str(image) for image in images])


def test_float32_and_columns_first_and_other_byte_orders(tmp_path: Path) -> None:
    # mCLIP's text is not cast to float16
    folder = write.clip_retrieval(tmp_path, [PAIRS])
    wide = PAIRS.text.astype(np.float32)
    for array in (wide, np.asfortranarray(wide), wide.astype(">f4"), wide.astype(np.float64)):
        np.save(folder / "text_emb" / "text_emb_0.npy", array)
        text, image = open_embedded(folder).shards[0].vectors()
        assert [text.dtype.name, image.dtype.name] == ["float32", "float16"]
        np.testing.assert_array_equal(text, wide)


# -- DataComp --------------------------------------------------------------------------------------


def test_l14_is_the_default_and_b32_a_choice(tmp_path: Path) -> None:
    scores: Any = {f"clip_{model}_similarity_score": [0.25] * 78 for model in ("l14", "b32")}
    scores["clip_b32_similarity_score"] = [0.5] * 77 + [None]
    write.datacomp(tmp_path, [PAIRS], **scores)
    for options, step, score in (({}, 1, 0.25), ({"model": "b32"}, -1, 0.5)):
        shard = open_embedded(tmp_path, options=options).shards[0]
        for found, expected in zip(shard.vectors(), (PAIRS.text, PAIRS.image), strict=True):
            np.testing.assert_array_equal(found, expected[:, ::step])
        stored = shard.stored_scores()
        assert stored is not None
        assert stored[:77].tolist() == [score] * 77
        assert np.isnan(stored[77]) == bool(options)
    write.datacomp(tmp_path, [PAIRS], models=("b32",))
    text, _ = open_embedded(tmp_path).shards[0].vectors()
    np.testing.assert_array_equal(text, PAIRS.text[:, ::-1])


@pytest.mark.parametrize("remote", [False, True])
def test_compressed_archives_are_read(tmp_path: Path, remote: bool) -> None:
    write.datacomp(tmp_path, [PAIRS])
    file = next(tmp_path.glob("*.npz"))
    np.savez_compressed(file, **dict(np.load(file).items()))
    text, image = open_embedded(f"local://{tmp_path}" if remote else tmp_path).shards[0].vectors()
    np.testing.assert_array_equal(text, PAIRS.text)
    np.testing.assert_array_equal(image, PAIRS.image)


def test_text_that_a_small_file_repeats_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmpoison.defenses.scan.read.tables.MOST_TEXT", 1000)
    write.datacomp(tmp_path, [PAIRS], text=pa.array(["x" * 100_000] * 78))
    shard = open_embedded(tmp_path).shards[0]
    for read in (shard.captions, lambda: shard.table(np.arange(50))):
        with pytest.raises(ShardError, match="too much text"):
            read()
    assert shard.ids() == PAIRS.uids


# -- two .npy files --------------------------------------------------------------------------------


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
def test_large_arrays_are_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: Any, remote: bool
) -> None:
    monkeypatch.setattr(npy, "ROWS_A_SHARD", 20)
    folder = write.npy_pair(tmp_path / "set", PAIRS)
    np.save(folder / "text_emb.npy", np.array(PAIRS.text, order=order))
    # pieces cross row groups
    pq.write_table(
        pq.read_table(folder / "pairs.parquet"), folder / "pairs.parquet", row_group_size=7
    )
    source = open_embedded(in_memory(folder) if remote else folder)
    sizes = {f"0000{n}": rows for n, rows in enumerate((20, 20, 20, 18))}
    assert {shard.name: shard.rows for shard in source.shards} == sizes
    assert source.pairs == 78
    np.testing.assert_array_equal(whole(source), PAIRS.text)
    np.testing.assert_array_equal(whole(source, 1), PAIRS.image)
    assert [i for s in source.shards for i in s.ids()] == [str(n) for n in range(78)]
    assert [c for s in source.shards for c in s.captions() or ()] == PAIRS.captions
    assert source.shards[1].table(np.array([19, 0]))["id"].to_pylist() == [39, 20]


def test_options_name_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    np.save(folder / "a.npy", PAIRS.text)
    np.save(tmp_path / "b.npy", PAIRS.image)
    pq.write_table(pa.table({"name": PAIRS.keys, "words": PAIRS.captions}), folder / "m.parquet")
    pq.write_table(pa.table({"x": [1]}), folder / "n.parquet")
    options = {
        "text": "a.npy", "image": str(tmp_path / "b.npy"), "metadata": "m.parquet", "id": "name",
        "caption": "words",
    }  # fmt: skip
    (shard,) = open_embedded(folder, format="npy-pair", options=options).shards
    np.testing.assert_array_equal(shard.vectors()[1], PAIRS.image)
    assert (shard.ids(), shard.captions()) == (PAIRS.keys, PAIRS.captions)


# -- lists in Parquet ------------------------------------------------------------------------------

KINDS = [
    pa.list_(pa.float16()), pa.list_(pa.float32()), pa.list_(pa.float64()),
    pa.large_list(pa.float32()), pa.list_(pa.float16(), 16), pa.list_(pa.float32(), 16),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_lists_of_every_kind(tmp_path: Path, kind: Any) -> None:
    """In one file, or in the folder `data`."""
    folder = write.parquet_lists(tmp_path / "data", [PAIRS], kind)
    for place in (tmp_path, folder / "part-0.parquet"):
        source = open_embedded(place)
        text, image = source.shards[0].vectors()
        half = kind.value_type == pa.float16()
        assert text.dtype == image.dtype == (np.float16 if half else np.float32)
        np.testing.assert_array_equal(text, PAIRS.text)
        np.testing.assert_array_equal(image, PAIRS.image)
        assert source.dimension == 16
        assert source.shards[0].table(np.array([1])).to_pylist() == [
            {"key": PAIRS.keys[1], "text": PAIRS.captions[1]}
        ]


def test_row_groups_become_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_lists, "ROWS_A_SHARD", 12)
    write.parquet_lists(tmp_path, PAIRS.parts([73, 5]), group=8)
    source = open_embedded(tmp_path)
    sizes = {f"part-0-0000{n}": rows for n, rows in enumerate((16, 16, 16, 16, 9))}
    assert {shard.name: shard.rows for shard in source.shards} == {**sizes, "part-1": 5}
    assert [k for s in source.shards for k in s.ids()] == PAIRS.keys
    np.testing.assert_array_equal(whole(source), PAIRS.text)
    expected = [PAIRS.keys[31], PAIRS.keys[16]]
    assert source.shards[1].table(np.array([15, 0]))["key"].to_pylist() == expected
    (tmp_path / "part-1.parquet").rename(tmp_path / "part-0-00001.parquet")
    assert "two shards are called 'part-0-00001'" in refusal(open_embedded, tmp_path)


def written_lists(folder: Path, text: list[Any], image: list[Any]) -> EmbeddedSource:
    kind = pa.list_(pa.float32())
    columns = {"text_embedding": pa.array(text, kind), "image_embedding": pa.array(image, kind)}
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return open_embedded(folder)


def test_a_missing_list_or_number_is_nan(tmp_path: Path) -> None:
    source = written_lists(tmp_path, [[1, 2], None, [3, 4]], [[1, 2], [5, None], [3, 4]])
    text, image = source.shards[0].vectors()
    np.testing.assert_array_equal(text, [[1, 2], [np.nan] * 2, [3, 4]])
    np.testing.assert_array_equal(image, [[1, 2], [5, np.nan], [3, 4]])
    assert source.id_kind == "row"
    # also at first
    lists = [None] * 100 + [[1.0, 2.0]]
    source = written_lists(tmp_path, lists, lists)
    assert source.dimension == 2
    assert np.isnan(source.shards[0].vectors()[0]).all(axis=1).sum() == 100
    source = written_lists(tmp_path, [[1, 2], None, [3]], [[1, 2]] * 3)
    said = refusal(source.shards[0].vectors)
    assert "'text_embedding' row 2: has 1 numbers, but the others have 2" in said
    source = written_lists(tmp_path, [[], [1, 2]], [[1, 2]] * 2)
    assert "row 0: has 0 numbers, but the others have 2" in refusal(source.shards[0].vectors)


@pytest.mark.parametrize("nothing", [None, []])
def test_lists_without_a_number_are_refused(tmp_path: Path, nothing: Any) -> None:
    said = refusal(written_lists, tmp_path, [nothing] * 3, [nothing] * 3)
    assert "column 'text_embedding' has no numbers: every list is empty or missing" in said


def test_a_column_that_parquet_calls_null_is_empty(tmp_path: Path) -> None:
    folder = WRITERS["datacomp"](tmp_path)
    for name in ("text", "clip_l14_similarity_score"):
        each_file(folder, "*.parquet", cast(name, pa.null()))
    (first, *_) = open_embedded(folder).shards
    assert first.captions() == [""] * first.rows
    scores = first.stored_scores()
    assert scores is not None
    assert np.isnan(scores).all()


def test_columns_are_named_where_they_cannot_be_guessed(tmp_path: Path) -> None:
    values = {name: pa.array([[1.0, 2.0]]) for name in ("a", "b", "text_x", "text_y")}
    pq.write_table(pa.table({"n": [1], **values}), tmp_path / "a.parquet")
    said = refusal(open_embedded, tmp_path)
    assert "embeddings of texts (text_x, text_y)? Name it" in said
    source = open_embedded(tmp_path, options={"text": "a", "image": "b"})
    assert source.shards[0].schema().names == ["n", "text_x", "text_y"]
    shard = open_embedded(tmp_path, options={"text": "a", "image": "n"}).shards[0]
    assert "column 'n' holds int64: expected lists of numbers" in refusal(shard.vectors)
