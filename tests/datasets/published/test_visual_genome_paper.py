"""`visual-genome-paper`: at most five captions, labels by keyword, two readings of where keywords are looked for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mmpoison.datasets import load_dataset
from mmpoison.errors import InputError
from mmpoison.pairs.labels import labels_of

WHOLE = Path(os.environ.get("MMPOISON_DATA", "nowhere")) / "visual-genome-paper"
Write = Callable[[dict[int, list[str]]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_regions(phrases: dict[int, list[str]]) -> Path:
        images = [
            {
                "id": image,
                "regions": [
                    {"region_id": image * 100 + n, "image_id": image, "phrase": phrase}
                    for n, phrase in enumerate(of)
                ],
            }
            for image, of in phrases.items()
        ]
        (tmp_path / "region_descriptions.json").write_text(json.dumps(images))
        return tmp_path

    return write_regions


GRASS = [f"grass {n}" for n in range(40)]
REGIONS = {
    1: ["two lambs", "a hill"],
    2: ["a jet", *GRASS[:3]],
    3: ["a goat", "a plane"],
    4: ["an airplane", "a jetty"],
    # among so many descriptions the sheep is hardly among the five
    **{n: [*GRASS, "one sheep"] for n in range(5, 25)},
}


def test_labels_and_captions(write: Write) -> None:
    pairs = load_dataset("visual-genome-paper", write(REGIONS))
    assert labels_of(pairs)[:4] == ["sheep", "aeroplane", None, None]
    assert pairs.images.categories is not None
    assert pairs.images.categories[2] == ("aeroplane", "sheep")
    assert len(pairs) == 2 + 4 + 2 + 2 + 20 * 5
    assert set(pairs.counts()["splits"]) == {"train"}
    again = load_dataset("visual-genome-paper", write(REGIONS), seed=9)
    assert again.fingerprint == pairs.fingerprint == PINNED
    other = load_dataset("visual-genome-paper", write(REGIONS), options={"caption_seed": 1})
    assert other.fingerprint != pairs.fingerprint


PINNED = "660c31fdac8a67416ce0bca246be33652af7f370e932365e4434acdd34caa9b1"


def test_keywords_are_looked_for_in_what_is_kept_or_in_all(write: Write) -> None:
    folder = write(REGIONS)
    chosen = load_dataset("visual-genome-paper", folder)
    whole = load_dataset("visual-genome-paper", folder, options={"match": "all"})
    assert list(whole.captions) == list(chosen.captions)
    assert labels_of(whole)[4:] == ["sheep"] * 20
    for index in range(4, 24):
        texts = chosen.captions[chosen.image == index]
        assert (labels_of(chosen)[index] == "sheep") == ("one sheep" in texts)
    assert labels_of(chosen)[4:].count("sheep") < 10
    with pytest.raises(InputError, match="match='some': is none of chosen, all"):
        load_dataset("visual-genome-paper", folder, options={"match": "some"})


def test_balanced(write: Write) -> None:
    whole = load_dataset("visual-genome-paper", write(REGIONS))
    pairs = load_dataset("visual-genome-paper-b", write(REGIONS))
    assert len(pairs) == len(pairs.images) == 24
    assert labels_of(pairs) == labels_of(whole)
    assert set(pairs.captions) <= set(whole.captions)


@pytest.mark.skipif(
    not WHOLE.is_dir(), reason="Visual Genome is not at $MMPOISON_DATA/visual-genome-paper"
)
def test_the_whole_set() -> None:
    pairs = load_dataset("visual-genome-paper", options={"missing": "keep"})
    # the paper has 94,313 of the 108,077 images and does not say which
    assert len(pairs.images) >= 94_313
    assert len(pairs) <= 5 * len(pairs.images)
    assert pairs.classes == ("aeroplane", "sheep")
