"""Images made to fill the memory or to take for ever: each is one named fault, and the others are read."""

from __future__ import annotations

import io
import json
import resource
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmpoison.images import BrokenImage, PixelStore, Preparation, decode, read_image, thumbnail
from mmpoison.images.decode import picture, read_small_jpeg

SIDE = 99_000_000


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes = b"", extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def bmp(width: int, height: int) -> bytes:
    content = bytearray(saved(Image.new("RGB", (8, 8)), "BMP"))
    content[18:26] = struct.pack("<ii", width, height)
    return bytes(content)


def packed_bmp(width: int, height: int, data: bytes) -> bytes:
    header = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0
    ) + bytes(1024)
    return b"BM" + struct.pack("<IHHI", 54 + len(header), 0, 0, 14 + len(header)) + header + data


def tiff(width: int, height: int) -> bytes:
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 9}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def jpeg_of_scans(scans: int) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    content = saved(Image.fromarray(noise), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * scans + content[-2:]


def jpeg_with_exif(tags: bytes) -> bytes:
    content = saved(Image.new("RGB", (64, 48)), "JPEG")
    body = b"Exif\0\0II*\0" + tags
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + content[2:]


def webp_canvas(width: int, height: int) -> bytes:
    frames = [Image.new("RGBA", (8, 8), colour) for colour in ("red", "blue")]
    content = bytearray(saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    place = content.index(b"VP8X") + 12
    content[place : place + 6] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(
        3, "little"
    )
    return bytes(content)


def gif_frame(width: int, height: int) -> bytes:
    content = bytearray(saved(Image.new("P", (8, 8)), "GIF"))
    place = content.rindex(b",") + 5
    content[place : place + 4] = struct.pack("<HH", width, height)
    return bytes(content)


def jpeg_header(width: int, height: int) -> bytes:
    content = bytearray(saved(Image.new("RGB", (8, 8)), "JPEG"))
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(content)


BOMB = zlib.compress(bytes(50_000_000), 9)

HOSTILE: dict[str, tuple[bytes, str]] = {
    # the file of the report: 74 bytes
    "wide.png": (png(SIDE, 1), "side is over the limit of 65,535"),
    "tall.png": (png(1, SIDE), "side is over the limit of 65,535"),
    "wide.bmp": (bmp(SIDE, 1), "side is over the limit of 65,535"),
    "wide.ppm": (b"P6\n99000000 1\n255\n", "side is over the limit of 65,535"),
    "wide.tiff": (tiff(SIDE, 1), "side is over the limit of 65,535"),
    "tall.tiff": (tiff(1, SIDE), "side is over the limit of 65,535"),
    "whole.png": (png(60_000, 60_000), "too many pixels"),
    "whole.bmp": (bmp(60_000, 60_000), "too many pixels"),
    "whole.jpg": (jpeg_header(65_000, 65_000), "too many pixels"),
    "whole.gif": (gif_frame(65_000, 65_000), "too many pixels"),
    "whole.tiff": (tiff(60_000, 60_000), "too many pixels"),
    "over.jpg": (jpeg_header(65_000, 1_600), "over the limit of 100,000,000"),
    "over.gif": (gif_frame(65_000, 1_600), "over the limit of 100,000,000"),
    "canvas.webp": (webp_canvas(12_000, 9_000), "over the limit of 100,000,000"),
    "packed.bmp": (
        packed_bmp(65_535, 1_525, b"\1\0\0\0" * 1_525 + b"\0\1"),
        "over the limit of 4,000,000 for a packed or text BMP: save it as PNG",
    ),
    "text.ppm": (b"P3\n10000 10000\n255\n1 ", "over the limit of 4,000,000 for a packed or text"),
    "comment.ppm": (b"P6\n#" + b"a" * 5_000_000, "a PPM header without end"),
    "digits.ppm": (b"P6\n" + b"9" * 5_000 + b" 1\n255\n", "a PPM header without end"),
    "scans.jpg": (jpeg_of_scans(1_000), "over 100 scans"),
    "profile.png": (png(8, 8, extra=chunk(b"iCCP", b"a\0\0" + BOMB)), "broken image"),
    "text.png": (png(8, 8, extra=chunk(b"zTXt", b"a\0\0" + BOMB)), "broken image"),
    "texts.png": (
        png(8, 8, extra=chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(1 << 20))) * 100),
        "broken image",
    ),
    "cut.png": (png(8, 8)[:40] + struct.pack(">I", 0x7FFFFFFF) + b"IDATabc", "image"),
}

READERS: dict[str, Callable[[Path, str], object]] = {
    "shortest": lambda root, name: read_image(root, name, 32),
    "longest": lambda root, name: read_image(root, name, Preparation(32, "longest")),
    "squash": lambda root, name: read_image(root, name, Preparation(32, "squash")),
    "thumbnail": lambda root, name: thumbnail(root, name, 64),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, (content, _) in HOSTILE.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", HOSTILE)
def test_each_is_one_fault_at_once(folder: Path, name: str, reader: str) -> None:
    begun = time.process_time()
    with pytest.raises(BrokenImage) as error:
        READERS[reader](folder, name)
    assert time.process_time() - begun < 2
    assert HOSTILE[name][1] in str(error.value)
    assert str(error.value).startswith(str(folder / name))
    assert len(str(error.value).splitlines()) == 1


def test_verify_says_each_in_little_memory(folder: Path) -> None:
    """The whole command, in a process that may have half a gigabyte more than its libraries take."""
    Image.new("RGB", (20, 20), "red").save(folder / "good.png")
    names = [*sorted(HOSTILE), "good.png"]
    lines = [{"image": n, "captions": [f"picture {n}"], "split": "train"} for n in names]
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code = (
        "import resource, sys, PIL.Image\n"
        "from mmpoison.cli import main\n"
        "PIL.Image.init()\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "most = pages * resource.getpagesize() + (512 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
        "sys.argv = ['mmpoison', 'data', 'verify', sys.argv[1], '--json']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert sum(found["images"]["broken"].values()) == len(HOSTILE)
    assert found["images"]["readable"] == 1
    for name in HOSTILE:
        assert any(f"/{name}: " in line for line in found["wrong"]["images"])


@pytest.mark.parametrize("size", [(65_535, 1), (1, 65_535), (30_000, 2)])
@pytest.mark.parametrize("reader", READERS)
def test_a_strip_within_the_limit_is_read(
    tmp_path: Path, size: tuple[int, int], reader: str
) -> None:
    Image.new("RGB", size, (10, 20, 30)).save(tmp_path / "x.png")
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    READERS[reader](tmp_path, "x.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begun < 200_000


def test_a_file_of_too_many_bytes_is_not_read(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "x.webp")
    with (tmp_path / "x.webp").open("r+b") as stream:
        stream.truncate(300 << 20)
    with pytest.raises(BrokenImage, match="314,572,800 bytes are over the limit") as error:
        read_image(tmp_path, "x.webp", 8)
    assert error.value.fault == "too-large"


@pytest.mark.parametrize("tag", [282, 283])
def test_broken_exif_data_do_not_stop_a_thumbnail(tmp_path: Path, tag: int) -> None:
    """A fraction below zero, or over zero, which Pillow cannot write again."""
    tags = struct.pack("<IHHHIHHHHIIIii", 8, 2, 274, 3, 1, 6, 0, tag, 10, 1, 38, 0, -1, 0)
    (tmp_path / "x.jpg").write_bytes(jpeg_with_exif(tags))
    with Image.open(io.BytesIO(thumbnail(tmp_path, "x.jpg", 64))) as small:
        assert small.size == (48, 64)  # turned


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_a_thumbnail_is_upright(tmp_path: Path, value: int, mode: str) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = value
    image = Image.new("RGB", (40, 24), "blue")
    image.paste("red", (0, 0, 20, 12))
    image.convert(mode).save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as kept:
        wanted = np.asarray(ImageOps.exif_transpose(kept).convert("RGB"), dtype=int)
    with Image.open(io.BytesIO(thumbnail(tmp_path, "x.png", 40))) as small:
        got = np.asarray(small.convert("RGB"), dtype=int)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).mean() < 8


@pytest.mark.parametrize("error", [MemoryError(), struct.error("x"), KeyError(3), EOFError()])
def test_whatever_a_decoder_raises_is_a_fault_of_one_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from mmpoison.datasets import ImageTable, PairDataset

    names = ["a.png", "b.png", "c.png"]
    for name in names:
        Image.new("RGB", (20 if name != "b.png" else 21, 20)).save(tmp_path / name)
    load = Image.Image.resize

    def failing(self: Image.Image, *args: Any, **options: Any) -> Any:
        if self.width == 21:
            raise error
        return load(self, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", failing)
    images = ImageTable.build(names, [None] * 3, ["train"] * 3, tmp_path)
    pairs = PairDataset.build(images, ["a", "b", "c"], range(3))
    for kept in (1 << 20, 0):
        store = PixelStore.decode(
            pairs, 8, broken="drop", in_memory=kept, cache=tmp_path / "cache", workers=1
        )
        assert list(store.broken) == ["b.png"]
    monkeypatch.undo()
    again = PixelStore.decode(
        pairs, 8, broken="drop", in_memory=0, cache=tmp_path / "cache", workers=1
    )
    # too little memory is no property of the image
    assert list(again.broken) == ([] if isinstance(error, MemoryError) else ["b.png"])


def test_large_pictures_are_decoded_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "LARGE", 100)
    Image.new("RGB", (20, 20)).save(tmp_path / "x.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    now, most = 0, 0

    def read() -> None:
        nonlocal now, most
        with picture(tmp_path, "x.png"):
            now += 1
            most = max(most, now)
            time.sleep(0.01)
            now -= 1

    threads = [threading.Thread(target=read) for _ in range(8)]
    with picture(tmp_path, "small.png"), picture(tmp_path, "small.png"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == 1


def test_a_small_jpeg_is_small_and_a_jpeg() -> None:
    content = saved(Image.new("RGB", (30, 20), "red"), "JPEG")
    assert read_small_jpeg(content, 30).shape == (20, 30, 3)
    with pytest.raises(BrokenImage, match="over the limit"):
        read_small_jpeg(content, 29)
    with pytest.raises(BrokenImage, match="not an image of a known format"):
        read_small_jpeg(saved(Image.new("RGB", (8, 8)), "PNG"), 30)


def test_nothing_but_our_line_is_said(folder: Path) -> None:
    """Also where the filters of warnings are put back by somebody: Pillow warned on the terminal."""
    with warnings.catch_warnings(record=True) as said:
        warnings.resetwarnings()
        for name in ("wide.bmp", "over.gif", "text.png"):
            with pytest.raises(BrokenImage):
                read_image(folder, name, 8)
    assert said == []
