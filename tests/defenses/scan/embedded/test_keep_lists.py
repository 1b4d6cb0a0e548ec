"""Lists of pairs to keep: subset files against DataComp's rule, and webdataset reads exactly the pairs on a list."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import refusal, write_tar
from tests.defenses.scan.embedded.conftest import make_pairs, subset

import mmpoison
from mmpoison.defenses.scan.write import keep_lists as module
from mmpoison.defenses.scan.write.keep_lists import UidFile, map_subset, uid_bytes
from mmpoison.errors import InputError

# -- subset files against an independent slow version of datacomp's rule ---------------------------


# few different halves, so that many are equal, and the largest ones
HALVES = st.sampled_from(["0" * 16, "0" * 15 + "1", "f" * 16, "7" + "f" * 15, "8" + "0" * 15])
# shorter ones are numbers too
UIDS = st.builds(lambda a, b: a + b, HALVES, HALVES) | st.text(
    "0123456789abcdefABCDEF", min_size=1, max_size=32
)


def saved(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def subset_bytes(kept: list[str]) -> bytes:
    return saved(np.array(subset(kept), dtype=np.dtype("u8,u8")))


def subset_written(parts: list[list[str]], excluded: list[str], folder: Path) -> bytes:
    with (folder / "uids").open("wb") as stream:
        uids = UidFile(stream)
        for ids in parts:
            uids.add("00000", ids, np.ones(len(ids), bool))
        uids.add("00001", excluded, np.zeros(len(excluded), bool))
        uids.write(folder / "uids", folder / "keep.npy")
    assert not uids.refused
    return (folder / "keep.npy").read_bytes()


@given(
    parts=st.lists(st.lists(UIDS, max_size=30), max_size=8),
    excluded=st.lists(UIDS, max_size=5),
    at_once=st.integers(1, 40),
)
def test_it_equals_the_slow_version(
    parts: list[list[str]],
    excluded: list[str],
    at_once: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    out = {int(uid, 16) for uid in excluded}
    kept = [uid for part in parts for uid in part if int(uid, 16) not in out]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_ROWS", at_once)
        patch.setattr(module, "MOST_LOST", 1)  # a list that lacks many is refused otherwise
        assert subset_written(parts, excluded, tmp_path_factory.mktemp("x")) == subset_bytes(kept)


@pytest.mark.parametrize(
    "wrong",
    ["", "0" * 33, "g" * 32, " " + "0" * 31, "0x" + "0" * 30, "1_" * 16, "٣" * 32],
)
def test_what_is_no_uid(wrong: str) -> None:
    with pytest.raises(ValueError, match=r".*") as caught:
        uid_bytes(["0" * 32, wrong, "f" * 32])
    assert str(caught.value) == wrong
    assert uid_bytes([]).shape == (0,)


def test_a_subset_file_is_mapped(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(subset_bytes(["f" * 32, "0" * 32]))
    found = map_subset(tmp_path / "a.npy")
    assert isinstance(found, np.memmap)
    assert found.tolist() == [(0, 0), (2**64 - 1, 2**64 - 1)]
    np.save(tmp_path / "b.npy", np.empty(0, "u8,u8"))
    assert len(map_subset(tmp_path / "b.npy")) == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (saved(np.zeros(3, np.uint64)), "holds uint64"),
        (saved(np.array([(2, 1), (1, 1)], "u8,u8")), "is not sorted"),
        (saved(np.zeros((2, 2), "u8,u8")), "of shape"),
        (subset_bytes(["f" * 32])[:-1], "cut short, missing 1 byte"),
    ],
)
def test_a_file_that_is_no_subset(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    assert says in refusal(map_subset, tmp_path / "a.npy")


# -- webdataset reads real tars through `keep_filter` ----------------------------------------------


webdataset = pytest.importorskip("webdataset")

PAIRS = make_pairs(30)


def write_facts(file: Path, facts: Iterable[bytes | None]) -> Path:
    members: dict[str, bytes] = {}
    for key, caption, fact in zip(PAIRS.keys, PAIRS.captions, facts, strict=False):
        members |= {f"{key}.txt": caption.encode(), f"{key}.jpg": b"x"}
        members |= {} if fact is None else {f"{key}.json": fact}
    return write_tar(file, members)


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    facts = [json.dumps({"uid": uid, "url": "x"}).encode() for uid in PAIRS.uids]
    return write_facts(tmp_path / "00000.tar", facts)


def save_subset(file: Path, uids: Iterable[str]) -> Path:
    np.save(file, np.array(subset(uids), np.dtype("u8,u8")))
    return file


def read(tar: Path, predicate: Any, decode: bool = False) -> list[str]:
    dataset = webdataset.WebDataset(str(tar), shardshuffle=False)
    if decode:
        dataset = dataset.decode(only=["json"])
    return [sample["__key__"] for sample in dataset.select(predicate)]


@pytest.mark.parametrize("decode", [False, True])
def test_a_subset_file_selects_by_uid(tmp_path: Path, tar: Path, decode: bool) -> None:
    file = save_subset(tmp_path / "keep.npy", PAIRS.uids[::3])
    # the folder of a scan will do
    for place in (file, str(tmp_path)):
        assert read(tar, mmpoison.keep_filter(place), decode) == PAIRS.keys[::3]


def test_it_is_pickled_without_the_list(tmp_path: Path, tar: Path) -> None:
    file = save_subset(
        tmp_path / "keep.npy", [*PAIRS.uids[:4], *(f"{n:032x}" for n in range(9999))]
    )
    keep = mmpoison.keep_filter(file)
    assert read(tar, keep) == PAIRS.keys[:4]
    raw = pickle.dumps(keep)
    assert len(raw) < 1000
    assert read(tar, pickle.loads(raw)) == PAIRS.keys[:4]


def test_broken_json_of_one_sample_does_not_stop_the_reading(tmp_path: Path) -> None:
    facts = [json.dumps({"uid": uid}).encode() for uid in PAIRS.uids]
    facts[0], facts[1], facts[2] = b"{broken", b'{"url": 1}', b'["uid"]'
    tar = write_facts(tmp_path / "a.tar", facts)
    keep = mmpoison.keep_filter(save_subset(tmp_path / "keep.npy", PAIRS.uids[:5]))
    assert read(tar, keep) == PAIRS.keys[3:5]


def test_tars_without_json_are_refused(tmp_path: Path) -> None:
    tar = write_facts(tmp_path / "a.tar", [None] * 30)
    keep = mmpoison.keep_filter(save_subset(tmp_path / "keep.npy", PAIRS.uids))
    with pytest.raises(InputError, match=r"sample '000000000' has no \.json with a uid"):
        read(tar, keep)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x.npy", "no such list"),
        (".", "has no keep.npy and no lists of keys"),
        ("a.npy", "holds float64"),
        ("a.csv", "not a list of pairs to keep"),
    ],
)
def test_what_is_no_list_is_refused_at_once(tmp_path: Path, name: str, says: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "a.csv").write_text("x")
    assert says in refusal(mmpoison.keep_filter, tmp_path / name)
