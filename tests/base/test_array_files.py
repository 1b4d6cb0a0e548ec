"""Arrays of a cache: a damaged file is as good as none."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mmpoison.base.content_cache import read_arrays


def test_arrays_come_in_order(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.arange(3), b=np.ones(2))
    found = read_arrays(tmp_path / "x.npz", "b", "a")
    assert found is not None
    assert [one.tolist() for one in found] == [[1, 1], [0, 1, 2]]
    assert read_arrays(tmp_path / "x.npz", "c") is None
    assert read_arrays(tmp_path / "none.npz", "a") is None


def _npz(header: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        b"[1, 2]",
        _npz(b"{"),
        _npz(b"{'descr': '<f8', 'fortran_order': False, 'shape': (4000000000000,), }\n"),
        _npz(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"),
    ],
)
def test_a_damaged_file_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    assert read_arrays(tmp_path / "x.npz", "a") is None


def test_one_plain_array_is_no_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(3))
    assert read_arrays(tmp_path / "x.npy", "a") is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.npz")
    assert read_arrays(tmp_path / "x.npz", "a") is None
