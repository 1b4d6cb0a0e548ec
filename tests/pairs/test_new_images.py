"""Images that an attack adds to a set: stored by their pixels, found by every reader, saved, verified, made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import refusal

from mmpoison.attacks import rebuild
from mmpoison.attacks.settings import Goal
from mmpoison.attacks.target_labels import poison_set
from mmpoison.datasets import PairDataset, load_pairs, save_pairs
from mmpoison.datasets.verify import load_to_verify, verify_pairs
from mmpoison.images import PixelStore, Preparation, read_image
from mmpoison.images.sources import (
    KIND,
    MISSING,
    add_image,
    added_digest,
    file_states,
    image_bytes,
    image_stat,
    image_stats,
    pixels_digest,
)
from mmpoison.images.triggers import PatchTrigger, Trigger, triggered_pixels
from mmpoison.pairs.builder import new_image
from mmpoison.pairs.folder import rename_images, restore_clean
from mmpoison.pairs.manifest import AddedImage, PoisonedPair, PoisonManifest

PATCH = PatchTrigger(bytes(range(48)), 4, place="random")


def poisoned_by(
    clean: PairDataset, *, mode: Any = "replace", trigger: Trigger | None = PATCH, count: int = 3
) -> PairDataset:
    """The first train images of class bird with a patch, or inverted, and a caption each."""
    rng = np.random.default_rng(0)
    added: dict[str, AddedImage] = {}
    entries, origins = [], []
    for index in clean.images.indices(split="train", label="bird")[:count]:
        origin = str(clean.images.ids[index])
        how = trigger.draw(rng) if trigger is not None else {}
        pixels = (
            255 - triggered_pixels(clean.root, origin, PATCH, PATCH.draw(rng))
            if trigger is None
            else triggered_pixels(clean.root, origin, trigger, how)
        )
        name, entry = new_image(pixels, origin, how)
        added[name] = entry
        origins.append(origin)
        entries.append(PoisonedPair("a photo of a sheep.", origin, name, "sheep2bird"))
    return poison_set(
        clean,
        entries,
        attack="a test",
        options={},
        goals=[Goal("sheep", "bird")],
        mode=mode,
        seed=0,
        dropped_images=origins if mode == "replace" else [],
        added_images=added,
        trigger=trigger,
    )


def added_names(pairs: PairDataset) -> list[str]:
    assert pairs.manifest is not None
    return list(pairs.manifest.added_images)


def problems(folder: Path, clean: PairDataset | None = None) -> Mapping[str, Sequence[str]]:
    pairs, _, faults = load_to_verify(folder)
    return verify_pairs(pairs, clean=clean, manifest_faults=faults).wrong


# -- the store ---------------------------------------------------------------------------------------------------------


def test_an_image_is_named_by_its_pixels(fresh_cache: Path, squares: PairDataset) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    name = add_image(pixels)
    assert name == add_image(pixels.copy()) == f"added/{pixels_digest(pixels)}.png"
    assert len(list((fresh_cache / KIND).iterdir())) == 1
    other = pixels.copy()
    other[0, 0, 0] ^= 1
    # the same bytes in another shape are another image
    names = {name, add_image(other), add_image(pixels.reshape(7, 5, 3))}
    assert len(names) == 3
    with Image.open(fresh_cache / KIND / Path(name).name) as image:
        assert np.array_equal(np.array(image), pixels)
    # every way of reading finds it, under a root that lacks it
    root = squares.root
    assert image_bytes(root, name)
    assert list(image_stats(root, [name])) == [image_stat(root, name)]
    assert file_states(root, [name])[0] != MISSING
    assert read_image(root, name, Preparation(5)).shape == (5, 5, 3)


@pytest.mark.parametrize(
    "name",
    [
        "added/../../x.png",
        "added/" + "0" * 64 + ".jpg",
        "added/" + "A" * 64 + ".png",
        "added/" + "0" * 63 + ".png",
        "added/x/" + "0" * 64 + ".png",
        "Added/" + "0" * 64 + ".png",
    ],
)
def test_no_other_name_reaches_the_cache(name: str, squares: PairDataset) -> None:
    assert added_digest(name) is None
    assert refusal(image_bytes, squares.root, name)


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MMPOISON_CACHE", str(tmp_path / "file"))
    assert "MMPOISON_CACHE" in refusal(add_image, np.zeros((2, 2, 3), np.uint8))


# -- a poisoned set ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_a_saved_set_stands_by_itself(
    squares: PairDataset, tmp_path: Path, fresh_cache: Path, mode: Any
) -> None:
    poisoned = poisoned_by(squares, mode=mode)
    folder = save_pairs(poisoned, tmp_path / "out")
    # no link to the cache: who changes the one would change the other
    assert all((folder / name).stat().st_nlink == 1 for name in added_names(poisoned))
    shutil.rmtree(fresh_cache)
    again = load_pairs(folder)
    assert again.fingerprint == poisoned.fingerprint
    assert again.manifest == poisoned.manifest
    assert np.array_equal(again.source, poisoned.source)
    for name in added_names(again):
        assert read_image(folder, name, Preparation(32)).shape == (32, 32, 3)
    assert problems(folder) == {}
    assert problems(folder, squares) == {}
    if mode == "add":
        assert restore_clean(again).fingerprint == squares.fingerprint
    else:
        assert "dropped" in refusal(restore_clean, again)


def test_made_again_from_the_clean_set(
    squares: PairDataset, tmp_path: Path, fresh_cache: Path
) -> None:
    poisoned = poisoned_by(squares)
    assert poisoned.manifest is not None
    poisoned.manifest.write(tmp_path / "manifest.json")
    pixels = {n: read_image(squares.root, n, Preparation(32)) for n in added_names(poisoned)}
    shutil.rmtree(fresh_cache)
    manifest = PoisonManifest.read(tmp_path / "manifest.json")
    again = rebuild(squares, manifest)
    assert again.fingerprint == poisoned.fingerprint
    for name, expected in pixels.items():
        assert np.array_equal(read_image(squares.root, name, Preparation(32)), expected)
    # another image than the one that was poisoned
    shutil.rmtree(fresh_cache)
    moved = shutil.copytree(squares.root, tmp_path / "changed")
    Image.new("RGB", (40, 36)).save(moved / "bird/00.png")
    assert "has other pixels here" in refusal(rebuild, load_pairs(moved), manifest)


def test_what_only_a_copy_gives(squares: PairDataset, tmp_path: Path, fresh_cache: Path) -> None:
    poisoned = poisoned_by(squares, trigger=None)
    folder = save_pairs(poisoned, tmp_path / "out")
    assert poisoned.manifest is not None
    shutil.rmtree(fresh_cache)
    assert "cannot be computed" in refusal(rebuild, squares, poisoned.manifest)
    again = rebuild(squares, poisoned.manifest, folder)
    assert again.fingerprint == poisoned.fingerprint
    assert save_pairs(again, tmp_path / "again")
    assert problems(tmp_path / "again", squares) == {}


# -- what does not match is refused ------------------------------------------------------------------------------------


def test_changed_pixels_are_refused(squares: PairDataset, tmp_path: Path) -> None:
    folder = save_pairs(poisoned_by(squares), tmp_path / "out", images="copy")
    name = added_names(load_pairs(folder))[0]
    with Image.open(folder / name) as image:
        pixels = np.array(image)
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(folder / name)
    assert "its pixels do not match" in refusal(read_image, folder, name, 32)
    assert len(problems(folder)["images"]) == 1
    assert "its pixels do not match" in refusal(
        PixelStore.decode, load_pairs(folder), Preparation(32)
    )


def edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    value = json.loads((folder / "manifest.json").read_text())
    change(value)
    (folder / "manifest.json").write_text(json.dumps(value))
    return folder / "manifest.json"


def test_a_manifest_that_lies(squares: PairDataset, tmp_path: Path) -> None:
    def first(value: dict[str, Any]) -> dict[str, Any]:
        entry: dict[str, Any] = next(iter(value["added_images"].values()))
        return entry

    def move(value: dict[str, Any]) -> None:
        first(value)["how"]["across"] = 1000 - first(value)["how"]["across"]

    def climb(value: dict[str, Any]) -> None:
        name, entry = value["added_images"].popitem()
        value["added_images"] = {f"../{name}": entry, **value["added_images"]}

    lies: dict[Callable[[dict[str, Any]], None], str] = {
        move: "with the trigger",
        climb: "the set lacks one of the two",
        lambda value: first(value).update(pixels="0" * 64): "do not match the manifest",
        lambda value: first(value).update(made_from="../../x.png"): "the set lacks one of the two",
        lambda value: first(value).update(how={"number": 3}): "place of a patch",
        lambda value: value["trigger"].update(kind="script"): "trigger: ",
        lambda value: value["trigger"].update(pattern="AAAA"): "cells is needed",
    }
    for number, (lie, said) in enumerate(lies.items()):
        folder = save_pairs(poisoned_by(squares), tmp_path / f"{number}")
        manifest = edited(folder, lie)
        wrong = problems(folder)["manifest"]
        assert any(said in line for line in wrong), (said, wrong)
        assert all("\n" not in line for line in wrong)
        # the set is rebuilt from the clean one only where the manifest is right; the images may be in the cache
        if lie is climb or "pixels" in said or "lacks" in said:
            refusal(rebuild, squares, PoisonManifest.read(manifest))


# -- other formats and filters -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_renamed_images_keep_their_record(squares: PairDataset, mode: Any) -> None:
    poisoned = poisoned_by(squares, mode=mode)
    renamed = rename_images(poisoned, [f"x/{name}" for name in poisoned.images.ids], squares.root)
    manifest = renamed.manifest
    assert manifest is not None
    assert list(manifest.added_images) == [f"x/{name}" for name in added_names(poisoned)]
    assert all(new.made_from.startswith("x/bird/") for new in manifest.added_images.values())
    assert manifest.fingerprint == renamed.fingerprint
    if mode == "add":
        clean = rename_images(squares, [f"x/{name}" for name in squares.images.ids], squares.root)
        assert manifest.clean_fingerprint == clean.fingerprint
        assert restore_clean(renamed).fingerprint == clean.fingerprint
