"""`verify_pairs`: unreadable images are named, a manifest that lies is caught."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import SHARED, write_parquet_set, write_tar_set

from mmpoison.attacks import MultipleTargetLabels, SingleTargetImage, SingleTargetLabel
from mmpoison.datasets import PairDataset, load_pairs, save_pairs, verify
from mmpoison.datasets.verify import load_to_verify, verify_pairs
from mmpoison.errors import InputError
from mmpoison.pairs.folder import ManifestMisfit, restore_clean


def test_a_clean_set_is_right(squares: PairDataset) -> None:
    found = verify_pairs(squares)
    assert found.problems == []
    assert found.poison is None
    assert found.fingerprint == squares.fingerprint
    assert found.counts == squares.counts()
    assert found.facts()["poisoned"] == "no manifest"
    assert json.loads(json.dumps(found.to_json()))["problems"] == []


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_poison_on_a_test_image_is_named_and_no_leak(squares: PairDataset, mode: Any) -> None:
    """Attack I trains on an image of the gallery; the manifest says so, and nothing else is in both splits."""
    attack = SingleTargetImage("sheep2aeroplane", pairs=7, mode=mode)
    poisoned = attack.poison(squares)
    assert poisoned.manifest is not None
    (image,) = poisoned.manifest.target_images.values()
    for clean in (None, squares):
        found = verify_pairs(poisoned, clean=clean)
        assert found.problems == []
        (note,) = found.notes
        assert note.startswith("1 test image is trained on")
        assert f"that the manifest lists and no others: {image};" in note
    assert verify_pairs(squares).notes == []


def test_dropped_pairs_need_the_clean_set(squares: PairDataset) -> None:
    attack = MultipleTargetLabels(
        ["sheep2aeroplane", "sofa2bird"], samples=2, drop_last_targets=True
    )
    poisoned = attack.poison(squares)
    assert verify_pairs(poisoned).problems == []
    assert verify_pairs(poisoned, clean=squares).problems == []
    with pytest.raises(InputError, match="were dropped by the attack"):
        restore_clean(poisoned)
    # a pair more that is missing shows
    kept = np.ones(len(poisoned), dtype=bool)
    kept[3] = False
    assert verify_pairs(poisoned.where(kept)).problems
    assert verify_pairs(poisoned.where(kept), clean=squares).problems


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


LIES: list[Any] = [
    lambda manifest: manifest["counts"].update(training_pairs=10_000),
    lambda manifest: manifest.update(clean_fingerprint="0" * 64),
    lambda manifest: manifest["pairs"][0].update(
        clean_image=manifest["pairs"][0]["poisoned_image"]
    ),
]
# design.md: `mmpoison data verify` recomputes the manifest, so a wrong figure in it shows
FIGURES: list[Any] = [
    lambda manifest: manifest.update(rate=0.0001),
    lambda manifest: manifest["counts"].update(poisoned_pairs=1),
    lambda manifest: manifest["counts"].update(poisoned_samples=40),
    lambda manifest: manifest["counts"].update(clean_training_pairs=3),
]


@pytest.mark.parametrize(
    ("change", "mode", "clean"),
    [
        (hide_one, "add", False),
        (hide_one, "add", True),
        (hide_one, "replace", True),
        *((change, "add", False) for change in LIES),
        *((change, mode, False) for change in FIGURES for mode in ("add", "replace")),
    ],
)
def test_a_manifest_that_is_wrong(
    tampered: Callable[..., list[str]], change: Any, mode: str, clean: bool
) -> None:
    assert tampered(change, mode, clean)


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


def test_without_images_only_the_table_is_checked(own_square_folder: Path) -> None:
    (own_square_folder / "sofa/03.png").unlink()
    found = verify_pairs(load_pairs(own_square_folder), images=False)
    assert found.problems == []
    assert found.images is None
    assert "broken images" not in found.facts()


def test_broken_images_are_named_and_counted(own_square_folder: Path, cut_jpeg: bytes) -> None:
    (own_square_folder / "sofa/03.png").unlink()
    (own_square_folder / "bird/00.png").write_bytes(cut_jpeg)
    (own_square_folder / "bird/01.png").write_text("x")
    found = verify_pairs(load_pairs(own_square_folder))
    assert len(found.problems) == 3
    assert "bird/00.png: broken image" in found.problems[0]
    assert "sofa/03.png: no such image" in found.problems[2]
    assert found.facts()["broken images"] == "1 missing, 1 truncated, 1 unreadable"
    assert found.images is not None
    assert found.images["broken"] == {"missing": 1, "truncated": 1, "unreadable": 1}


def test_images_are_read_a_few_at_a_time(
    own_square_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "IMAGES_AT_ONCE", 20)
    (own_square_folder / "bird/00.png").unlink()
    calls: list[tuple[int, int]] = []
    found = verify_pairs(load_pairs(own_square_folder), progress=lambda *call: calls.append(call))
    assert calls == [(20, 56), (40, 56), (56, 56)]
    assert found.images == {
        "readable": 55,
        "broken": {"missing": 1, "truncated": 0, "unreadable": 0},
    }


# -- what is loaded to be verified -----------------------------------------------------------------


def test_every_broken_line_is_named(write_lines: Callable[..., Path], square_folder: Path) -> None:
    folder = write_lines(
        {"image": "sofa/00.png", "captions": ["a sofa"]},
        "no json",
        {"image": "../out.png", "captions": ["x"]},
        {"image": "sofa/00.png", "captions": ["again"]},
        {"image": "sofa/01.png", "captions": ["a sofa"]},
    )
    pairs, name, faults = load_to_verify(folder, root=square_folder)
    assert (name, faults, len(pairs.images)) == ("pairs-folder", [], 2)
    found = verify_pairs(pairs)
    assert [line.partition(":")[0][-6:] for line in found.wrong["entries"]] == [
        "line 2",
        "line 3",
        "line 4",
    ]


@pytest.mark.parametrize(
    ("to", "write"), [("parquet", write_parquet_set), ("webdataset", write_tar_set)]
)
def test_also_beside_shards(squares: PairDataset, tmp_path: Path, to: str, write: Any) -> None:
    poisoned = SingleTargetLabel("sheep2aeroplane", pairs=7).poison(squares)
    write(poisoned, tmp_path / "shards")
    pairs, name, faults = load_to_verify(tmp_path / "shards")
    assert (name, faults) == (to, [])
    assert not verify_pairs(pairs, images=False).problems
    file = tmp_path / "shards" / "manifest.json"
    whole = file.read_text()
    for broken, said in (
        (whole.replace("a sheep", "a goat"), "manifest and captions differ"),
        ("{", "not valid JSON"),
        ('{"pairs": 1}', "manifest"),
    ):
        file.write_text(broken)
        with pytest.raises(ManifestMisfit):
            load_pairs(tmp_path / "shards")
        pairs, name, faults = load_to_verify(tmp_path / "shards")
        found = verify_pairs(pairs, images=False, manifest_faults=faults, format=name)
        assert said in found.wrong["manifest"][0]
        assert len(pairs) == len(poisoned)


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "rsicd").is_dir(), reason=f"no photos at {SHARED}")
@pytest.mark.parametrize("name", ["rsicd", "ucm"])
def test_real_photos(name: str) -> None:
    pairs, _, _ = load_to_verify(SHARED / name)
    found = verify_pairs(pairs)
    assert found.images is not None
    assert found.images["readable"] == len(pairs.images)
    assert found.problems == []
