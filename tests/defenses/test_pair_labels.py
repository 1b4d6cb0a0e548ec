"""The file of labels, and which pairs are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmpoison.datasets import PairDataset
from mmpoison.defenses.pair_labels import (
    labelled_places,
    pairs_to_label,
    read_labels,
    shown_pairs,
    write_labels,
)
from mmpoison.defenses.pair_pieces import PairPieces
from mmpoison.errors import InputError


def test_there_and_back(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    labels = {'a,"b".png#0': "keep", "ü.png#12": "drop", "c.png#1": ""}
    write_labels(file, labels)  # type: ignore[arg-type]
    assert read_labels(file) == labels
    assert file.read_text().splitlines()[0] == "pair,verdict"


def test_what_a_spreadsheet_writes(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(b"\xef\xbb\xbfnote,verdict,pair\r\nx, Drop ,a#0\r\n,KEEP,b#0\r\n,,c#0\r\n")
    assert read_labels(file) == {"a#0": "drop", "b#0": "keep", "c#0": ""}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: the columns pair and verdict are needed, it has none"),
        ("image,verdict\n", "it has image, verdict"),
        ("pair,verdict\na#0,bad\n", "line 2: verdict 'bad' is neither keep nor drop"),
        ("pair,verdict\n,keep\n", "line 2: names no pair"),
        ("pair,verdict\na#0,keep\na#0,drop\n", "line 3: pair 'a#0' has two verdicts"),
        ('pair,verdict\n"a#0,keep\n', "not a CSV file"),
        ("pair,verdict\n\xff\n", "not a CSV file in UTF-8"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as error:
        read_labels(file)
    assert says in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_labelled_pairs_are_found(squares: PairDataset, tmp_path: Path) -> None:
    pieces = PairPieces(squares, images_at_once=5)
    distances = np.linspace(0, 1, 140)
    shown = shown_pairs(pieces, "train", [99, 0, 7], distances)
    assert [pair.distance for pair in shown] == [distances[99], distances[0], distances[7]]
    train = squares.select(split="train")
    assert [pair.caption for pair in shown] == train.captions[[99, 0, 7]].tolist()
    labels = {shown[0].pair: "drop", shown[1].pair: "keep", shown[2].pair: ""}
    places, bad = labelled_places(pieces, "train", labels, tmp_path)  # type: ignore[arg-type]
    assert places.tolist() == [0, 99]
    assert bad.tolist() == [False, True]
    with pytest.raises(InputError, match="1 labelled pairs are not among the judged ones"):
        labelled_places(pieces, "train", {"no/where.png#0": "keep"}, tmp_path)


def test_half_of_the_pairs_come_from_the_far_end() -> None:
    distances = np.random.default_rng(0).random(10_000)
    places = pairs_to_label(distances, 100)
    assert len(set(places)) == len(places) == 100
    assert (distances[places] > np.quantile(distances, 0.98)).sum() == 50
    assert (distances[places] < np.quantile(distances, 0.9)).sum() == 25
    np.testing.assert_array_equal(places, pairs_to_label(distances, 100))
    assert set(places) != set(pairs_to_label(distances, 100, seed=1))
    # not in the order of their distance
    assert 30 < (np.diff(distances[places]) > 0).sum() < 70
    assert sorted(pairs_to_label(distances[:9], 100)) == list(range(9))
