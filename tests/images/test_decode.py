"""Reading images: what CLIP sees of a good file, one line for everything else."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mmpoison.datasets import ImageTable, PairDataset
from mmpoison.errors import InputError
from mmpoison.images import BrokenImage, PixelStore, decode, decode_images, read_image

Pixels = npt.NDArray[np.uint8]


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def refusal(root: Path, name: str, size: int = 16) -> str:
    with pytest.raises(InputError) as error:
        read_image(root, name, size)
    assert len(str(error.value).splitlines()) == 1
    assert name in str(error.value)
    return str(error.value)


# -- good files ------------------------------------------------------------------------------------


def test_an_image_of_the_right_size_is_not_touched(tmp_path: Path) -> None:
    image = noise(32, 32)
    image.save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_image(tmp_path, "x.png", 32), np.asarray(image))


def test_the_middle_is_taken(tmp_path: Path) -> None:
    pixels = np.zeros((10, 30, 3), dtype=np.uint8)
    pixels[:, 10:20] = 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert (read_image(tmp_path, "x.png", 10) == 255).all()


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_every_colour_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    kind = "tiff" if mode in ("CMYK", "I;16") else "png"
    source = (
        Image.fromarray(np.full((20, 24), 999, dtype=np.uint16))
        if mode == "I;16"
        else noise(20, 24).convert(mode)
    )
    source.save(tmp_path / f"x.{kind}")
    assert read_image(tmp_path, f"x.{kind}", 16).shape == (16, 16, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_the_formats_of_photos_are_read(tmp_path: Path, kind: str) -> None:
    noise(20, 24).save(tmp_path / "x.any", kind)
    assert read_image(tmp_path, "x.any", 16).shape == (16, 16, 3)


def test_a_link_inside_the_root_is_followed(tmp_path: Path) -> None:
    noise(16, 16).save(tmp_path / "x.png")
    (tmp_path / "y.png").symlink_to("x.png")
    np.testing.assert_array_equal(
        read_image(tmp_path, "y.png", 16), read_image(tmp_path, "x.png", 16)
    )


def test_an_orientation_in_the_exif_data_is_not_applied(tmp_path: Path) -> None:
    """As in CLIP's own pipeline: a model that was trained so must be fed so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = noise(20, 30)
    image.save(tmp_path / "turned.png", exif=exif)
    image.save(tmp_path / "plain.png")
    np.testing.assert_array_equal(
        read_image(tmp_path, "turned.png", 20), read_image(tmp_path, "plain.png", 20)
    )


def test_an_animation_is_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path, "x.gif", 8) == [255, 0, 0]).all()


def test_a_wrong_suffix_does_not_matter(tmp_path: Path) -> None:
    noise(16, 16).save(tmp_path / "x.jpg", "PNG")
    np.testing.assert_array_equal(read_image(tmp_path, "x.jpg", 16), np.asarray(noise(16, 16)))


# -- bad files -------------------------------------------------------------------------------------


def test_missing(tmp_path: Path) -> None:
    assert refusal(tmp_path, "a/x.jpg").endswith("a/x.jpg: no such image")


def test_truncated(tmp_path: Path, cut_jpeg: bytes) -> None:
    (tmp_path / "x.jpg").write_bytes(cut_jpeg)
    assert "broken image" in refusal(tmp_path, "x.jpg")


@pytest.mark.parametrize(
    "content",
    [b"", b"not an image", b"%PDF-1.4\n", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg/>", bytes(1000)],
)
def test_not_an_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    assert "not an image of a known format" in refusal(tmp_path, "x.jpg")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM"])
def test_a_picture_without_pixels(tmp_path: Path, kind: str) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (7, 7)).save(stream, kind)
    content = bytearray(stream.getvalue())
    where = {"PNG": 16, "BMP": 18, "PPM": 3}[kind]
    content[where : where + 8] = bytes(8) if kind != "PPM" else b"0 0\n255\n"
    if kind == "PNG":
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "x.any").write_bytes(bytes(content))
    with pytest.raises(BrokenImage) as error:
        read_image(tmp_path, "x.any", 8)
    assert error.value.fault in ("broken", "no-image", "truncated")


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").mkdir()
    refusal(tmp_path, "x.jpg")


@pytest.mark.parametrize("link", ["/etc/hostname", "../outside.png", "../root2/x.png"])
def test_a_link_out_of_the_root_is_refused(tmp_path: Path, link: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "root2").mkdir()
    noise(16, 16).save(tmp_path / "outside.png")
    noise(16, 16).save(tmp_path / "root2" / "x.png")
    (root / "x.png").symlink_to(link)
    assert "leads out of" in refusal(root, "x.png")


def test_a_linked_folder_out_of_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    noise(16, 16).save(tmp_path / "x.png")
    (tmp_path / "root" / "sub").symlink_to(tmp_path)
    assert "leads out of" in refusal(tmp_path / "root", "sub/x.png")


def test_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "x.png").symlink_to("x.png")
    refusal(tmp_path, "x.png")


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    refusal(tmp_path, "x" * 5000 + ".png")


def test_a_bomb_is_refused_by_its_header(tmp_path: Path, huge_png: bytes) -> None:
    (tmp_path / "x.png").write_bytes(huge_png)
    assert "too many pixels" in refusal(tmp_path, "x.png")


def test_the_limit_is_ours_not_pillows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_PIXELS", 1000)
    noise(30, 40).save(tmp_path / "x.png")
    noise(20, 50).save(tmp_path / "y.png")
    assert "40 x 30 pixels is over the limit of 1,000" in refusal(tmp_path, "x.png")
    assert read_image(tmp_path, "y.png", 16).shape == (16, 16, 3)


def test_a_long_strip_does_not_become_a_wall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pixel wide and 20,000 high, the shorter side to 64, would be 64 x 1,280,000 pixels."""
    made: list[int] = []
    resize = Image.Image.resize

    def watched(self: Image.Image, size: Any, *rest: Any, **options: Any) -> Image.Image:
        made.append(size[0] * size[1])
        assert made[-1] < 1 << 24, "a picture of 20,000 pixels is blown up"
        return resize(self, size, *rest, **options)

    monkeypatch.setattr(Image.Image, "resize", watched)
    Image.new("RGB", (1, 20_000), (10, 20, 30)).save(tmp_path / "x.png")
    assert (read_image(tmp_path, "x.png", 64) == [10, 20, 30]).all()


def small_files() -> list[bytes]:
    files: list[bytes] = []
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM"):
        buffer = io.BytesIO()
        noise(9, 12).save(buffer, kind)
        files.append(buffer.getvalue())
    return files


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300
)
@given(
    which=st.integers(0, 6),
    edits=st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, 1500) | st.none(),
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_broken_bytes_are_an_image_or_one_line(
    tmp_path: Path, which: int, edits: list[tuple[int, int]], cut: int | None
) -> None:
    content = bytearray(small_files()[which])
    for position, value in edits:
        content[position % min(len(content), 120 if position % 2 else len(content))] = value
    (tmp_path / "x.jpg").write_bytes(bytes(content[:cut]))
    message = "one line"
    try:
        assert read_image(tmp_path, "x.jpg", 8).shape == (8, 8, 3)
    except InputError as error:
        message = str(error)
    assert len(message.splitlines()) == 1


# -- many ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(5):
        noise(20, 24, number).save(tmp_path / f"{number}.png")
    return tmp_path


def test_decode_keeps_the_order(folder: Path) -> None:
    ids = [f"{n}.png" for n in (3, 0, 4)]
    calls: list[tuple[int, int]] = []
    got = decode_images(folder, ids, 16, progress=lambda done, total: calls.append((done, total)))
    assert got.shape == (3, 16, 16, 3)
    for row, name in zip(got, ids, strict=True):
        np.testing.assert_array_equal(row, read_image(folder, name, 16))
    assert calls[-1] == (3, 3)


def test_decode_counts_the_broken_ones(folder: Path, cut_jpeg: bytes) -> None:
    (folder / "1.png").write_bytes(cut_jpeg)
    (folder / "3.png").unlink()
    (folder / "4.png").write_text("x")
    with pytest.raises(InputError) as error:
        decode_images(folder, [f"{n}.png" for n in range(5)], 16)
    assert str(error.value).startswith(f"{folder}/1.png: broken image")
    assert str(error.value).endswith("(and 2 more broken images)")
    with pytest.raises(InputError, match=r"4\.png: not an image of a known format$"):
        decode_images(folder, ["0.png", "4.png"], 16)


def test_decode_nothing(folder: Path) -> None:
    assert decode_images(folder, [], 16).shape == (0, 16, 16, 3)


@pytest.fixture
def table(folder: Path) -> PairDataset:
    images = ImageTable.build([f"{n}.png" for n in range(5)], [None] * 5, ["train"] * 5, folder)
    return PairDataset.build(images, list("abc"), [0, 2, 4])


def test_store_is_addressed_by_the_tables_index(table: PairDataset, folder: Path) -> None:
    store = PixelStore.decode(table, 16, indices=np.array([4, 1], dtype=np.int32))
    assert store.size == 16
    assert list(store.position) == [-1, 1, -1, -1, 0]
    got = store.take(np.array([1, 4, 4], dtype=np.int32))
    for row, number in zip(got, (1, 4, 4), strict=True):
        np.testing.assert_array_equal(row, read_image(folder, f"{number}.png", 16))


def test_store_holds_all_images_unless_told(table: PairDataset) -> None:
    assert list(PixelStore.decode(table, 8).position) == [0, 1, 2, 3, 4]


def test_store_refuses_what_was_not_decoded(table: PairDataset) -> None:
    store = PixelStore.decode(table, 16, indices=np.array([4, 1], dtype=np.int32))
    with pytest.raises(InputError, match="image 2 was not decoded"):
        store.take(np.array([1, 2], dtype=np.int32))
