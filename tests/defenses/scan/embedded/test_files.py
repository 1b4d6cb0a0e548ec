"""Places and files: what is listed, what is refused, and errors in one line."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from mmpoison.defenses.scan.read.files import DataFile, ShardError, list_place
from mmpoison.errors import InputError


@pytest.mark.parametrize("remote", [False, True])
def test_files_are_listed_by_name_without_hidden_ones(tmp_path: Path, remote: bool) -> None:
    for name in ("b.npy", "a.npy", ".c.npy", "x/d.npy", "e.npy/f"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    where = str(tmp_path)
    if remote:
        fsspec.filesystem("memory").put(where, f"/{tmp_path.name}", recursive=True)
        where = f"memory://{tmp_path.name}"
    place = list_place(where)
    assert (place.remote, place.is_file) == (remote, False)
    assert list_place(f"{where}/a.npy").is_file
    assert list(place.files(ending="a.npy")) == ["a.npy"]
    assert list(place.files()) == ["a.npy", "b.npy"]
    assert list(place.files("x")) == ["d.npy"]
    assert place.files("nothing") == {}
    file = place.file("d.npy", "x")
    assert str(file) == f"{where.replace('://', ':///')}/x/d.npy"
    assert (file.name, file.stem, file.size(), file.bytes_between(1, 3)) == ("d.npy", "d", 5, b"23")
    with pytest.raises(ShardError, match=r"/y\.npy: no such file"):
        place.file("y.npy").size()


def test_a_cache_in_front_of_a_store_is_no_local_path(tmp_path: Path) -> None:
    """`filecache` has `file` in its name."""
    fsspec.filesystem("memory").pipe(f"/{tmp_path.name}/a.npy", b"12345")
    for cache in ("filecache", "simplecache"):
        place = list_place(f"{cache}::memory://{tmp_path.name}")
        assert place.remote
        assert place.files()["a.npy"].bytes_between(0, 2) == b"12"
    assert not list_place(f"file://{tmp_path}").remote


def test_a_link_out_of_the_folder_is_refused_and_one_within_is_not(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for name in ("secret", "set/real.npy"):
        (tmp_path / name).write_bytes(b"12")
    (tmp_path / "set" / "out.npy").symlink_to(tmp_path / "secret")
    (tmp_path / "set" / "in.npy").symlink_to("real.npy")
    files = list_place(tmp_path / "set").files()
    assert files["in.npy"].bytes_between(0, 9) == b"12"
    for read in (files["out.npy"].size, files["out.npy"].open):
        with pytest.raises(ShardError, match=r"out\.npy: points outside its folder"):
            read()


def test_a_linked_folder_and_a_loop_of_links(tmp_path: Path) -> None:
    for folder in ("set/real", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.npy").write_bytes(b"12")
    links = {"out": "../elsewhere", "in": "real", "loop": "loop", "a.npy": "a.npy"}
    for name, target in links.items():
        (tmp_path / "set" / name).symlink_to(target)
    place = list_place(tmp_path / "set")
    assert place.files("in")["a.npy"].bytes_between(0, 9) == b"12"
    with pytest.raises(InputError, match="set/out: points outside its folder"):
        place.files("out")
    with pytest.raises(InputError, match="set/loop: "):
        place.files("loop")
    # the loop is one file that cannot be read, and the others can
    with pytest.raises(ShardError, match=r"a\.npy: "):
        place.files()["a.npy"].bytes_between(0, 9)


def test_links_of_the_hub_cache_are_followed(tmp_path: Path) -> None:
    home = tmp_path / "datasets--org--name"
    for folder in ("blobs", "snapshots/1"):
        (home / folder).mkdir(parents=True)
    (home / "blobs" / "f00").write_bytes(b"12")
    (home / "snapshots" / "1" / "a.npy").symlink_to("../../blobs/f00")
    assert list_place(home / "snapshots" / "1").files()["a.npy"].size() == 2


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(ShardError, match="is a named pipe"):
        list_place(tmp_path).files()["a.npy"].open()


def test_messages_are_one_printable_line(tmp_path: Path) -> None:
    with pytest.raises(ShardError) as caught:
        DataFile(str(tmp_path / "a\x1b[31m\n.npy")).size()
    assert str(caught.value).endswith(r"a\x1b[31m\n.npy: no such file")
    with pytest.raises(InputError) as missing:
        list_place("a\x1b[31m\n.npy")
    assert str(missing.value) == r"a\x1b[31m\n.npy: no such folder or file"


def test_a_file_of_a_store_is_shown_alike_in_every_process() -> None:
    """A scan is recognised by it when it resumes."""
    assert repr(DataFile("a/b.npy", object())) == repr(DataFile("a/b.npy", object()))
