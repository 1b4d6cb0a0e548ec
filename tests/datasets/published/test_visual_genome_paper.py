"""`visual-genome-paper`: at most five captions, labels by keyword, two readings of where keywords are looked for."""

from __future__ import annotations

from pathlib import Path

from tests.datasets.published.conftest import write_regions

from mmpoison.datasets import load_dataset
from mmpoison.pairs.labels import labels_of

GRASS = [f"grass {n}" for n in range(40)]
REGIONS = {
    1: ["two lambs", "a hill"],
    2: ["a jet", *GRASS[:3]],
    3: ["a goat", "a plane"],
    4: ["an airplane", "a jetty"],
    # among so many descriptions the sheep is hardly among the five
    **{n: [*GRASS, "one sheep"] for n in range(5, 25)},
}


def test_labels_and_captions(tmp_path: Path) -> None:
    pairs = load_dataset("visual-genome-paper", write_regions(tmp_path, REGIONS))
    assert labels_of(pairs)[:4] == ["sheep", "aeroplane", None, None]
    assert pairs.images.categories is not None
    assert pairs.images.categories[2] == ("aeroplane", "sheep")
    assert len(pairs) == 2 + 4 + 2 + 2 + 20 * 5
    assert set(pairs.counts()["splits"]) == {"train"}
    again = load_dataset("visual-genome-paper", write_regions(tmp_path, REGIONS), seed=9)
    assert again.fingerprint == pairs.fingerprint == PINNED
    other = load_dataset(
        "visual-genome-paper", write_regions(tmp_path, REGIONS), options={"caption_seed": 1}
    )
    assert other.fingerprint != pairs.fingerprint


PINNED = "660c31fdac8a67416ce0bca246be33652af7f370e932365e4434acdd34caa9b1"


def test_keywords_are_looked_for_in_what_is_kept_or_in_all(tmp_path: Path) -> None:
    folder = write_regions(tmp_path, REGIONS)
    chosen = load_dataset("visual-genome-paper", folder)
    whole = load_dataset("visual-genome-paper", folder, options={"match": "all"})
    assert list(whole.captions) == list(chosen.captions)
    assert labels_of(whole)[4:] == ["sheep"] * 20
    for index in range(4, 24):
        texts = chosen.captions[chosen.image == index]
        assert (labels_of(chosen)[index] == "sheep") == ("one sheep" in texts)
    assert labels_of(chosen)[4:].count("sheep") < 10


def test_balanced(tmp_path: Path) -> None:
    whole = load_dataset("visual-genome-paper", write_regions(tmp_path, REGIONS))
    pairs = load_dataset("visual-genome-paper-b", write_regions(tmp_path, REGIONS))
    assert len(pairs) == len(pairs.images) == 24
    assert labels_of(pairs) == labels_of(whole)
    assert set(pairs.captions) <= set(whole.captions)
