"""Outputs appear whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from mmpoison.errors import InputError
from mmpoison.files import atomic_folder, read_json, write_json


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    def write() -> None:
        with atomic_folder(tmp_path / "out") as folder:
            (folder / "half").write_text("x")
            raise OSError(number, "No space left on device")

    with pytest.raises(InputError, match="out: the disk is full: make room"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_system_pass_through(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic_folder(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "Permission denied")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_no_utf_8_is_spelled_in_json(tmp_path: Path) -> None:
    value = {"broken": ["caf\udce9.jpg", "Schäferhund"]}
    write_json(tmp_path / "x.json", value)
    raw = (tmp_path / "x.json").read_bytes()
    assert b"caf\\udce9.jpg" in raw
    assert "Schäferhund".encode() in raw
    assert read_json(tmp_path / "x.json") == value
