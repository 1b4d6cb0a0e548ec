"""Tar headers that claim or hold too much."""

from __future__ import annotations

import tarfile
import tracemalloc
from pathlib import Path

import pytest
from tests.conftest import write_tar

from mmpoison.images.containers import walk_tar


def header(name: str, size: int, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def sparse_chain(blocks: int) -> bytes:
    """A file of holes whose map goes on through so many blocks."""
    first = bytearray(header("s", 0, b"S"))
    first[482], first[483:495] = 1, b"00000001000\0"
    first[148:156] = b" " * 8
    first[148:156] = b"%06o\0 " % sum(first)
    return bytes(first) + ((b"00000000000\0" * 42)[:504] + b"\1" + bytes(7)) * blocks


HEADERS = {
    "pax, claimed": header("x", 8 << 30, b"x"),
    "long name, claimed": header("x", 8 << 30, b"L"),
    "pax, packed": header("x", 64 << 20, b"x") + bytes(64 << 20),
    "map of holes": sparse_chain(100_000),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_is_bounded(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(HEADERS[name] + bytes(1024))
    problems: list[str] = []
    tracemalloc.start()
    assert list(walk_tar(path, problems.append)) == []
    assert tracemalloc.get_traced_memory()[1] < 30 << 20
    tracemalloc.stop()
    assert len(problems) == 1
    assert "a header of more than 1 MiB" in problems[0]


def test_a_second_header_is_bounded_too(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.jpg": b"one"})
    content = path.read_bytes()[:1024] + header("x", 8 << 30, b"x") + bytes(1024)
    path.write_bytes(content)
    problems: list[str] = []
    assert [name for name, _ in walk_tar(path, problems.append)] == ["a.jpg"]
    assert "broken after 1 member (a header of more than 1 MiB)" in problems[0]


def test_a_file_of_holes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    content = bytearray(sparse_chain(0)[:482] + b"\0" + sparse_chain(0)[483:] + bytes(1024))
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    path.write_bytes(bytes(content))
    problems: list[str] = []
    assert list(walk_tar(path, problems.append)) == []
    assert "is not a regular file" in problems[0]
