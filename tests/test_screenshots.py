"""The screenshots of the documentation: all are made by one command, shown somewhere, and small."""

from __future__ import annotations

import importlib.util
import io
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "screenshots", PROJECT / "docs/tools/screenshots.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def png(pixels: np.ndarray) -> bytes:
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


def test_every_picture_is_made_by_the_command_and_shown(script: ModuleType) -> None:
    there = {file.stem for file in (PROJECT / "docs" / "images").glob("*.png")}
    assert there == set(script.FILES)
    text = "".join(file.read_text() for file in (PROJECT / "docs").rglob("*.md"))
    shown = set(re.findall(r"!\[[^\]]+\]\((?:\.\./)*images/([\w-]+)\.png\)", text))
    assert shown == there


def test_pictures_are_small(script: ModuleType) -> None:
    for file in (PROJECT / "docs" / "images").glob("*.png"):
        assert file.stat().st_size <= script.MOST_BYTES == 150_000, file.name


def test_a_picture_has_few_colours_only_where_it_must(script: ModuleType, tmp_path: Path) -> None:
    ramp = np.zeros((800, 1280, 3), np.uint8)
    ramp[..., 0] = np.arange(1280) // 6
    ramp[..., 1] = np.arange(800)[:, None] // 4
    noisy = ramp.copy()
    noisy[:, :640] += np.random.default_rng(0).integers(0, 4, (800, 640, 3), np.uint8)
    for pixels, mode, most in ((ramp, "RGB", 0), (noisy, "P", 8)):
        script.save_small(png(pixels), tmp_path / "a.png")
        written = Image.open(tmp_path / "a.png")
        assert written.size == (1280, 800)
        assert written.mode == mode
        off = np.abs(np.asarray(written.convert("RGB")).astype(int) - pixels)
        assert off.mean() <= most
        assert (tmp_path / "a.png").stat().st_size <= script.MOST_BYTES


def test_a_picture_that_is_too_large_is_refused(script: ModuleType, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (800, 1280, 3), np.uint8)
    with pytest.raises(SystemExit, match="at most 150,000, take a smaller part"):
        script.save_small(png(noise), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
