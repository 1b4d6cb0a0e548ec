"""`verify_pairs`: unreadable images are named, a manifest that lies is caught."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmpoison.attacks import SingleTargetLabel
from mmpoison.datasets import PairDataset, load_pairs, save_pairs
from mmpoison.errors import InputError
from mmpoison.images.verify import verify_pairs


def test_a_clean_set_is_right(squares: PairDataset) -> None:
    found = verify_pairs(squares)
    assert found.problems == []
    assert found.poison is None
    assert found.fingerprint == squares.fingerprint
    assert found.counts == squares.counts()
    assert found.facts()["poisoned"] == "no manifest"
    assert json.loads(json.dumps(found.to_json()))["problems"] == []


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_a_poisoned_set_is_right(squares: PairDataset, mode: Any) -> None:
    poisoned = SingleTargetLabel("sheep2aeroplane", pairs=7, mode=mode).poison(squares)
    for clean in (None, squares):
        found = verify_pairs(poisoned, clean=clean)
        assert found.problems == []
        assert found.poison is not None
        assert found.poison["pairs"] == 7
        assert found.poison["goals"] == ["sheep2aeroplane"]


def test_every_broken_image_is_named(own_square_folder: Path, cut_jpeg: bytes) -> None:
    (own_square_folder / "sofa/03.png").unlink()
    (own_square_folder / "bird/00.png").write_bytes(cut_jpeg)
    found = verify_pairs(load_pairs(own_square_folder))
    assert len(found.problems) == 2
    assert "bird/00.png: broken image" in found.problems[0]
    assert "sofa/03.png: no such image" in found.problems[1]


def test_empty_captions_are_counted(write_lines: Callable[..., Path], square_folder: Path) -> None:
    folder = write_lines({"image": "sofa/00.png", "captions": ["", "  ", "a sofa"]})
    found = verify_pairs(load_pairs(folder, images=square_folder))
    assert found.problems == ["2 captions are empty"]


@pytest.fixture
def tampered(squares: PairDataset, tmp_path: Path) -> Callable[..., list[str]]:
    """A function that edits the manifest of a poisoned set and says what the check finds."""

    def check(
        change: Callable[[dict[str, Any]], object], mode: Any = "add", clean: bool = False
    ) -> list[str]:
        poisoned = SingleTargetLabel("sheep2aeroplane", pairs=7, mode=mode).poison(squares)
        folder = save_pairs(poisoned, tmp_path / "poisoned")
        value = json.loads((folder / "manifest.json").read_text())
        change(value)
        (folder / "manifest.json").write_text(json.dumps(value))
        try:
            pairs = load_pairs(folder)
        except InputError as error:
            return [str(error)]
        return verify_pairs(pairs, clean=squares if clean else None).problems

    return check


def hide_one(manifest: dict[str, Any]) -> None:
    """Take a pair out of the list and change the counts to fit."""
    del manifest["pairs"][0]
    manifest["counts"]["poisoned_pairs"] -= 1


@pytest.mark.parametrize(("mode", "clean"), [("add", False), ("add", True), ("replace", True)])
def test_a_pair_that_is_not_listed(
    tampered: Callable[..., list[str]], mode: str, clean: bool
) -> None:
    assert tampered(hide_one, mode, clean)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest["counts"].update(training_pairs=10_000),
        lambda manifest: manifest.update(clean_fingerprint="0" * 64),
        lambda manifest: manifest["pairs"][0].update(
            clean_image=manifest["pairs"][0]["poisoned_image"]
        ),
    ],
)
def test_a_manifest_that_lies(tampered: Callable[..., list[str]], change: Any) -> None:
    assert tampered(change)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.update(rate=0.0001),
        lambda manifest: manifest["counts"].update(poisoned_pairs=1),
        lambda manifest: manifest["counts"].update(poisoned_samples=40),
        lambda manifest: manifest["counts"].update(clean_training_pairs=3),
    ],
)
@pytest.mark.parametrize("mode", ["add", "replace"])
def test_its_figures_are_computed_again(
    tampered: Callable[..., list[str]], change: Any, mode: str
) -> None:
    """design.md: `mmpoison data verify` recomputes the manifest, so a wrong figure in it shows."""
    assert tampered(change, mode)


def test_another_clean_set(
    squares: PairDataset, write_lines: Callable[..., Path], tmp_path: Path
) -> None:
    poisoned = SingleTargetLabel("sheep2aeroplane", pairs=7).poison(squares)
    other = load_pairs(write_lines({"image": "x.png", "captions": ["y"]}))
    assert "fingerprint differs" in verify_pairs(poisoned, clean=other).problems[0]


def test_poison_whose_manifest_was_lost(squares: PairDataset, tmp_path: Path) -> None:
    """Beside its clean set, a poisoned set without a manifest does not pass for clean."""
    poisoned = SingleTargetLabel("sheep2aeroplane", pairs=7).poison(squares)
    folder = save_pairs(poisoned, tmp_path / "poisoned")
    (folder / "manifest.json").unlink()
    assert verify_pairs(load_pairs(folder), clean=squares).problems
