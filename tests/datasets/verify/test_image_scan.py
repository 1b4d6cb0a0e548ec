"""One pass over the files: faults are distinguished, and equal pictures have equal hashes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmpoison.datasets.verify import images as scanning
from mmpoison.datasets.verify.images import scan_images
from mmpoison.images import decode

Write = Callable[..., str]


def picture(seed: int = 0, height: int = 60, width: int = 80) -> Image.Image:
    """Smooth shapes, as a perceptual hash expects them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function that saves a picture and gives its name."""

    def save(image: Image.Image | bytes, name: str, kind: str | None = None, **how: object) -> str:
        if isinstance(image, bytes):
            (tmp_path / name).write_bytes(image)
        else:
            image.save(tmp_path / name, kind, **how)
        return name

    return save


def content(kind: str) -> bytes:
    stream = io.BytesIO()
    picture().save(stream, kind)
    return stream.getvalue()


def test_faults_are_told_apart(tmp_path: Path, write: Write, huge_png: bytes) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "out.png").symlink_to("/etc/hostname")
    ids = [
        "missing.png",
        write(content("PNG")[:-40], "cut.png"),
        write(b"", "empty.png"),
        write(b"hello", "text.png"),
        write(huge_png, "bomb.png"),
        "folder.png",
        "out.png",
        write(picture(), "good.png"),
    ]
    found = scan_images(tmp_path, ids)
    faults = {ids[index]: error.fault for index, error in found.faults.items()}
    assert faults == {
        "missing.png": "missing",
        "cut.png": "truncated",
        "empty.png": "no-image",
        "text.png": "no-image",
        "bomb.png": "too-large",
        "folder.png": "no-access",
        "out.png": "no-access",
    }
    assert found.readable.tolist() == [False] * 7 + [True]
    assert found.of_fault("truncated", "missing") == [0, 1]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_file_that_ends_early_is_truncated(
    tmp_path: Path, write: Write, kind: str, share: float
) -> None:
    whole = content(kind)
    write(whole[: int(share * len(whole))], "x.any")
    assert scan_images(tmp_path, ["x.any"]).of_fault("truncated") == [0]


def test_broken_contents_of_the_right_length(tmp_path: Path, write: Write) -> None:
    whole = bytearray(content("PNG"))
    start = whole.index(b"IDAT") + 10
    whole[start : start + 20] = bytes(20)
    write(bytes(whole), "x.png")
    assert scan_images(tmp_path, ["x.png"]).of_fault("broken") == [0]


def test_another_format_than_the_name_says(tmp_path: Path, write: Write) -> None:
    ids = [
        write(picture(), "a.jpg", "PNG"),
        write(picture(), "b.JPEG", "JPEG"),
        write(picture(), "c.png", "JPEG"),
        write(picture(), "d", "PNG"),
        write(picture(), "e.tif", "TIFF"),
        write(picture(), "f.img", "PNG"),
    ]
    found = scan_images(tmp_path, ids)
    assert found.faults == {}
    # a name without a suffix of a picture says nothing
    assert found.wrong_suffix == {0: "PNG", 2: "JPEG"}
    assert found.formats == {"PNG": 3, "JPEG": 2, "TIFF": 1}


def test_equal_pixels_and_equal_bytes(tmp_path: Path, write: Write) -> None:
    ids = [
        write(picture(), "a.png"),
        write(picture(), "b.bmp"),
        write((tmp_path / "a.png").read_bytes(), "c.png"),
        write(picture(1), "d.png"),
        # the same bytes of pixels in another shape
        write(Image.fromarray(np.zeros((6, 4, 3), dtype=np.uint8)), "e.png"),
        write(Image.fromarray(np.zeros((4, 6, 3), dtype=np.uint8)), "f.png"),
    ]
    found = scan_images(tmp_path, ids)
    pixels, files = found.pixel_hash.tolist(), found.file_hash.tolist()
    assert pixels[0] == pixels[1] == pixels[2]
    assert len(set(pixels)) == 4
    assert files[0] == files[2]
    assert len(set(files)) == 5


def test_near_pictures_have_near_hashes(tmp_path: Path, write: Write) -> None:
    ids = [
        write(picture(), "a.png"),
        write(picture(), "b.jpg", quality=60),
        write(picture().resize((40, 30)), "c.png"),
        write(picture(1), "d.png"),
    ]
    hashes = scan_images(tmp_path, ids).perceptual
    assert hashes is not None
    apart = [(int(hashes[0]) ^ int(other)).bit_count() for other in hashes]
    assert max(apart[:3]) <= 4
    assert apart[3] > 12


def test_perceptual_hashes_are_those_of_the_library(tmp_path: Path, write: Write) -> None:
    imagehash = pytest.importorskip("imagehash")
    hashes = scan_images(tmp_path, [write(picture(), "a.png")]).perceptual
    assert hashes is not None
    assert f"{int(hashes[0]):016x}" == str(imagehash.phash(picture()))


def test_without_the_library(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "can_hash_perceptually", lambda: False)
    found = scan_images(tmp_path, [write(picture(), "a.png")])
    assert found.perceptual is None
    assert found.readable.all()


def test_animations_and_turned_photos(tmp_path: Path, write: Write) -> None:
    exif = Image.Exif()
    exif[decode.ORIENTATION] = 6
    upright = Image.Exif()
    upright[decode.ORIENTATION] = 1
    ids = [
        write(picture(), "a.gif", save_all=True, append_images=[picture(1), picture(2)]),
        write(picture(), "b.gif"),
        write(picture(), "c.jpg", exif=exif),
        write(picture(), "d.jpg", exif=upright),
        write(picture(), "e.webp", save_all=True, append_images=[picture(1)]),
        write(picture(), "f.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff"),
    ]
    found = scan_images(tmp_path, ids)
    assert found.faults == {}
    assert found.animated == [0, 4]
    # broken EXIF data do not matter
    assert found.rotated == [2]


def test_sizes_and_progress(tmp_path: Path, write: Write) -> None:
    ids = [write(picture(n, 10 + n, 90), f"{n}.png") for n in range(70)]
    calls: list[tuple[int, int]] = []
    found = scan_images(tmp_path, ids, workers=1, progress=lambda *call: calls.append(call))
    assert (found.smallest, found.largest) == (10, 90)
    assert calls == [(64, 70), (70, 70)]
    assert found.readable.sum() == 70
    none = scan_images(tmp_path, [])
    assert (len(none.readable), none.smallest, none.largest) == (0, 0, 0)
