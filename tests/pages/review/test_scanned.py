"""The pairs of a scan that a person should see, and what resembles them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import refusal
from tests.scan_results import write_scan_result

import mmpoison
from mmpoison.datasets import PairDataset
from mmpoison.defenses import DEFENSES
from mmpoison.defenses.scan.read.pieces import PairPieces
from mmpoison.defenses.scan.read.vectors import embed_pairs
from mmpoison.errors import InputError
from mmpoison.models import DualEncoder, prepare_pixels
from mmpoison.pages.review import (
    NEAREST,
    add_neighbours,
    as_scanned,
    group_members,
    scanned_pairs,
)
from mmpoison.records.data_scan import read_scan


@pytest.fixture(scope="module")
def judge(make_encoder: Callable[..., DualEncoder]) -> DualEncoder:
    return make_encoder(7)


def scan(source: Any, judge: DualEncoder, out: Path, **options: Any) -> Path:
    mmpoison.scan(source, encoder=judge, out=out, planted=False, progress=False, **options)
    return out


@pytest.fixture(scope="module")
def result(
    square_folder: Path, judge: DualEncoder, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("scanned") / "out"
    return scan(square_folder, judge, out, method="relevance-filter", lose=0.1)


METHODS = [name for name, found in DEFENSES.items() if found.kind == "pre-training"]


@pytest.mark.parametrize("method", METHODS)
def test_the_result_of_every_method(
    method: str,
    square_folder: Path,
    judge: DualEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is found from any folder; the score has its own name."""
    cut: dict[str, Any] = {} if method == "gmm-split" else {"lose": 0.1}
    monkeypatch.chdir(square_folder.parent)
    out = tmp_path / "there" / "out"
    scan(square_folder.name, judge, out, method=method, **cut)
    monkeypatch.chdir(tmp_path)
    found = read_scan(Path("there/out"))
    source = as_scanned(found, Path("there/out"))
    assert Path(source.data) == square_folder.resolve()
    assert found.score_name == DEFENSES[method].score_name  # type: ignore[attr-defined]
    shown = scanned_pairs(Path("there/out"), PairPieces(source), 10_000)
    alone = [pair for pair in shown if pair.goal is None]
    assert sum(not pair.kept for pair in shown) == found.dropped > 0
    assert [pair.kept for pair in alone] == sorted(bool(pair.kept) for pair in alone)


def rows_of(square_folder: Path) -> list[dict[str, Any]]:
    return [
        {"pair": name, "caption": str(piece.pairs.captions[row]), "score": place / 1000}
        for place, piece, row, name in PairPieces(square_folder).judged("train")
    ]


def test_pairs_of_groups_come_first_and_name_their_group(
    square_folder: Path, tmp_path: Path
) -> None:
    group = {20: 0, 7: 0, 4: 0, 3: 1, 9: 1, 11: 2}
    rows = [
        {**row, "group": group.get(place), "drop": group.get(place) in (0, 1)}
        for place, row in enumerate(rows_of(square_folder))
    ]
    rows[30]["drop"] = True
    rows[139]["score"] = None
    out = write_scan_result(tmp_path / "out", rows, groups=[{}, {}, {}])
    shown = scanned_pairs(out, PairPieces(square_folder, images_at_once=3), 9)
    assert [pair.goal for pair in shown] == [0, 0, 0, 1, 1, 2, None, None, None]
    places = [20, 7, 4, 9, 3, 11, 30, 138, 137]
    assert [pair.pair for pair in shown] == [rows[place]["pair"] for place in places]
    assert [pair.kept for pair in shown] == [False] * 5 + [True, False, True, True]
    every = scanned_pairs(out, PairPieces(square_folder), 10_000)
    assert {pair.pair for pair in every} == {
        row["pair"] for row in rows if row["score"] is not None
    }
    assert group_members(out) == [
        [rows[place]["pair"] for place in places] for places in ([4, 7, 20], [3, 9], [11])
    ]


def test_the_set_is_found_after_a_move(
    square_folder: Path, judge: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    (work / "sets" / "pairs").mkdir(parents=True)
    out = write_scan_result(work / "out" / "scan", [], data_path="../../sets/pairs")
    monkeypatch.chdir(tmp_path)
    assert as_scanned(read_scan(out), Path("work/out/scan")).data == str(work / "sets" / "pairs")
    # the two are moved together
    moved = tmp_path / "moved"
    shutil.move(work, moved)
    out = moved / "out" / "scan"
    assert as_scanned(read_scan(out), out).data == str(moved / "sets" / "pairs")
    # the set was moved alone
    shutil.move(moved / "sets" / "pairs", tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"is no longer at .*sets/pairs: give it with"):
        as_scanned(read_scan(out), out)
    # the result was moved alone, and the path as it was given is still right
    (tmp_path / "pairs").mkdir()
    assert as_scanned(read_scan(out), out).data == "pairs"
    # the name of a data set
    named = write_scan_result(tmp_path / "b", [], data="openmoji")
    assert as_scanned(read_scan(named), out).data == "openmoji"


def test_another_set_is_refused(result: Path, own_square_folder: Path) -> None:
    file = own_square_folder / "captions.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[5:] + lines[:5]) + "\n")
    with pytest.raises(InputError, match=r"is not the set that was scanned for"):
        scanned_pairs(result, PairPieces(own_square_folder), 30)


def test_neighbours_are_the_nearest_on_other_images(
    result: Path, square_folder: Path, squares: PairDataset, judge: DualEncoder
) -> None:
    pieces = PairPieces(square_folder, images_at_once=7)
    shown = add_neighbours(scanned_pairs(result, pieces, 6), pieces, judge)
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
                np.clip(np.sort(distance)[:NEAREST], 0, 2),
                atol=1e-5,
            )
            assert pair.image not in [other.image for other in found]
        assert len({other.image for other in pair.by_image}) == NEAREST


def test_a_result_without_scores_is_refused(square_folder: Path, tmp_path: Path) -> None:
    result = write_scan_result(tmp_path, [])
    assert "no pair that could be scored" in refusal(
        scanned_pairs, result, PairPieces(square_folder), 5
    )
