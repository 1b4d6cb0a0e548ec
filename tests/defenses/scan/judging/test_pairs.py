"""Pieces of a set with the names of its pairs, and the file of labels by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmpoison.datasets import PairDataset, load_pairs
from mmpoison.defenses.scan.cut.labels import (
    LabelFile,
    StaleVerdict,
    pairs_to_label,
    read_labels,
)
from mmpoison.defenses.scan.read.pieces import PairPieces, whole_piece
from mmpoison.errors import InputError

# -- pieces of a set -------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_a_poisoned_folder_in_pieces(folder: Path, poisoned: PairDataset, at_once: int) -> None:
    pieces = PairPieces(folder, images_at_once=at_once)
    assert pieces.images == len(poisoned.images)
    for _ in range(2):  # it can be read again
        parts = list(pieces)
        assert [c for part in parts for c in part.pairs.captions] == poisoned.captions.tolist()
        assert np.concatenate([p.poisoned for p in parts]).tolist() == poisoned.poisoned.tolist()
        assert not any(part.pairs.poisoned.any() or part.pairs.manifest for part in parts)
        assert max(len(part.pairs.images) for part in parts) <= at_once
    entries = np.concatenate([part.entry for part in parts])
    assert sorted(entries[entries >= 0]) == list(range(13))
    assert pieces.manifest is not None
    loaded = load_pairs(folder)
    for row in np.flatnonzero(entries >= 0):
        listed = pieces.manifest.pairs[entries[row]]
        assert listed.caption == poisoned.captions[row]
        assert listed.poisoned_image == poisoned.images.ids[poisoned.image[row]]
        # the same reading as that of `load_pairs`
        assert listed.clean_image == loaded.images.ids[loaded.source[row]]


def test_names_of_pairs_do_not_hang_on_the_pieces(folder: Path, poisoned: PairDataset) -> None:
    whole = whole_piece(poisoned).pair_ids()
    assert len(set(whole)) == len(poisoned)
    assert whole[:2] == ["aeroplane/00.png#0", "aeroplane/00.png#1"]
    parts = PairPieces(folder, images_at_once=3)
    assert [name for part in parts for name in part.pair_ids()] == whole


def test_a_manifest_that_does_not_fit(folder: Path, own_square_folder: Path) -> None:
    (own_square_folder / "manifest.json").write_bytes((folder / "manifest.json").read_bytes())
    with pytest.raises(InputError, match="manifest and captions differ"):
        list(PairPieces(own_square_folder))
    with pytest.raises(InputError, match="no such folder"):
        PairPieces("no/where")


# -- the file of labels ----------------------------------------------------------------------------


def test_what_a_spreadsheet_writes(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(b"\xef\xbb\xbfnote,verdict,pair\r\nx, Drop ,a#0\r\n,KEEP,b#0\r\n,,c#0\r\n")
    assert read_labels(file) == {"a#0": "drop", "b#0": "keep", "c#0": ""}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: needs the columns pair and verdict, has none"),
        ("image,verdict\n", "has image, verdict"),
        ("pair,verdict\na#0,bad\n", "line 2: verdict 'bad' must be keep, drop or unsure"),
        ("pair,verdict\n,keep\n", "line 2: names no pair"),
        ("pair,verdict\na#0,keep\na#0,drop\n", "line 3: pair 'a#0' has two verdicts"),
        ('pair,verdict\n"a#0,keep\n', "line 2: broken CSV"),
        ("pair,verdict\n\xff\n", "labels.csv: not UTF-8"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as error:
        read_labels(file)
    assert says in str(error.value)
    assert len(str(error.value).splitlines()) == 1


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


# -- the file while somebody works on it -----------------------------------------------------------


def test_each_verdict_is_in_the_file_at_once(tmp_path: Path) -> None:
    file, pair = tmp_path / "new" / "labels.csv", 'a,"ü".png#0'
    with LabelFile(file, [pair, "b#0"]) as labels:
        assert read_labels(file) == {pair: "", "b#0": ""}
        labels.set(pair, "drop")
        assert read_labels(file) == {pair: "drop", "b#0": ""}
        labels.set(pair, "unsure", was="drop")
        with pytest.raises(StaleVerdict) as stale:
            labels.set(pair, "keep", was="")
        assert stale.value.verdict == "unsure"
        assert read_labels(file)[pair] == "unsure"
    assert file.read_text(encoding="utf-8").splitlines()[0] == "pair,verdict"


def test_other_columns_and_other_pairs_stay(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text('who,verdict,pair\n"me, too",drop,a#0\nyou,,b#0\n')
    with LabelFile(file, ["b#0", "c#0"]) as labels:
        labels.set("b#0", "keep")
    assert file.read_text().splitlines() == [
        "who,verdict,pair",
        '"me, too",drop,a#0',
        "you,keep,b#0",
        ",,c#0",
    ]


def test_what_is_changed_by_hand_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    with LabelFile(file, ["a#0", "b#0"]) as labels:
        file.write_text("pair,verdict\na#0,drop\nz#0,keep\n")
        labels.set("b#0", "keep", was="")
        with pytest.raises(StaleVerdict):
            labels.set("a#0", "keep", was="")
        file.write_text("pair,verdict\na#0,perhaps\n")
        with pytest.raises(InputError, match="verdict 'perhaps'"):
            labels.set("b#0", "drop")
    assert "perhaps" in file.read_text()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    with LabelFile(file), pytest.raises(InputError, match="another process has it open"):
        LabelFile(file)
    LabelFile(file).close()


def test_a_file_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "labels.csv"
    with LabelFile(file, ["a#0"]) as labels:
        before = file.read_bytes()

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("mmpoison.base.files.os.fsync", full)
            with pytest.raises(InputError, match="the disk is full"):
                labels.set("a#0", "drop")
        assert labels["a#0"] == ""
        assert file.read_bytes() == before
        labels.set("a#0", "drop")
    assert read_labels(file) == {"a#0": "drop"}
