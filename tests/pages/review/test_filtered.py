"""The most suspicious pairs of a filter's result, and what resembles them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmpoison.datasets import PairDataset, load_pairs
from mmpoison.defenses.filters.distance_scan import embed_pairs
from mmpoison.defenses.filters.pair_pieces import PairPieces
from mmpoison.defenses.filters.pipeline import filter_pairs
from mmpoison.errors import InputError
from mmpoison.models import DualEncoder, prepare_pixels
from mmpoison.pages.review import add_neighbours, filtered_pairs


@pytest.fixture(scope="module")
def judge(make_encoder: Callable[..., DualEncoder]) -> DualEncoder:
    return make_encoder(7)


@pytest.fixture(scope="module")
def kept(square_folder: Path, judge: DualEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("filtered") / "kept"
    filter_pairs(square_folder, judge, out=out, clean_loss=0.1, images="none")
    return out


def test_the_most_distant_come_first(kept: Path, square_folder: Path) -> None:
    lines = [json.loads(line) for line in (kept / "verdicts.jsonl").read_text().splitlines()]
    shown = filtered_pairs(kept, PairPieces(square_folder, images_at_once=5), 30)
    worst = sorted(lines, key=lambda line: -line["distance"])[:30]
    assert [pair.pair for pair in shown] == [line["pair"] for line in worst]
    assert [pair.distance for pair in shown] == [line["distance"] for line in worst]
    assert [pair.kept for pair in shown] == [line["keep"] for line in worst]
    assert not shown[0].kept
    assert shown[-1].kept
    captions = load_pairs(square_folder)
    for pair in shown[:3]:
        assert len(pair.others) == 4
        assert pair.caption not in pair.others
        assert pair.caption in captions.captions
    assert len(filtered_pairs(kept, PairPieces(square_folder), 10_000)) == len(lines)


def test_another_set_is_refused(kept: Path, own_square_folder: Path) -> None:
    file = own_square_folder / "captions.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[5:] + lines[:5]) + "\n")
    with pytest.raises(InputError, match=r"is not the set that .* was filtered from"):
        filtered_pairs(kept, PairPieces(own_square_folder), 30)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no such file; `mmpoison filter --out"),
        ("", "no verdict in it"),
        ("{", "line 1: not valid JSON"),
        ('{"pair": "a#0"}\n', "line 1: is no verdict"),
        ("[" * 100_000, "line 1: not valid JSON"),
    ],
)
def test_broken_verdicts(tmp_path: Path, square_folder: Path, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / "verdicts.jsonl").write_text(text)
    with pytest.raises(InputError) as error:
        filtered_pairs(tmp_path, PairPieces(square_folder), 5)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid JSON"),
        ('{"image": 3}\n', "an object with image and reason is needed"),
    ],
)
def test_a_broken_list_of_unreadable_images(
    kept: Path, tmp_path: Path, square_folder: Path, text: str, says: str
) -> None:
    (tmp_path / "verdicts.jsonl").write_bytes((kept / "verdicts.jsonl").read_bytes())
    assert filtered_pairs(tmp_path, PairPieces(square_folder), 5)
    (tmp_path / "unreadable.jsonl").write_text(text)
    with pytest.raises(InputError, match=f"unreadable.jsonl line 1: {says}"):
        filtered_pairs(tmp_path, PairPieces(square_folder), 5)


def test_neighbours_are_the_nearest_on_other_images(
    kept: Path, square_folder: Path, squares: PairDataset, judge: DualEncoder
) -> None:
    pieces = PairPieces(square_folder, images_at_once=7)
    shown = add_neighbours(filtered_pairs(kept, pieces, 6), pieces, judge, nearest=3)
    train = squares.select(split="train")
    text, image = embed_pairs(judge, prepare_pixels(judge, train), train)
    ids = train.images.ids[train.image]
    for pair in shown:
        row = next(
            n
            for n in range(len(train))
            if (ids[n], train.captions[n]) == (pair.image, pair.caption)
        )
        for found, vectors in ((pair.by_caption, text), (pair.by_image, image)):
            distance = np.where(ids == pair.image, np.inf, 1 - vectors @ vectors[row])
            if found is pair.by_image:
                distance = distance[np.unique(train.image, return_index=True)[1]]
            np.testing.assert_allclose(
                [other.distance for other in found],
                np.clip(np.sort(distance)[:3], 0, 2),
                atol=1e-5,
            )
            assert pair.image not in [other.image for other in found]
        assert len({other.image for other in pair.by_image}) == 3
