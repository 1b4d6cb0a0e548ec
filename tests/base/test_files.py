"""Outputs appear whole or not at all."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from mmpoison.base.files import (
    atomic_file,
    atomic_folder,
    occupied_by_others,
    temporaries_of,
    write_json,
)
from mmpoison.base.untrusted import read_json
from mmpoison.errors import InputError


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


def _die_while_writing(target: Path) -> None:
    with atomic_file(target) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_writer_leaves_is_known_as_such(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "owner.yaml"
    assert temporaries_of(target) == []
    assert not occupied_by_others(target)
    process = multiprocessing.get_context("fork").Process(target=_die_while_writing, args=(target,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (left,) = target.parent.iterdir()
    assert left.read_text() == "half"
    assert temporaries_of(target) == [left]
    assert temporaries_of(target.with_name("owner.yam")) == []
    assert not occupied_by_others(target)
    # what somebody else wrote is none of it
    for name in (
        ".owner.yaml",
        ".owner.yaml.swp",
        "owner.yaml.abcdefgh",
        ".other.yaml.abcdefgh",
        ".owner.yaml.abcdefgh",
    ):
        other = target.with_name(name)
        other.touch()
        assert temporaries_of(target) == [left]
        assert occupied_by_others(target)
        other.unlink()
    with atomic_file(target) as temporary:
        temporary.write_text("whole")
    target.with_name("mine.txt").touch()
    assert not occupied_by_others(target)


def test_a_writer_that_finishes_meanwhile_is_no_stranger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "owner.yaml"
    half = tmp_path / ".owner.yaml.mmpoison-ab12_xyz"
    half.touch()
    look = Path.iterdir

    def look_and_finish(folder: Path) -> list[Path]:
        seen = list(look(folder))
        if half.exists():
            half.replace(target)
        return seen

    monkeypatch.setattr(Path, "iterdir", look_and_finish)
    assert not occupied_by_others(target)
