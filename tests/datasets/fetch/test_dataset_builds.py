"""Whole data sets from a web server: archives, checksums, folders that the loaders read."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.datasets.conftest import zipped
from tests.datasets.published.conftest import coco_name, write_coco, write_regions

from mmpoison.datasets import fetch, load_dataset, load_pairs
from mmpoison.datasets.fetch import (
    PublicFile,
    build_dataset,
    fetch_and_unpack,
    open_cache,
)
from mmpoison.datasets.published import coco, visual_genome
from mmpoison.errors import InputError

Web = Any  # the fixture of conftest.py


PARTS = {
    "captions.zip": zipped({"captions.json": b"{}" * 500, "more/unused.json": b"no"}),
    "images.zip": zipped({f"images/{n}.jpg": bytes(1000) for n in range(5)}),
}


@pytest.fixture(autouse=True)
def cache(fresh_cache: Path) -> Path:
    return fresh_cache / "downloads"


@pytest.fixture
def files(web: Web) -> list[PublicFile]:
    """Two archives: the first without a published checksum."""
    urls = {name: web.add(f"/{name}", content) for name, content in PARTS.items()}
    size, digest = len(PARTS["images.zip"]), hashlib.sha256(PARTS["images.zip"]).hexdigest()
    return [
        PublicFile("captions.zip", (urls["captions.zip"],), 1000, wanted="captions.json".__eq__),
        PublicFile("images.zip", (urls["images.zip"],), size, digest),
    ]


def tree(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


IMAGES = [f"images/{n}.jpg" for n in range(5)]


# -- fetching and unpacking ------------------------------------------------------------------------


def test_archives_become_a_folder(files: list[PublicFile], tmp_path: Path, cache: Path) -> None:
    seen: list[tuple[int, int]] = []
    out = fetch_and_unpack("set", files, tmp_path / "o", progress=lambda *s: seen.append(s))
    assert tree(out) == ["captions.json", "download.json", *IMAGES]
    ledger = json.loads((out / "download.json").read_text())["files"]
    assert ledger["images.zip"]["checksum"] == "published"
    assert ledger["captions.zip"]["checksum"] == "of this download, none is published"
    for name, content in PARTS.items():
        assert ledger[name]["sha256"] == hashlib.sha256(content).hexdigest()
        assert ledger[name]["size"] == len(content)
        assert ledger[name]["url"].endswith(f"/{name}")
    # the archives are gone
    assert tree(cache) == ["set/entry.json"]
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, total in seen if done == total] == [seen[-1][1]]
    # two fetched, two unpacked, and the end
    assert len(seen) == 5


def test_archives_may_be_kept(files: list[PublicFile], tmp_path: Path, cache: Path) -> None:
    fetch_and_unpack("set", files, tmp_path / "a", keep_archives=True)
    assert {"set/captions.zip", "set/images.zip"} <= set(tree(cache))
    before = {p: p.stat().st_mtime_ns for p in cache.rglob("*.zip")}
    fetch_and_unpack("set", files, tmp_path / "b", keep_archives=True)
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("*.zip")} == before
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    first, second = (json.loads((tmp_path / n / "download.json").read_text()) for n in "ab")
    assert first == second


def test_the_same_command_fetches_what_is_missing(
    files: list[PublicFile], web: Web, tmp_path: Path, cache: Path
) -> None:
    last = web.files.pop("/images.zip")
    with pytest.raises(InputError, match=r"404.* or download it yourself to .*/set/images.zip$"):
        fetch_and_unpack("set", files, tmp_path / "o")
    assert not (tmp_path / "o").exists()
    # as the message says; the other is of pooch when it was killed
    (cache / "set" / "images.zip").write_bytes(last)
    (cache / "set" / "class").mkdir()
    (cache / "set" / "class" / "tmpabcd_1x2").touch()
    fetch_and_unpack("set", files, tmp_path / "o")
    assert [path for path, _ in web.requests] == ["/captions.zip", "/images.zip"]
    assert tree(cache) == ["set/entry.json"]


def test_a_published_checksum_is_not_overruled(
    files: list[PublicFile], web: Web, tmp_path: Path
) -> None:
    web.files["/images.zip"] = zipped({f"images/{n}.jpg": b"x" * 1000 for n in range(5)})
    assert len(web.files["/images.zip"]) == files[1].about
    with pytest.raises(InputError, match=r"images.zip: SHA256 hash .* does not match"):
        fetch_and_unpack("set", files, tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_mirrors(files: list[PublicFile], web: Web, tmp_path: Path) -> None:
    bad = web.add("/bad.zip", b"<html>moved</html>")
    mirrored = replace(files[1], urls=(f"{web.url}/gone.zip", bad, *files[1].urls))
    out = fetch_and_unpack("set", [mirrored], tmp_path / "o")
    ledger = json.loads((out / "download.json").read_text())["files"]
    assert ledger["images.zip"]["url"] == files[1].urls[0]
    with pytest.raises(InputError, match=r"gone.zip: 404 Client Error"):
        fetch_and_unpack("set", [replace(mirrored, urls=mirrored.urls[:2])], tmp_path / "p")


def test_no_more_is_taken_than_expected(files: list[PublicFile], tmp_path: Path) -> None:
    for file, most in ((replace(files[1], about=7), 7), (replace(files[0], about=7), 14)):
        with pytest.raises(InputError, match=rf"{file.name}: has .* at most {most} were expected"):
            fetch_and_unpack("set", [file], tmp_path / "o")


def test_a_page_in_place_of_an_archive(web: Web, tmp_path: Path) -> None:
    page = PublicFile("x.zip", (web.add("/x.zip", b"<html>please log in</html>"),), 1000)
    with pytest.raises(InputError, match=r"x.zip: broken archive \(File is not a zip file\)"):
        fetch_and_unpack("set", [page], tmp_path / "o")
    assert not (tmp_path / "o").exists()
    # nor does the page stay
    web.files["/x.zip"] = PARTS["captions.zip"]
    fetch_and_unpack("set", [page], tmp_path / "o")
    assert (tmp_path / "o" / "captions.json").is_file()


def test_a_bomb(web: Web, tmp_path: Path) -> None:
    zeros = zipped({"zeros": bytes(10_000_000)})
    bomb = PublicFile("x.zip", (web.add("/x.zip", zeros),), 10_000)
    with pytest.raises(InputError, match="bomb"):
        fetch_and_unpack("set", [bomb], tmp_path / "o")


def test_an_occupied_folder(files: list[PublicFile], web: Web, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is not empty"):
        fetch_and_unpack("set", files, tmp_path)
    assert web.requests == []


def test_a_small_disk_is_noticed_before_anything_is_fetched(web: Web, tmp_path: Path) -> None:
    huge = PublicFile("x.zip", (f"{web.url}/x.zip",), 10**18)
    with pytest.raises(
        InputError, match=r"the download and what it unpacks to needs 2,000,000,000"
    ):
        fetch_and_unpack("set", [huge], tmp_path / "a" / "b" / "o")
    assert web.requests == []


def test_two_at_a_time(files: list[PublicFile], web: Web, tmp_path: Path, cache: Path) -> None:
    with (
        open_cache("set"),
        pytest.raises(InputError, match=f"process {os.getpid()} on .* is downloading set already"),
    ):
        fetch_and_unpack("set", files, tmp_path / "o")
    assert web.requests == []


# -- what is known ---------------------------------------------------------------------------------


def every_file() -> list[PublicFile]:
    return [file for files in fetch.ARCHIVES.values() for file in files.values()]


@pytest.mark.parametrize("file", every_file(), ids=lambda file: file.name)
def test_addresses_and_checksums_are_well_formed(file: PublicFile) -> None:
    assert file.urls
    for url in file.urls:
        assert url.startswith(("http://", "https://"))
        assert url.endswith(f"/{file.name}")
        # what nothing vouches for must at least come over an encrypted line
        assert file.sha256 or url.startswith("https://")
    assert file.about > 0
    if file.sha256 is not None:
        assert len(bytes.fromhex(file.sha256)) == 32


def test_what_cannot_be_had() -> None:
    with pytest.raises(InputError, match=r"'flickr30k' cannot be made here: .*fill in its form"):
        build_dataset("flickr30k", Path("nowhere"))
    with pytest.raises(
        InputError, match=r"building coco has no option 'yaer': did you mean 'year'"
    ):
        build_dataset("coco", Path("nowhere"), options={"yaer": 2017})
    with pytest.raises(InputError, match="building coco, option images=few: must be a valid bool"):
        build_dataset("coco", Path("nowhere"), options={"images": "few"})
    with pytest.raises(InputError, match="unknown data set 'cocoa': did you mean 'coco'"):
        build_dataset("cocoa", Path("nowhere"))
    assert not Path("nowhere").exists()


# -- COCO and Visual Genome, in small --------------------------------------------------------------


@pytest.fixture
def small_coco(web: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    served: dict[str, bytes] = {}
    for part in ("train", "val"):
        write_coco(tmp_path / "made", {n: [17] for n in range(3)}, part, captions=1)
        photos = {f"{part}2017/{coco_name(2017, part, n)}": b"jpg" for n in range(3)}
        served[f"zips/{part}2017.zip"] = zipped(photos)
    written = (tmp_path / "made/annotations").iterdir()
    files = {f"annotations/{file.name}": file.read_bytes() for file in written}
    more = {"annotations/person_keypoints_val2017.json": b"not wanted"}
    served["annotations/annotations_trainval2017.zip"] = zipped(files | more)
    known = {}
    for path, content in served.items():
        name, size = Path(path).name, len(content)
        url, sha256 = web.add(f"/{path}", content), hashlib.sha256(content).hexdigest()
        known[name] = PublicFile(name, (url,), size, sha256)
    monkeypatch.setattr(coco, "ARCHIVES", {"coco": known})


@pytest.mark.usefixtures("small_coco")
def test_coco_is_fetched(web: Web, tmp_path: Path) -> None:
    out = build_dataset("coco", tmp_path / "coco", options={"year": 2017, "parts": "val"})
    assert tree(out) == [
        "annotations/captions_val2017.json",
        "annotations/instances_val2017.json",
        "download.json",
        *(f"val2017/{coco_name(2017, 'val', n)}" for n in range(3)),
    ]
    assert [path for path, _ in web.requests] == [
        "/annotations/annotations_trainval2017.zip",
        "/zips/val2017.zip",
    ]
    pairs = load_pairs(out)
    assert pairs.counts()["splits"] == {"test": {"images": 3, "pairs": 3}}
    assert pairs.problems == ()


@pytest.mark.usefixtures("small_coco")
def test_coco_without_images(web: Web, tmp_path: Path) -> None:
    out = build_dataset("coco", tmp_path / "coco", options={"year": "2017", "images": False})
    assert len(load_pairs(out)) == 6
    assert len(web.requests) == 1


def test_visual_genome_is_fetched(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {1: "a sheep", 2: "a plane", 3: "grass"}
    phrases = {image: [f"{what} {n}" for n in range(7)] for image, what in said.items()}
    regions = (write_regions(tmp_path, phrases) / "region_descriptions.json").read_bytes()
    served = {
        "region_descriptions.json.zip": {"region_descriptions.json": regions},
        "image_data.json.zip": {
            "image_data.json": json.dumps(
                [{"image_id": 2, "url": "https://x/VG_100K_2/2.jpg"}]
            ).encode()
        },
        "images.zip": {"VG_100K/1.jpg": b"jpg", "VG_100K/3.jpg": b"jpg"},
        "images2.zip": {"VG_100K_2/2.jpg": b"jpg"},
    }

    known = {}
    for name, members in served.items():
        known[name] = PublicFile(name, (web.add(f"/{name}", zipped(members)),), about=2000)
    monkeypatch.setattr(visual_genome, "ARCHIVES", {"visual-genome": known})
    out = build_dataset("visual-genome", tmp_path / "vg")
    assert tree(out) == [
        "VG_100K/1.jpg",
        "VG_100K/3.jpg",
        "VG_100K_2/2.jpg",
        "download.json",
        "image_data.json",
        "region_descriptions.json",
    ]
    pairs = load_dataset("visual-genome-paper", out)
    assert sorted(pairs.images.ids) == ["VG_100K/1.jpg", "VG_100K/3.jpg", "VG_100K_2/2.jpg"]
    assert pairs.counts()["classes"] == {"aeroplane": 1, "sheep": 1}
    assert len(pairs) == 15
    text_alone = build_dataset("visual-genome", tmp_path / "t", options={"images": False})
    assert load_dataset("visual-genome-paper", text_alone).fingerprint == pairs.fingerprint
