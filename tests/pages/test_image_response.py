"""Images as a page gets them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from mmpoison.images import BrokenImage, thumbnail
from mmpoison.pages import image_response


def test_pixels_and_nothing_else(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (400, 100), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (0, 0, 200, 100))
    (tmp_path / "a.png").parent.mkdir(exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    exif[0x010E] = "<script>secret</script>"
    picture.save(tmp_path / "a.png", exif=exif)
    answer = image_response(tmp_path, "a.png", 80)
    assert answer.media_type == "image/jpeg"
    assert b"secret" not in bytes(answer.body)
    shown = Image.open(io.BytesIO(bytes(answer.body)))
    assert shown.size == (20, 80)
    # what was transparent is white
    top, bottom = shown.getpixel((10, 10)), shown.getpixel((10, 70))
    assert {tuple(c > 200 for c in p) for p in (top, bottom)} == {  # type: ignore[union-attr]
        (False, False, True),
        (True, True, True),
    }


@pytest.mark.parametrize(
    "name", ["gone.png", "../secret.png", "page.html", "drawing.svg", "cut.jpg"]
)
def test_what_is_no_image_of_the_set(tmp_path: Path, cut_jpeg: bytes, name: str) -> None:
    root = tmp_path / "set"
    root.mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "secret.png")
    (root / "page.html").write_text("<script>alert(1)</script>")
    (root / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'></svg>")
    (root / "cut.jpg").write_bytes(cut_jpeg)
    answer = image_response(root, name, 64)
    assert answer.status_code == 404
    assert str(tmp_path) not in bytes(answer.body).decode()
    with pytest.raises(BrokenImage):
        thumbnail(root, name, 64)
