"""Archives of strangers: what they may not do."""

from __future__ import annotations

import random
import shutil
import stat
import zipfile
from pathlib import Path

import pytest
from tests.datasets.conftest import zipped

from mmpoison.datasets.fetch import unpack
from mmpoison.errors import InputError

MOST = 1_000_000


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    path.write_bytes(zipped(members))
    return path


def tree(folder: Path) -> dict[str, bytes]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


GOOD = {"a/1.jpg": b"one", "a/2.jpg": b"two" * 1000, "b.json": b"{}"}


def test_members_are_written(tmp_path: Path, out: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"c.txt": b"no", **GOOD})
    seen: list[tuple[int, int]] = []
    unpack(path, out, most_bytes=3005, wanted=GOOD.__contains__, progress=lambda *s: seen.append(s))
    assert tree(out) == GOOD
    assert seen == [(3, 3)]
    with pytest.raises(InputError, match=r"x.zip: contains none of the expected files"):
        unpack(path, out, most_bytes=MOST, wanted="z".__eq__)
    with pytest.raises(InputError, match=r"x.zip: over 3,006 bytes .*bomb"):
        unpack(path, out, most_bytes=3006)
    assert tree(out) == GOOD


def test_links_and_secrets(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc")
    unpack(path, out, most_bytes=MOST)
    assert not (out / "link").is_symlink()
    raw = bytearray(make_zip(path, {"a": b"secret"}).read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"broken archive .*encrypted"):
        unpack(path, out, most_bytes=MOST)


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a\\..\\evil", "C:/evil", "a/../../evil"])
def test_members_stay_in_the_folder(tmp_path: Path, out: Path, name: str) -> None:
    path = make_zip(tmp_path / "x", {"good.jpg": b"good", name: b"evil"})
    # ZipFile writes slashes in place of backslashes, an attacker does not
    path.write_bytes(path.read_bytes().replace(name.replace("\\", "/").encode(), name.encode()))
    with pytest.raises(InputError, match="leaves the folder, so it is refused"):
        unpack(path, out, most_bytes=MOST)
    assert list(out.iterdir()) == []


def test_a_member_that_claims_to_be_small(tmp_path: Path, out: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"big.bin": bytes(300_000)})
    raw = path.read_bytes()
    path.write_bytes(raw.replace((300_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(InputError, match="broken archive"):
        unpack(path, out, most_bytes=100)
    assert sum(p.stat().st_size for p in out.iterdir()) <= 10


@pytest.mark.parametrize("seed", range(2))
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
