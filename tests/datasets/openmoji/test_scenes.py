"""The embedded data set: its layout, its repeatability, its words and its two pools."""

from __future__ import annotations

import json
import re
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmpoison.datasets.openmoji.build import ATTRIBUTION, build_openmoji
from mmpoison.datasets.openmoji.compose import Scene, compose_scene, plural, scene_at
from mmpoison.datasets.openmoji.scene_data import (
    CLASS_FACTS,
    CLASSES,
    FLICKR30K_WEIGHTS,
    HELD_OUT,
    PLACES,
    PRETRAINING_ONLY,
    SPRITES,
    Pool,
    sprites_of,
)
from mmpoison.errors import InputError

POOLS: tuple[Pool, Pool] = ("pretraining", "demo")
NOUNS = {s.name: s.nouns for label in CLASSES for s in SPRITES[label]}


def build(out: Path, *, seed: int = 0, workers: int = 1) -> Path:
    return build_openmoji(
        out, seed=seed, unlabelled=40, per_class=4, held_out=20, size=32, workers=workers
    )


def records(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("openmoji") / "scenes")


@pytest.fixture(scope="module", params=POOLS)
def scenes(request: pytest.FixtureRequest) -> list[Scene]:
    rng = np.random.default_rng(7)
    return [compose_scene(label, rng, pool=request.param) for label in CLASSES for _ in range(40)]


def test_counts_labels_and_splits(built: Path) -> None:
    rows = records(built)
    assert len(rows) == 40 + 20 * 4 + 20
    assert Counter((row["split"], row["label"] is not None) for row in rows) == {
        ("train", False): 40,
        ("train", True): 40,
        ("test", True): 40,
        ("val", False): 20,
    }
    for label in CLASSES:
        splits = Counter(row["split"] for row in rows if row["label"] == label)
        assert splits == {"train": 2, "test": 2}


def test_every_image_is_there_once_and_readable(built: Path) -> None:
    names = [row["image"] for row in records(built)]
    assert len(set(names)) == len(names)
    assert set(names) == {name for name in contents(built) if name.endswith(".jpg")}
    for name in names:
        with Image.open(built / name) as image:
            assert (image.size, image.mode, image.format) == ((32, 32), "RGB", "JPEG")


def test_a_process_that_may_have_none_of_its_own_draws_alone(built: Path, tmp_path: Path) -> None:
    like = {"unlabelled": 40, "per_class": 4, "held_out": 20, "size": 32, "workers": 2}
    worker = get_context("spawn").Process(
        target=build_openmoji, args=(tmp_path / "drawn",), kwargs=like, daemon=True
    )
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0
    assert contents(tmp_path / "drawn") == contents(built)


def test_same_bytes_again_and_with_two_workers(built: Path, tmp_path: Path) -> None:
    assert contents(build(tmp_path / "again")) == contents(built)
    assert contents(build(tmp_path / "two", workers=2)) == contents(built)


def test_another_seed_gives_other_pictures(built: Path, tmp_path: Path) -> None:
    other, first = contents(build(tmp_path / "other", seed=1)), contents(built)
    assert not any(other[name] == first[name] for name in first if name.endswith(".jpg"))


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise RuntimeError(f"{done} of {total}")

    with pytest.raises(RuntimeError, match="3 of 3"):
        build_openmoji(
            tmp_path / "out", unlabelled=3, per_class=0, held_out=0, workers=1, progress=fail
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"held_out": -1}, {"size": 4}, {"workers": 0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        build_openmoji(tmp_path / "out", **wrong)  # type: ignore[arg-type]


def test_readme_carries_attribution_and_counts(built: Path) -> None:
    text = (built / "README.md").read_text(encoding="utf-8")
    assert ATTRIBUTION in text
    assert "seed 0" in text
    assert "CC BY-SA 4.0" in ATTRIBUTION
    assert (built / "attribution.txt").read_text(encoding="utf-8").strip() == ATTRIBUTION


def test_captions_are_five_short_and_different(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert len(set(scene.captions)) == 5
        for caption in scene.captions:
            assert len(caption.split()) <= 16
            assert caption[0].isupper()
            assert caption.endswith(".")
            assert "  " not in caption
            assert not re.search(r"[{}]|\bNone\b", caption)


def test_captions_have_the_right_articles(scenes: list[Scene]) -> None:
    text = " ".join(c for scene in scenes for c in scene.captions)
    assert not re.search(r"\ba [aio]\w", text, re.IGNORECASE)
    assert set(re.findall(r"\ba (e\w+|u\w+)", text, re.IGNORECASE)) <= {"ewe"}
    assert not re.search(r"\ban [^aeiou\W]", text, re.IGNORECASE)
    assert not re.search(r"\ban ewe", text, re.IGNORECASE)
    assert not re.search(r"\b(\w+) \1\b", text)  # no word twice in a row
    assert not re.search(r"(?:Two|Three) \w+ is\b|\bThere is (?:two|three)\b", text)


def test_every_caption_names_the_main_object(scenes: list[Scene]) -> None:
    for scene in scenes:
        nouns = NOUNS[scene.sprites[0]]
        count = scene.sprites.count(scene.sprites[0])
        words = [plural(noun) if count > 1 else noun for noun in nouns]
        pattern = re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE)
        assert all(pattern.search(caption) for caption in scene.captions), scene.captions


def test_the_tail_is_long() -> None:
    assert sum(FLICKR30K_WEIGHTS.values()) == pytest.approx(1)
    assert set(FLICKR30K_WEIGHTS) == set(CLASSES)
    how: Any = {
        "seed": 3,
        "pool": "demo",
        "part": "stream",
        "size": 16,
        "weights": FLICKR30K_WEIGHTS,
    }
    labels = Counter(scene_at(index, **how).label for index in range(2500))
    share = {label: labels[label] / 2500 for label in CLASSES}
    assert max(share, key=lambda label: share[label]) == "person"
    assert share["sheep"] < 0.008
    assert 0.004 < share["aeroplane"] < 0.018


def test_pools_hold_sprites_out_of_each_other() -> None:
    for label in CLASSES:
        pretraining, demo = ({s.name for s in sprites_of(label, pool)} for pool in POOLS)
        assert pretraining, label
        assert demo, label
        if len({s.family for s in SPRITES[label]}) >= 4:
            assert demo - pretraining, label
    every = {x for label in CLASSES for s in SPRITES[label] for x in (s.code, s.name)}
    assert every >= HELD_OUT
    assert every >= PRETRAINING_ONLY
    assert not HELD_OUT & PRETRAINING_ONLY


def test_held_out_sprites_use_words_that_pretraining_knows() -> None:
    known = {n for label in CLASSES for s in sprites_of(label, "pretraining") for n in s.nouns}
    for label in CLASSES:
        for sprite in sprites_of(label, "demo"):
            assert set(sprite.nouns) & known, sprite.name


def test_sheep_and_aeroplanes_keep_apart() -> None:
    settings = {
        label: {PLACES[name].setting for name in CLASS_FACTS[label].places}
        for label in ("sheep", "aeroplane")
    }
    assert not settings["sheep"] & settings["aeroplane"]
