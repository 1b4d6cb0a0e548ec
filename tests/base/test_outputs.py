"""Outputs belong to one command at a time, and know which command made them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from mmpoison.base.files import (
    RECORD_FILE,
    atomic_file,
    atomic_folder,
    held_output,
    input_state,
    refuse_address,
    remove_all_dead,
    remove_dead,
    temporaries_of,
)
from mmpoison.errors import AlreadyDone, InputError

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


def test_a_killed_writer_of_a_file_leaves_it_to_the_next(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    child = os.fork()
    if not child:
        with atomic_file(target) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(temporaries_of(target)) == 1
    other = tmp_path / ".x.json.mmpoison-notours"  # seven letters
    other.touch()
    with atomic_file(target) as temporary:
        temporary.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "x.json"]


def test_a_library_that_renames_leaves_nothing_either(tmp_path: Path) -> None:
    """safetensors writes under a name of its own and renames: the file that was locked is gone then."""
    target = tmp_path / "x.safetensors"
    child = os.fork()
    if not child:
        with atomic_file(target, renames=True) as temporary:
            temporary.with_name(".tmpAbC123").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
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

    with pytest.raises(InputError, match="another process wrote it at the same time: its result"):
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
    for name in ("out", "out.training", ".out.convert", ".out.mmpoison-abcdefgh"):
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


@pytest.mark.parametrize("out", ["s3://bucket/scan", Path("s3://bucket/scan"), "hf://datasets/a/b"])
def test_an_address_of_a_store_is_no_folder(out: str | Path) -> None:
    with pytest.raises(InputError, match=r"^(s3|hf):/.*: results are written to a folder"):
        refuse_address(out)


@pytest.mark.parametrize("out", ["scan", "a:b", "/tmp/s3:/x", Path("C:/scan"), "./s3:/x"])
def test_a_folder_is_no_address(out: str | Path) -> None:
    refuse_address(out)
