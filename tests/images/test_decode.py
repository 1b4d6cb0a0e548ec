"""Reading images: what CLIP sees of a good file, one line for everything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import refusal
from tests.images.test_preparation import noise

from mmpoison.images import read_image, read_image_bytes
from mmpoison.images.decode import decode_images

# -- good files ------------------------------------------------------------------------------------


def test_an_animation_is_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path, "x.gif", 8) == [255, 0, 0]).all()


# -- bad files -------------------------------------------------------------------------------------


def refused(root: Path, name: str) -> str:
    message = refusal(read_image, root, name, 16)
    assert name in message
    return message


def test_files_that_are_not_there_or_cannot_be_opened(
    tmp_path: Path, cut_jpeg: bytes, huge_png: bytes
) -> None:
    (tmp_path / "cut.jpg").write_bytes(cut_jpeg)
    (tmp_path / "bomb.png").write_bytes(huge_png)
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "itself.png").symlink_to("itself.png")
    for name, says in (
        ("a/x.jpg", "a/x.jpg: no such image"),
        ("cut.jpg", "broken image"),
        ("bomb.png", "too many pixels"),
        ("folder.jpg", ""),
        ("itself.png", ""),
        ("x" * 5000 + ".png", ""),
    ):
        assert says in refused(tmp_path, name)


@pytest.mark.parametrize(
    ("link", "name"),
    [
        ("/etc/hostname", "x.png"),
        ("../outside.png", "x.png"),
        ("../root2/x.png", "x.png"),
        ("..", "x.png/outside.png"),
    ],
)
def test_a_link_out_of_the_root_is_refused(tmp_path: Path, link: str, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "root2").mkdir()
    noise(16, 16).save(tmp_path / "outside.png")
    noise(16, 16).save(tmp_path / "root2" / "x.png")
    (root / "x.png").symlink_to(link)
    assert "points outside" in refused(root, name)


# -- many ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(5):
        noise(20, 24, seed=number).save(tmp_path / f"{number}.png")
    return tmp_path


def test_many_in_order_and_the_broken_ones_by_row(folder: Path, cut_jpeg: bytes) -> None:
    (folder / "1.png").write_bytes(cut_jpeg)
    (folder / "2.png").unlink()
    ids = [f"{n}.png" for n in (3, 1, 0, 2, 4)]
    calls: list[tuple[int, int]] = []
    got, broken = decode_images(
        folder, ids, 16, progress=lambda done, total: calls.append((done, total))
    )
    assert {row: error.fault for row, error in broken.items()} == {1: "truncated", 3: "missing"}
    for row in (0, 2, 4):
        np.testing.assert_array_equal(got[row], read_image(folder, ids[row], 16))
    assert calls[-1] == (5, 5)
    assert decode_images(folder, [], 16)[0].shape == (0, 16, 16, 3)


def test_faults_are_told_apart(tmp_path: Path, huge_png: bytes) -> None:
    noise(60, 80).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    start = whole.index(b"IDAT") + 10
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "out.png").symlink_to("/etc/hostname")
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


# -- pictures that are no files --------------------------------------------------------------------


def test_bytes_are_read_as_a_file_is(folder: Path) -> None:
    data = (folder / "0.png").read_bytes()
    assert (read_image_bytes(data, 32) == read_image(folder, "0.png", 32)).all()
