"""Archives of strangers: what they may not do."""

from __future__ import annotations

import random
import shutil
import stat
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from tests.conftest import write_tar

from mmpoison.datasets.fetch import transfer
from mmpoison.datasets.fetch.transfer import unpack
from mmpoison.errors import InputError
from mmpoison.images.containers import walk_tar

MOST = 1_000_000


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


GOOD = {"a/1.jpg": b"one", "a/2.jpg": b"two" * 1000, "b.json": b"{}"}


def test_members_are_written(tmp_path: Path, out: Path) -> None:
    path = make_zip(tmp_path / "archive.zip", {"a/": b"", **GOOD})
    seen: list[tuple[int, int]] = []
    written = unpack(path, out, most_bytes=MOST, progress=lambda *step: seen.append(step))
    assert written == list(GOOD)
    assert {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*.*")} == GOOD
    assert seen == [(3, 3)]


def test_some_members(tmp_path: Path, out: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {**GOOD, "c.txt": b"no"})
    jpegs = [name for name in GOOD if name.endswith(".jpg")]
    written = unpack(path, out, most_bytes=MOST, wanted=lambda name: name.endswith(".jpg"))
    assert written == jpegs
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.*")) == sorted(jpegs)
    with pytest.raises(InputError, match=r"x.zip: holds none of the expected files"):
        unpack(path, out, most_bytes=MOST, wanted="z".__eq__)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        # on some disks the second would overwrite the first
        ({"a.jpg": b"1", "A.JPG": b"2"}, "member 'a.jpg' comes twice"),
        (GOOD, "member 'b.json' is there already"),
        ({"a": b"file", "a/b": b"under it"}, r"member 'a/b' .* its folder is a file"),
    ],
    ids=["twice", "there", "under a file"],
)
def test_nothing_is_overwritten(
    tmp_path: Path, out: Path, members: dict[str, bytes], message: str
) -> None:
    (out / "b.json").write_bytes(b"years of work")
    with pytest.raises(InputError, match=message):
        unpack(make_zip(tmp_path / "x", members), out, most_bytes=MOST)
    assert (out / "b.json").read_bytes() == b"years of work"


def test_links_and_secrets_in_a_zip(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc")
        archive.writestr("link/passwd", b"evil")
    with pytest.raises(InputError, match="member 'link' is a link or a device"):
        unpack(path, out, most_bytes=MOST)
    raw = bytearray(make_zip(path, {"a": b"secret"}).read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(InputError, match="member 'a' is encrypted"):
        unpack(path, out, most_bytes=MOST)
    assert list(out.iterdir()) == []


EVIL = ["../evil", "a/../../evil", "/tmp/evil", "a\\..\\evil", "C:/evil", "a/b/../../../evil"]


@pytest.mark.parametrize("name", EVIL)
def test_members_stay_in_the_folder(tmp_path: Path, out: Path, name: str) -> None:
    path = make_zip(tmp_path / "x", {"good.jpg": b"good", name: b"evil"})
    # ZipFile writes slashes in place of backslashes, an attacker does not
    path.write_bytes(path.read_bytes().replace(name.replace("\\", "/").encode(), name.encode()))
    with pytest.raises(InputError, match="leaves the folder, it is refused"):
        unpack(path, out, most_bytes=MOST)
    assert list(out.iterdir()) == []
    assert not (tmp_path / "evil").exists()


def test_bombs_are_noticed_before_they_go_off(tmp_path: Path, out: Path) -> None:
    path = make_zip(tmp_path / "x", {f"{n}.bin": bytes(300_000) for n in range(4)})
    with pytest.raises(InputError, match=r"unpacks to more than 1,000,000 bytes .*bomb"):
        unpack(path, out, most_bytes=MOST)
    assert list(out.iterdir()) == []
    assert len(unpack(path, out, most_bytes=1_200_000)) == 4


def test_too_many_members(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "MOST_FILES", 3)
    path = make_zip(tmp_path / "x.zip", {f"{n}": b"" for n in range(4)})
    with pytest.raises(InputError, match="or 3 files"):
        unpack(path, out, most_bytes=MOST)


def test_a_member_that_claims_to_be_small(tmp_path: Path, out: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"big.bin": bytes(300_000)})
    raw = path.read_bytes()
    path.write_bytes(raw.replace((300_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(InputError, match="broken archive"):
        unpack(path, out, most_bytes=100)
    assert sum(p.stat().st_size for p in out.iterdir()) <= 10


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_archives_that_are_cut_off(tmp_path: Path, out: Path, share: float) -> None:
    path = make_zip(tmp_path / "x", {f"{n}.bin": bytes(range(256)) * 40 for n in range(20)})
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(InputError, match=r"broken archive|not a zip file"):
        unpack(path, out, most_bytes=MOST)


def test_archives_that_are_damaged(tmp_path: Path, out: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"a.bin": bytes(range(256)) * 40})
    raw = bytearray(path.read_bytes())
    raw[60] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(InputError, match="broken archive"):
        unpack(path, out, most_bytes=MOST)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", bytes(2000)])
def test_files_that_are_no_archive(tmp_path: Path, out: Path, content: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"not a zip file"):
        unpack(tmp_path / "x.zip", out, most_bytes=MOST)
    with pytest.raises(InputError, match="no such file"):
        unpack(tmp_path / "y.zip", out, most_bytes=MOST)


def test_a_small_disk(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, needed: int, what: str) -> None:
        raise InputError(f"{what} needs {needed}")

    monkeypatch.setattr(transfer, "check_space", full)
    with pytest.raises(InputError, match=r"unpacking x.zip needs 3005"):
        unpack(make_zip(tmp_path / "x.zip", GOOD), out, most_bytes=MOST)
    assert list(out.iterdir()) == []


# -- headers that claim or hold too much -----------------------------------------------------------


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
    "pax, out of reach": header("x", 2**62, b"x"),
    "long name, claimed": header("x", 8 << 30, b"L"),
    "pax, packed": header("x", 64 << 20, b"x") + bytes(64 << 20),
    "long name, packed": header("x", 64 << 20, b"L") + bytes(64 << 20),
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
    assert "is no regular file" in problems[0]


@pytest.mark.parametrize("seed", range(4))
def test_a_broken_archive_is_one_line(tmp_path: Path, out: Path, seed: int) -> None:
    """Bytes of a good archive changed."""
    rng = random.Random(seed)
    names = {"é" * 60: b"one" * 100, "b.txt": rng.randbytes(700)}
    good = make_zip(tmp_path / "good.zip", names).read_bytes()
    path = tmp_path / "x"
    for _ in range(300):
        content = bytearray(good)
        for _ in range(rng.randint(1, 5)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content if rng.random() < 0.8 else content[: rng.randrange(len(content))])
        shutil.rmtree(out)
        out.mkdir()
        message = "one line"
        try:
            unpack(path, out, most_bytes=10 * MOST)
        except InputError as error:
            message = str(error)
        assert len(message.splitlines()) == 1
