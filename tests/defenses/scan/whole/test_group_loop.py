"""All passes: the scan in memory where the sample is everything, poison in larger sets, the same bits however run."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr
from tests.defenses.scan.groups.conftest import Made, made
from tests.defenses.scan.whole.group_loop import Found, groups_in, scan_memory, source_of

from mmpoison.defenses.scan import open_embedded
from mmpoison.defenses.scan.groups import items, passes
from mmpoison.defenses.scan.groups.growth import Grown, Pool, grow_groups
from mmpoison.defenses.scan.groups.levels import false_alarms_at
from mmpoison.defenses.scan.groups.passes import Group, find_groups
from mmpoison.defenses.scan.read.pass_runner import read_memory
from mmpoison.defenses.scan.read.vector_shard import VectorShard
from mmpoison.errors import InputError


def scanned(shards: list[VectorShard], **options: Any) -> Found:
    return groups_in(source_of(shards), **options)


def rows_of(group: Group, shards: list[VectorShard]) -> npt.NDArray[np.intp]:
    starts = np.concatenate([[0], np.cumsum([len(one) for one in shards])])
    return np.concatenate([starts[number] + rows for number, rows in group.rows.items()])


@pytest.mark.parametrize(("seed", "captions"), [(0, 1), (4, 3)])
def test_shards_give_what_one_shard_in_memory_gives(seed: int, captions: int) -> None:
    data = made(seed, captions=captions, images=3000 if captions == 1 else 1200, poison=40)
    shards = data.shards(4)
    (whole,) = data.shards(1)
    groups, expected = scan_memory(whole)
    again = scan_memory(whole, 1)[1]
    found = scanned(shards)
    score = np.concatenate(found.scores)
    assert score.dtype == np.float32
    # as close as two scans in memory that differ in their folds: images in other shards are in other folds
    usual = spearmanr(again, expected).statistic
    assert spearmanr(score, expected).statistic > usual - 0.01
    first, other = rows_of(found.groups[0], shards), groups[0].rows[0]
    assert len(np.intersect1d(first, other)) / len(np.union1d(first, other)) > 0.8
    assert data.bad[first].mean() > 0.9
    assert 1 / 4 < found.groups[0].strength / groups[0].strength < 4
    assert found.groups[0].images == len(np.unique(data.image_of[first]))


def test_false_captions_on_images_that_look_like_nothing_complete_the_group() -> None:
    """The honest captions of these images name the kind of the others."""
    data, rng = made(2, captions=5, images=1200, poison=40), np.random.default_rng(2)
    false = np.flatnonzero(data.bad)[:4]
    image = data.image.copy()
    image[data.image_of[false]] = rng.normal(size=(len(false), image.shape[1]))
    (shard,) = replace(data, image=image).shards(1)
    group = scan_memory(shard)[0][0].rows[0]
    assert np.isin(false, group).mean() >= 0.75
    assert data.bad[group].mean() > 0.95


def test_one_shard_in_files_gives_the_same_bits_as_in_memory(three_captions: Made) -> None:
    (whole,) = three_captions.shards(1)
    # a source has one dimension: shorter vectors are filled up with zeros
    wide = replace(whole, text=np.pad(whole.text, ((0, 0), (0, 16))))
    groups, score = scan_memory(wide)
    found = scanned([whole])
    np.testing.assert_array_equal(found.scores[0], score)
    assert [one.strength for one in found.groups] == [one.strength for one in groups]
    for mine, theirs in zip(found.groups, groups, strict=True):
        np.testing.assert_array_equal(mine.rows[0], theirs.rows[0])


def same(one: Found, other: Found) -> None:
    for first, second in zip(one.scores, other.scores, strict=True):
        np.testing.assert_array_equal(first, second)
    assert [g.strength for g in one.groups] == [g.strength for g in other.groups]
    for mine, theirs in zip(one.groups, other.groups, strict=True):
        assert mine.rows.keys() == theirs.rows.keys()
        for number, rows in mine.rows.items():
            np.testing.assert_array_equal(rows, theirs.rows[number])


@pytest.fixture
def few_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few that cells are flagged and thinned."""
    monkeypatch.setattr(items, "GATHERED", 100)
    monkeypatch.setattr(items, "OF_A_CELL", 20)


@pytest.mark.usefixtures("few_gathered")
def test_processes_files_and_memory_maps_change_no_bit(
    three_captions: Made, tmp_path: Path
) -> None:
    source = source_of(three_captions.shards(5))
    expected = groups_in(source, sample=2000)
    assert not expected.everything
    same(groups_in(source, sample=2000, workers=2), expected)
    for folder in ("text_emb", "img_emb", "metadata"):
        (tmp_path / folder).mkdir()
    for shard in source.shards:
        for folder, vectors in zip(("text_emb", "img_emb"), shard.vectors(), strict=True):
            np.save(tmp_path / folder / f"{folder}_{shard.name}.npy", vectors)
        ids = [f"{shard.name}-{row}" for row in range(shard.rows)]
        table = pa.table({"image_path": ids, "image": shard.image_ids()})
        pq.write_table(table, tmp_path / "metadata" / f"metadata_{shard.name}.parquet")
    files = open_embedded(tmp_path, options={"image_id": "image"})
    assert isinstance(files.shards[0].vectors()[1], np.memmap)
    same(groups_in(files, sample=2000), expected)


def test_poison_is_found_where_cells_are_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "GATHERED", 400)
    data = made(5, images=12_000, poison=40)
    shards = data.shards(6)
    found = scanned(shards, sample=4000)
    assert not found.everything
    first = rows_of(found.groups[0], shards)
    assert data.bad[first].mean() > 0.9
    assert np.isin(np.flatnonzero(data.bad), first).mean() > 0.5
    for group in found.groups:
        assert group.counted >= 5
        assert group.false_alarms == false_alarms_at(group.strength)
    score = np.concatenate(found.scores)
    assert (score[data.bad] > np.quantile(score, 0.98)).mean() > 0.5


@pytest.mark.usefixtures("few_gathered")
def test_strengths_count_all_rows_and_not_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    grown: list[Grown] = []

    def grow(pool: Pool) -> Grown:
        grown.append(grow_groups(pool))
        return grown[-1]

    monkeypatch.setattr(passes, "grow_groups", grow)
    (shard,) = made(5, images=12_000, poison=40).shards(1)
    found = find_groups(read_memory(shard, sample=3000))
    reduced = found.model.reduce(shard)
    every = items.view_items(items.IMAGES, reduced, found.model.crowd)
    conflict = found.model.fits[items.IMAGES].conflict(every)
    share = (1 + np.argsort(np.argsort(-conflict))) / len(conflict)
    cells = grown[0].cells
    strength = cells.strength(cells.count(every.text, every.image, every.key, share))[1]
    assert abs(grown[0].strength[0] / strength[0] - 1) > 0.1
    assert found.groups[0].strength == pytest.approx(strength[0], rel=0.02)


def test_a_shard_without_usable_rows_is_no_obstacle(one_caption: Made) -> None:
    shards = one_caption.shards(3)
    nothing = VectorShard(3, np.zeros((7, 80), np.float16), np.ones((7, 96), np.float16))
    empty = VectorShard(4, np.zeros((0, 80), np.float16), np.ones((0, 96), np.float16))
    found = scanned([*shards, nothing, empty])
    assert np.isnan(found.scores[3]).all()
    assert len(found.scores[4]) == 0
    assert found.unusable == 7


def test_what_cannot_be_scanned_is_refused(one_caption: Made) -> None:
    few = VectorShard(0, one_caption.text[:19], one_caption.image[:19])
    with pytest.raises(InputError, match="19 usable pairs: suspicious-groups needs at least 20"):
        scanned([few])
    other = VectorShard(1, one_caption.text[:30, :40], one_caption.image[:30, :40])
    with pytest.raises(InputError, match="text have 40 and 96 dimensions"):
        scanned([one_caption.shards(1)[0], other])
    with pytest.raises(InputError, match="no shard can be read: there are no shards"):
        scanned([])


SCAN = """
import hashlib
import sys
from pathlib import Path
from tests.defenses.scan.groups.conftest import made
from tests.defenses.scan.whole.group_loop import source_of
from mmpoison.defenses.scan import scan as module
from mmpoison.defenses.scan.sources import OpenedSource
from mmpoison.base.progress import SilentProgress

def write(judged, runner, *rest):
    scores = b"".join(score.tobytes() for n in sorted(runner.shards) for score in runner.part("4-score", n, "score"))
    print(hashlib.sha256(scores).hexdigest(), [one.strength for one in judged.judgement.scores.groups])
    return judged

module.write_scan = write
source, folder = source_of(made(0, captions=3, images=1500).shards(3)), Path(sys.argv[1])
module.scan_embedded(
    OpenedSource(source), folder / "out", folder / "work",
    module.ScanSettings(planted=False, sample=2000),
    workers=1, threads=1, ray=None, progress=SilentProgress(),
)
"""


@pytest.mark.slow
def test_threads_of_the_matrix_products_change_no_bit(tmp_path: Path) -> None:
    root = Path(__file__).parents[4]
    found = {
        subprocess.run(
            [sys.executable, "-c", SCAN, str(tmp_path)],
            cwd=root,
            env=os.environ | {"OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(found) == 1
