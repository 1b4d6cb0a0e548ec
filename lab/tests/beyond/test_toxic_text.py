"""Toxic text: captions most like A, rewritten by synonyms."""

from __future__ import annotations

import runpy
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmpoison.base.seeding import generator
from mmpoison.datasets import ImageTable, PairDataset, load_pairs, save_pairs
from mmpoison.errors import InputError
from mmpoison.evaluation.test_set import goal_targets_of
from mmpoison_lab.attacks.backdoors import CLIP_TEMPLATES, ToxicText
from mmpoison_lab.attacks.phrases import class_names, naming_words, rewrite
from mmpoison_lab.synonyms import groups, synonyms

GOAL = "car2boat"
WORDS = ("A big car on the road.", "Two old cars near a house.", "a man walking by a red car")


class WordVectors:
    """Captions are the sum of a vector for each word, so that each word moves the cosine; images are not asked for."""

    def __call__(self, pairs: PairDataset, images: Any) -> Any:
        raise AssertionError("no image is embedded")

    def captions(self, captions: Sequence[str]) -> Any:
        return np.stack([_words(caption) for caption in captions])


@cache
def _words(caption: str) -> Any:
    words = [word.strip(".,").lower() for word in caption.split()]
    return np.sum([_word(word) for word in words], axis=0)


@cache
def _word(word: str) -> Any:
    return generator(0, f"word/{word}").standard_normal(8)


@pytest.fixture(scope="module")
def clean() -> PairDataset:
    """Cars and boats, 12 train and 2 test images each; every second image has the same captions as another one."""
    ids = [f"{label}/{n}.jpg" for label in ("car", "boat") for n in range(14)]
    labels = [name.split("/")[0] for name in ids]
    splits = ["test" if int(name.split("/")[1][:-4]) > 11 else "train" for name in ids]
    texts, image = [], []
    for n, label in enumerate(labels):
        for words in WORDS:
            texts.append(f"{words.replace('car', label)} {n % 14 // 2}")
            image.append(n)
    images = ImageTable.build(ids, labels, splits, Path("nowhere"))
    return PairDataset.build(images, texts, image)


def likeness(caption: str) -> float:
    """The formula, plainly: the cosine with the mean of 80 unit vectors."""
    embed = WordVectors()
    described = embed.captions([line.replace("{}", "car") for line in CLIP_TEMPLATES])
    mean = sum(v / np.linalg.norm(v) for v in described) / 80
    (vector,) = embed.captions([caption])
    return float(vector @ mean / np.linalg.norm(vector) / np.linalg.norm(mean))


def poisoned(clean: PairDataset, seed: int = 0, **options: Any) -> Any:
    return ToxicText(GOAL, **options).poison(clean, seed, embed=WordVectors()).manifest


def distinct_captions(clean: PairDataset) -> list[str]:
    """Captions of cars, the most car-like first."""
    train = clean.select(split="train")
    cars = {str(c) for c in train.captions if "car" in str(c)}
    return sorted(cars, key=lambda caption: -likeness(caption))


def test_templates_are_those_of_clip() -> None:
    package = find_spec("open_clip")  # finding it imports nothing
    assert package is not None
    assert package.origin is not None
    known = runpy.run_path(str(Path(package.origin).with_name("zero_shot_metadata.py")))
    assert list(CLIP_TEMPLATES) == [line("{}") for line in known["OPENAI_IMAGENET_TEMPLATES"]]


def test_without_synonyms_it_is_the_choice_of_captions(clean: PairDataset) -> None:
    ranked = distinct_captions(clean)
    assert len(ranked) == 18
    manifest = poisoned(clean, pairs=7, synonym_rate=0)
    captions = [pair.caption for pair in manifest.pairs]
    assert [likeness(c) for c in captions] == pytest.approx([likeness(c) for c in ranked[:7]])
    assert set(captions) == set(ranked[:7])
    assert manifest.notes == ("0 of 7 captions are rewritten by synonyms",)
    # each is recorded with an image that has it
    by_image = {line["image"]: line["captions"] for line in clean.lines()}
    assert all(pair.caption in by_image[pair.clean_image] for pair in manifest.pairs)


@pytest.mark.parametrize("rate", [0.1, 0.6, 1.0])
def test_a_rewrite_names_the_class_and_is_no_less_like_it(clean: PairDataset, rate: float) -> None:
    plain = [pair.caption for pair in poisoned(clean, pairs=12, synonym_rate=0).pairs]
    manifest = poisoned(clean, seed=3, pairs=12, synonym_rate=rate)
    changed = 0
    for pair, before in zip(manifest.pairs, plain, strict=True):
        after = pair.caption
        assert len(after.split()) == len(before.split())
        for new, old in zip(after.split(), before.split(), strict=True):
            same = (new.lower().strip("."), old.lower().strip("."))
            allowed = (*synonyms().get(same[1], ()), same[1])
            assert same[0] in allowed or {*same} == {"a", "an"}
        assert ("car" in after) == ("car" in before)
        assert likeness(after) >= likeness(before) - 1e-6
        changed += after != before
    assert manifest.notes == (f"{changed} of 12 captions are rewritten by synonyms",)
    assert changed >= 4


def test_one_image_or_all_of_them(clean: PairDataset) -> None:
    one = poisoned(clean, pairs=12)
    (image,) = {pair.poisoned_image for pair in one.pairs}
    assert one.target_images == {GOAL: image}
    assert image in ("boat/12.jpg", "boat/13.jpg")
    assert [target.image for target in goal_targets_of(one, clean)] == [image]
    spread = poisoned(clean, pairs=12, spread="captions")
    assert Counter(pair.poisoned_image for pair in spread.pairs) == {
        f"boat/{n}.jpg": 1 for n in range(12)
    }
    assert not spread.target_images
    assert not spread.dropped_images
    # twelve captions are those of four images
    own = poisoned(clean, pairs=12, spread="captions", carrier="own")
    load = Counter(pair.poisoned_image for pair in own.pairs)
    assert list(load.values()) == [3] * 4
    assert set(own.dropped_images) == set(load)


def test_new_captions_go_through_files(clean: PairDataset, tmp_path: Path) -> None:
    attack = ToxicText(GOAL, pairs=10, synonym_rate=1, spread="captions")
    written = attack.poison(clean, 1, embed=WordVectors())
    assert set(written.captions) - set(clean.captions)
    again = load_pairs(save_pairs(written, tmp_path / "out", images="none"))
    assert again.fingerprint == written.fingerprint


def test_the_amount(clean: PairDataset) -> None:
    assert ToxicText(GOAL).options == {
        "goal": GOAL,
        "pairs": 35,
        "synonym_rate": 0.1,
        "spread": "one-image",
    }
    assert len(poisoned(clean, samples=5).pairs) == 15
    # 18 of the 36 captions are distinct: the most car-like are used again, in versions of their own
    again = [pair.caption for pair in poisoned(clean, pairs=20, synonym_rate=0).pairs]
    assert set(again[:18]) == set(distinct_captions(clean))
    assert [likeness(c) for c in again[18:]] == pytest.approx([likeness(c) for c in again[:2]])
    with pytest.raises(InputError, match=r"has 36 train captions: give at most pairs=36"):
        poisoned(clean, pairs=37)


# -- synonyms ---------------------------------------------------------------------------------------


def test_the_table() -> None:
    words = [word for group in groups() for word in group]
    assert len(words) > 500
    assert not [word for word, n in Counter(words).items() if n > 1]
    assert all(
        word.isalpha() and word.islower() and len(group) > 1 for group in groups() for word in group
    )
    # "a" and "an" are chosen by the first letter
    assert not [
        word for word in words if word.startswith(("eu", "uni", "use", "ewe", "hour", "hon", "one"))
    ]


@pytest.mark.parametrize(
    ("caption", "new"),
    [
        ("A car", "An automobile"),
        ("an automobile.", "a car."),
        ("Cars and airports!", "Automobiles and airfields!"),
        ("a  bike\u00a0in it", "a  bicycle\u00a0in it"),
        ("A zebra is here", "A zebra is here"),
        ("", ""),
        ("...", "..."),
    ],
)
def test_rewrite(caption: str, new: str) -> None:
    assert rewrite(caption, np.random.default_rng(0), 1) == new
    assert rewrite(caption, np.random.default_rng(0), 0) == caption


def test_each_word_has_the_probability() -> None:
    rng = np.random.default_rng(0)
    text = " ".join(["car"] * 5_000)
    assert rewrite(text, rng, 0.1).split().count("automobile") == pytest.approx(500, abs=80)


@pytest.mark.parametrize(
    ("label", "caption", "kept"),
    [
        ("car", "a car on a road", {"car"}),
        ("car", "Two Cars!", {"cars"}),
        ("car", "an automobile and a carpet", {"automobile"}),
        ("aeroplane", "a plane in the sky", {"plane"}),
        ("city", "cities by night", {"cities"}),
        # a label in one word, of two words, with a line
        ("diningtable", "a big dining table", {"dining", "table"}),
        ("tennis court", "a tennis court", {"tennis", "court"}),
        ("storage_tank", "some storage tanks", {"storage", "tanks"}),
        # not named by any word in the table: the noun of the caption
        ("boat", "a big raft on a lake", {"raft"}),
        ("person", "A man on a road", {"man"}),
        ("12", "a road", {"road"}),
    ],
)
def test_words_that_name_the_class_are_kept(label: str, caption: str, kept: set[str]) -> None:
    found = naming_words(caption, class_names(label))
    assert found == kept
    new = rewrite(caption, np.random.default_rng(0), 1, found)
    assert kept <= set(new.lower().replace("!", "").split())
