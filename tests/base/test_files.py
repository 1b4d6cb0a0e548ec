"""Outputs appear whole or not at all, belong to one command at a time, and leave no temporaries."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from mmpoison.base import files
from mmpoison.base.files import (
    RECORD_FILE,
    atomic_file,
    atomic_folder,
    held_output,
    input_state,
    occupied_by_others,
    owned_temporary,
    refuse_address,
    remove_all_dead,
    remove_dead,
    remove_own,
    temporaries_of,
    write_json,
)
from mmpoison.base.untrusted import read_json
from mmpoison.errors import AlreadyDone, InputError

# -- Outputs appear whole or not at all.


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    def write() -> None:
        with atomic_folder(tmp_path / "out") as folder:
            (folder / "half").write_text("x")
            raise OSError(number, "No space left on device")

    with pytest.raises(InputError, match=r"out: the disk .*: free some space"):
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


def killed_writer(target: Path, **how: bool) -> None:
    """Let a process die while it writes a file."""
    child = os.fork()
    if not child:
        with atomic_file(target, **how) as temporary:
            half = temporary.with_name(".tmpAbC123") if how else temporary
            half.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def test_what_a_killed_writer_leaves_is_known_as_such(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "owner.yaml"
    assert temporaries_of(target) == []
    assert not occupied_by_others(target)
    killed_writer(target)
    (left,) = target.parent.iterdir()
    assert left.read_text() == "half"
    assert temporaries_of(target) == [left]
    assert temporaries_of(target.with_name("owner.yam")) == []
    assert not occupied_by_others(target)
    # what somebody else wrote is none of it
    names = ".owner.yaml", "owner.yaml.abcdefgh", ".owner.yaml.abcdefgh"
    # the last one ends in seven letters
    for name in (*names, ".other.yaml.mmpoison-abcdefgh", ".owner.yaml.mmpoison-notours"):
        other = target.with_name(name)
        other.touch()
        assert temporaries_of(target) == [left]
        assert occupied_by_others(target)
        other.unlink()
    with atomic_file(target) as temporary:
        temporary.write_text("whole")
    assert [path.name for path in target.parent.iterdir()] == ["owner.yaml"]
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


# -- Outputs belong to one command at a time, and know which command made them.


FORK = multiprocessing.get_context("fork")


def make(target: Path, made_by: dict[str, Any], text: str = "x") -> None:
    with held_output(target, made_by), atomic_folder(target) as folder:
        (folder / "file").write_text(text)


def test_the_same_command_is_done_and_another_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out, {"seed": 1})
    assert {path.name for path in out.iterdir()} == {"file", RECORD_FILE}
    with pytest.raises(AlreadyDone, match="the same command made it"):
        make(out, {"seed": 1}, "y")
    with pytest.raises(InputError, match="is not empty"):
        make(out, {"seed": 2}, "y")
    assert (out / "file").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    # a folder without a record is somebody else's
    (out / RECORD_FILE).unlink()
    with pytest.raises(InputError, match="is not empty"):
        make(out, {"seed": 1})


def test_what_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no"), held_output(tmp_path / "a" / "b" / "out", {}):
        raise InputError("no")
    assert list(tmp_path.iterdir()) == []


def _hold(target: Path, ready: Any, seconds: float) -> None:
    with held_output(target, {"seed": 1}), atomic_folder(target) as folder:
        (folder / "half").write_text("half")
        ready.set()
        time.sleep(seconds)


def _holder(target: Path, seconds: float) -> Any:
    ready = FORK.Event()
    process = FORK.Process(target=_hold, args=(target, ready, seconds))
    process.start()
    assert ready.wait(20)
    return process


def test_a_live_writer_is_left_alone_and_a_dead_ones_leftovers_go(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = _holder(out, 60)
    for made_by in ({"seed": 1}, {"seed": 2}):
        with pytest.raises(InputError, match="another process is writing it"):
            make(out, made_by)
    with pytest.raises(InputError, match="another process is writing it"), atomic_folder(out):
        pass
    assert len(remove_dead(out)) == 2
    remove_all_dead(tmp_path)
    assert len(temporaries_of(out)) == 2
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(temporaries_of(out)) == 2
    make(out, {"seed": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_library_that_renames_leaves_nothing_either(tmp_path: Path) -> None:
    """safetensors writes under a name of its own and renames: the file that was locked is gone then."""
    target = tmp_path / "x.safetensors"
    killed_writer(target, renames=True)
    with atomic_file(target, renames=True) as temporary:
        temporary.with_name(".tmpAbC123").write_text("whole")
        temporary.with_name(".tmpAbC123").rename(temporary)
        assert len(remove_dead(target)) == 1
    assert target.read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_who_comes_second_by_a_hair_says_that_nothing_is_lost(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def write() -> None:
        with atomic_folder(out) as folder:
            (folder / "file").write_text("mine")
            out.mkdir()
            (out / "file").write_text("theirs")

    with pytest.raises(InputError, match="another process wrote it at the same time, so"):
        write()
    assert (out / "file").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_inputs_are_known_by_names_sizes_and_times(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "inner").mkdir(parents=True)
    (data / "inner" / "a").write_text("a")
    first = input_state(data)
    assert input_state(data) == first
    # the output and what is beside it may lie in the input
    out = data / "out"
    for name in ("out", "out.training", ".out.mmpoison-abcdefgh"):
        (data / name).mkdir()
        (data / name / "x").touch()
    assert input_state(data, without=out) == first
    assert input_state(data) != first
    (data / "inner" / "b").touch()
    assert input_state(data, without=out) != first
    (data / "inner" / "b").unlink()
    os.utime(data / "inner" / "a", ns=(1, 1))
    assert input_state(data, without=out) != first
    os.mkfifo(data / "pipe")
    assert input_state(data)  # is not opened


def test_an_address_of_a_store_is_no_folder() -> None:
    for address in ("s3://bucket/scan", Path("s3://bucket/scan"), "hf://datasets/a/b"):
        with pytest.raises(InputError, match=r"^(s3|hf):/.*: results can only be written to"):
            refuse_address(address)
    for folder in ("scan", "a:b", "/tmp/s3:/x", Path("C:/scan"), "./s3:/x"):
        refuse_address(folder)


# -- Temporaries of this process are gone when it ends, at whatever moment it was stopped.


def stop_at(line: int) -> Callable[[], bool]:
    """Raise KeyboardInterrupt at the given line, counted as they run in the module; the result says if it came."""
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename != files.__file__:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    return lambda: seen >= line


@pytest.mark.parametrize("folder", [False, True])
def test_a_signal_at_any_line_leaves_nothing(tmp_path: Path, folder: bool) -> None:
    before = sys.gettrace()
    stops = 0
    try:
        for line in range(1, 200):
            came = stop_at(line)
            try:
                with owned_temporary(tmp_path / "out", folder=folder) as path:
                    (path / "half" if folder else path).write_text("x")
            except KeyboardInterrupt:
                stops += 1
            sys.settrace(before)
            remove_own()
            assert list(tmp_path.iterdir()) == [], line
            if not came():
                break
    finally:
        sys.settrace(before)
    assert came() is False
    assert stops > 10


def test_a_forked_child_leaves_its_parents_alone(tmp_path: Path) -> None:
    with owned_temporary(tmp_path / "out", folder=False) as path:
        child = os.fork()
        if not child:
            remove_own()
            os._exit(0)
        os.waitpid(child, 0)
        assert path.exists()
    assert list(tmp_path.iterdir()) == []
