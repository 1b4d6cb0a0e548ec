"""The scan of a set of any size: the same scores as in one go, resumed after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmpoison.datasets import PairDataset
from mmpoison.defenses.filters import distance_scan
from mmpoison.defenses.filters.decide import mismatched_distances
from mmpoison.defenses.filters.distance_scan import (
    PairScan,
    images_at_once,
    scan_pairs,
)
from mmpoison.defenses.filters.pair_pieces import PairPieces
from mmpoison.defenses.filters.similarity import RelevanceFilter, pair_distances
from mmpoison.errors import InputError, MmpoisonWarning
from mmpoison.images import BrokenImage, decode
from mmpoison.models import DualEncoder, prepare_pixels

Make = Callable[..., DualEncoder]
METHOD = RelevanceFilter(threshold=0.8)


@pytest.fixture(scope="module")
def expected(judge: DualEncoder, squares: PairDataset) -> np.ndarray:
    train = squares.select(split="train")
    return pair_distances(judge, prepare_pixels(judge, train), train)


@pytest.mark.parametrize("at_once", [3, 1000])
def test_pieces_give_what_the_whole_gives(
    judge: DualEncoder,
    square_folder: Path,
    squares: PairDataset,
    expected: np.ndarray,
    tmp_path: Path,
    at_once: int,
) -> None:
    for source in (square_folder, squares):
        scan = scan_pairs(PairPieces(source, images_at_once=at_once), judge, METHOD, work=tmp_path)
        np.testing.assert_allclose(scan.scores, expected, atol=1e-5)
        distances = mismatched_distances(*scan.sample)
        assert ((distances >= 0) & (distances <= 2)).all()
        # the second source finds what the first has done
        assert scan.new_pairs == (len(expected) if source is square_folder else 0)


def test_every_image_is_embedded_once(
    judge: DualEncoder, squares: PairDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0
    trunk = DualEncoder.image_trunk

    def counting(self: DualEncoder, inputs):  # type: ignore[no-untyped-def]
        nonlocal count
        count += len(inputs)
        return trunk(self, inputs)

    monkeypatch.setattr(DualEncoder, "image_trunk", counting)
    scan_pairs(PairPieces(squares, images_at_once=5), judge, METHOD, work=tmp_path)
    assert count == len(squares.select(split="train").used_images())


def stop_at_the_fourth_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    work = distance_scan._judge
    calls = 0

    def failing(part, encoder, method):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return work(part, encoder, method)

    monkeypatch.setattr(distance_scan, "_judge", failing)


def test_it_goes_on_where_it_stopped(
    judge: DualEncoder,
    squares: PairDataset,
    expected: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pieces = PairPieces(squares, images_at_once=4)
    stop_at_the_fourth_piece(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        scan_pairs(pieces, judge, METHOD, work=tmp_path)
    # one finished piece is damaged: it is made anew
    files = sorted(tmp_path.rglob("*.npz"))
    assert len(files) == 3
    files[0].write_bytes(files[0].read_bytes()[:100])
    with pytest.warns(MmpoisonWarning, match="is damaged, it is made again"):
        scan = scan_pairs(pieces, judge, METHOD, work=tmp_path)
    np.testing.assert_allclose(scan.scores, expected, atol=1e-5)
    assert 0 < scan.new_pairs < len(expected)
    assert scan_pairs(pieces, judge, METHOD, work=tmp_path).new_pairs == 0


@pytest.mark.slow
def test_killed_and_run_again(
    judge_checkpoint: Path, square_folder: Path, judge: DualEncoder, tmp_path: Path
) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from mmpoison.defenses.filters import distance_scan\n"
        "from mmpoison.defenses.filters.pair_pieces import PairPieces\n"
        "from mmpoison.defenses.filters.similarity import RelevanceFilter\n"
        "from mmpoison.models import load_encoder\n"
        "method = RelevanceFilter(threshold=0.8)\n"
        "work = distance_scan._judge\n"
        "def slow(part, encoder, method):\n    time.sleep(0.3); return work(part, encoder, method)\n"
        "distance_scan._judge = slow\n"
        "pieces = PairPieces(sys.argv[2], images_at_once=2)\n"
        "judge = load_encoder(sys.argv[1])\n"
        "scan = distance_scan.scan_pairs(pieces, judge, method, work=Path(sys.argv[3]))\n"
        "print(scan.new_pairs, len(scan.scores))\n"
    )
    command = [sys.executable, "-c", code, str(judge_checkpoint), str(square_folder), str(tmp_path)]
    first = subprocess.Popen(command)
    while len(list(tmp_path.rglob("[!.]*.npz"))) < 2 and first.poll() is None:
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    new, total = map(int, again.stdout.split())
    assert total == 140
    assert 0 < new < total
    # the second run of the small pieces finds all of them
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "0 140\n"


def test_what_has_changed_is_judged_again(
    judge: DualEncoder, own_square_folder: Path, make_encoder: Make, tmp_path: Path
) -> None:
    def scan(encoder: DualEncoder = judge) -> int:
        return scan_pairs(
            PairPieces(own_square_folder, images_at_once=4), encoder, METHOD, work=tmp_path
        ).new_pairs

    assert scan() == 140
    captions = own_square_folder / "captions.jsonl"
    captions.write_text(captions.read_text().replace("a sheep on a hill", "a cow on a hill", 1))
    assert 0 < scan() <= 20
    image = own_square_folder / "sofa" / "00.png"
    image.write_bytes((own_square_folder / "bird" / "00.png").read_bytes())
    assert 0 < scan() <= 20
    assert scan() == 0
    assert scan(make_encoder(8)) == 140


def test_unreadable_images_are_known_from_an_earlier_scan(
    judge: DualEncoder, own_square_folder: Path, tmp_path: Path
) -> None:
    def scan() -> PairScan:
        return scan_pairs(
            PairPieces(own_square_folder, images_at_once=4), judge, METHOD, work=tmp_path
        )

    whole = scan()
    cut = own_square_folder / "sofa" / "00.png"
    sound = cut.read_bytes()
    cut.write_bytes(sound[:300])
    missing = own_square_folder / "bird" / "01.png"
    kept = missing.read_bytes()
    missing.unlink()
    first, second = scan(), scan()
    assert first.new_pairs > 0
    assert second.new_pairs == 0
    for found in (first, second):
        assert found.unreadable.images == 28
        assert found.unreadable.pairs == 10
        assert found.unreadable.poisoned is None
        assert found.unreadable.reasons["bird/01.png"] == "no such image"
        assert found.unreadable.reasons["sofa/00.png"].startswith("broken image (")
        left = np.isin(whole.image, np.unique(found.image))
        assert np.array_equal(whole.image[left], found.image)
        np.testing.assert_allclose(found.scores, whole.scores[left], atol=1e-6)
    # what was repaired is judged: the file of its piece names the images that were missing
    missing.write_bytes(kept)
    assert list(scan().unreadable.reasons) == ["sofa/00.png"]
    cut.write_bytes(sound)
    assert not scan().unreadable


def test_a_scan_with_an_unreadable_image_goes_on_where_it_stopped(
    judge: DualEncoder, own_square_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("aeroplane/01.png", "sofa/00.png"):
        (own_square_folder / name).write_bytes(b"no image")
    whole = scan_pairs(
        PairPieces(own_square_folder, images_at_once=4), judge, METHOD, work=tmp_path / "whole"
    )
    stop_at_the_fourth_piece(monkeypatch)
    pieces = PairPieces(own_square_folder, images_at_once=4)
    with pytest.raises(KeyboardInterrupt):
        scan_pairs(pieces, judge, METHOD, work=tmp_path / "work")
    again = scan_pairs(pieces, judge, METHOD, work=tmp_path / "work")
    assert 0 < again.new_pairs < len(whole.scores) == 130
    assert np.array_equal(again.scores, whole.scores)
    assert all(map(np.array_equal, again.sample, whole.sample))
    assert again.unreadable == whole.unreadable


def test_what_there_was_no_memory_for_is_tried_again(
    judge: DualEncoder, own_square_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = decode.read_image

    def short_of_memory(root, image_id, preparation):  # type: ignore[no-untyped-def]
        if image_id == "sofa/00.png":
            raise BrokenImage(f"{root / image_id}: there is not enough memory", "no-memory")
        return read(root, image_id, preparation)

    pieces = PairPieces(own_square_folder, images_at_once=4)
    with monkeypatch.context() as patch:
        patch.setattr(decode, "read_image", short_of_memory)
        found = scan_pairs(pieces, judge, METHOD, work=tmp_path)
        assert found.unreadable.reasons == {"sofa/00.png": "there is not enough memory"}
    assert not scan_pairs(pieces, judge, METHOD, work=tmp_path).unreadable


def test_a_split_without_pairs(judge: DualEncoder, squares: PairDataset, tmp_path: Path) -> None:
    only_train = PairPieces(squares.select(split="train"))
    with pytest.raises(InputError, match="split 'val' has no pair"):
        scan_pairs(only_train, judge, METHOD, split="val", work=tmp_path)


def test_mismatched_pairs_are_of_different_images() -> None:
    rng = np.random.default_rng(0)
    image = np.repeat(np.eye(4, dtype=np.float32), 5, axis=0)
    # captions fit their image exactly, and no other
    found = mismatched_distances(image.copy(), image, count=500, seed=int(rng.integers(9)))
    assert 300 < len(found) < 500
    np.testing.assert_allclose(found, 1)
    assert len(mismatched_distances(image[:5], image[:5])) == 0


def test_pieces_are_never_tiny_or_huge() -> None:
    assert 32 <= images_at_once(1000) < images_at_once(224) < images_at_once(32) <= 2000
