"""Subset files against an independent slow version of DataComp's rule, sorted in place."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import refusal

from mmpoison.embedded import keep_lists as module
from mmpoison.embedded.keep_lists import UidFile, map_subset, uid_bytes

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
    """The rule by which DataComp's resharder finds a uid, with Python's numbers."""
    pairs = {divmod(int(uid, 16), 2**64) for uid in kept}
    return saved(np.array(sorted(pairs), dtype=np.dtype("u8,u8")))


def written(parts: list[list[str]], excluded: list[str], folder: Path) -> bytes:
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
        assert written(parts, excluded, tmp_path_factory.mktemp("x")) == subset_bytes(kept)


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
        (saved(np.array([None])), "holds object"),
        (subset_bytes(["f" * 32])[:-1], "cut short, 1 bytes are missing"),
        (b"x", "is no .npy array"),
    ],
)
def test_a_file_that_is_no_subset(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    assert says in refusal(map_subset, tmp_path / "a.npy")
