"""Reading images: what CLIP sees of a good file, one line for everything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from tests.images.test_preparation import noise

from mmpoison.images import read_image, read_image_bytes
from mmpoison.images.decode import decode_images


def test_an_animation_is_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path, "x.gif", 8) == [255, 0, 0]).all()


def test_faults_are_told_apart(tmp_path: Path, huge_png: bytes) -> None:
    noise(60, 80).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    start = whole.index(b"IDAT") + 10
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "out.png").symlink_to("/etc/hostname")
    (tmp_path / "itself.png").symlink_to("itself.png")
    for name, content in (
        ("cut.png", whole[:-40]),
        ("zeros.png", whole[:start] + bytes(20) + whole[start + 20 :]),
        ("empty.png", b""),
        ("text.png", b"hello"),
        ("bomb.png", huge_png),
    ):
        (tmp_path / name).write_bytes(content)
    want = {
        "missing.png": "missing",
        "cut.png": "truncated",
        "zeros.png": "broken",
        "empty.png": "no-image",
        "text.png": "no-image",
        "bomb.png": "too-large",
        "folder.png": "no-access",
        "out.png": "no-access",
        "itself.png": "no-access",
        "x" * 5000 + ".png": "no-access",
    }
    ids = ["good.png", *want]
    _, faults = decode_images(tmp_path, ids, 1)
    assert {ids[row]: error.fault for row, error in faults.items()} == want


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_file_that_ends_early_is_truncated(tmp_path: Path, kind: str, share: float) -> None:
    file = tmp_path / "x.any"
    noise(60, 80).save(file, kind)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    assert decode_images(tmp_path, ["x.any"], 1)[1][0].fault == "truncated"


def test_bytes_are_read_as_a_file_is(tmp_path: Path) -> None:
    noise(20, 24).save(tmp_path / "0.png")
    data = (tmp_path / "0.png").read_bytes()
    assert (read_image_bytes(data, 32) == read_image(tmp_path, "0.png", 32)).all()
