"""All passes: the scan in memory where the sample is everything, poison in larger sets, the same bits however run."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import spearmanr
from tests.defenses.filters.passes.groups.conftest import Made, made, saved_and_read

from mmpoison.defenses.filters.passes.groups import counts as flags_module
from mmpoison.defenses.filters.passes.groups import loop
from mmpoison.defenses.filters.passes.groups.counts import Counts, Flags, Gathered, Rows
from mmpoison.defenses.filters.passes.groups.findings import (
    STRONG,
    Findings,
    Group,
    Scores,
    needed_score,
)
from mmpoison.defenses.filters.passes.groups.loop import ShardScan, scan_shards
from mmpoison.defenses.filters.passes.groups.model import (
    Model,
    Start,
    sums_from_arrays,
    sums_to_arrays,
)
from mmpoison.defenses.filters.passes.groups.shard import Sample, Shard
from mmpoison.defenses.filters.suspicious_groups._evidence import false_alarms_at
from mmpoison.defenses.filters.suspicious_groups._scan import scan
from mmpoison.errors import InputError


def scanned(shards: list[Shard], **options: Any) -> ShardScan:
    return scan_shards([len(one) for one in shards], lambda i: shards[i], **options)


def rows_of(group: Group, shards: list[Shard]) -> npt.NDArray[np.intp]:
    starts = np.concatenate([[0], np.cumsum([len(one) for one in shards])])
    return np.concatenate([starts[number] + rows for number, rows in group.rows.items()])


@pytest.mark.parametrize(("seed", "captions"), [(0, 1), (3, 1), (1, 3), (4, 3)])
def test_where_the_sample_is_everything_it_is_the_scan_in_memory(seed: int, captions: int) -> None:
    data = made(seed, captions=captions, images=3000 if captions == 1 else 1200, poison=40)
    shards = data.shards(4)
    expected, again = scan(data.views(), 0), scan(data.views(), 1)
    found = scanned(shards)
    score = np.concatenate(found.scores)
    assert score.dtype == np.float32
    # as close as two scans in memory that differ in their folds
    usual = spearmanr(again.score, expected.score).statistic
    assert spearmanr(score, expected.score).statistic > usual - 0.005
    first, other = rows_of(found.groups[0], shards), expected.clusters[0].rows
    assert len(np.intersect1d(first, other)) / len(np.union1d(first, other)) > 0.9
    assert data.bad[first].mean() > 0.9
    assert found.groups[0].score == pytest.approx(expected.clusters[0].score, rel=0.25)
    assert found.groups[0].found == pytest.approx(expected.clusters[0].found, rel=0.1)
    assert found.groups[0].images == len(np.unique(data.image_of[first]))


def test_one_image_with_all_the_captions_is_found(three_captions: Made) -> None:
    """Attack I: captions of one topic on one image, in a shard with many others."""
    said = np.flatnonzero(three_captions.bad)
    text = np.concatenate([three_captions.text[~three_captions.bad], three_captions.text[said]])
    target = int(three_captions.image_of[said[0]])
    owner = np.concatenate(
        [three_captions.image_of[~three_captions.bad], np.full(len(said), target)]
    )
    shard = Shard(0, text, three_captions.image[owner], owner)
    found = scanned([shard])
    bad = np.arange(len(text)) >= len(text) - len(said)
    first = found.groups[0].rows[0]
    assert bad[first].mean() > 0.9
    assert np.isin(np.flatnonzero(bad), first).mean() > 0.8


def save_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write all that passes between the passes to files, and read it again."""

    def again(value: Any) -> Any:
        if isinstance(
            value, Sample | Start | Model | Counts | Rows | Gathered | Flags | Findings | Scores
        ):
            return type(value).from_arrays(saved_and_read(value.to_arrays()))
        if isinstance(value, dict):
            if "images" in value and hasattr(value["images"], "to_text"):
                return sums_from_arrays(saved_and_read(sums_to_arrays(value)))
            return {key: again(one) for key, one in value.items()}
        if isinstance(value, tuple):
            return tuple(again(one) for one in value)
        return value

    for name in (
        *("sample_part", "fit_start", "sums_part", "fit_model", "counts_part", "flag"),
        *("gather_part", "find", "score_part"),
    ):
        function = getattr(loop, name)
        monkeypatch.setattr(loop, name, lambda *args, f=function: again(f(*args)))


def same(one: ShardScan, other: ShardScan) -> None:
    for first, second in zip(one.scores, other.scores, strict=True):
        np.testing.assert_array_equal(first, second)
    assert [g.score for g in one.groups] == [g.score for g in other.groups]
    for mine, theirs in zip(one.groups, other.groups, strict=True):
        assert mine.rows.keys() == theirs.rows.keys()
        for number, rows in mine.rows.items():
            np.testing.assert_array_equal(rows, theirs.rows[number])


def test_threads_files_and_memory_maps_change_no_bit(
    three_captions: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # so few that cells are flagged and thinned
    monkeypatch.setattr(flags_module, "GATHERED", 200)
    monkeypatch.setattr(flags_module, "OF_A_CELL", 20)
    shards = three_captions.shards(5)
    expected = scanned(shards, sample=2000)
    assert not expected.flags["images"].everything

    with ThreadPoolExecutor(3) as pool:
        same(scanned(shards, sample=2000, map_parts=pool.map), expected)
    for shard in shards:
        np.save(tmp_path / f"{shard.number}.npy", shard.image)
    mapped = [
        replace(shard, image=np.load(tmp_path / f"{shard.number}.npy", mmap_mode="r"))
        for shard in shards
    ]
    same(scanned(mapped, sample=2000), expected)
    save_everything(monkeypatch)
    same(scanned(shards, sample=2000), expected)


def test_poison_is_found_where_cells_are_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flags_module, "GATHERED", 600)
    data = made(5, images=12_000, poison=40)
    shards = data.shards(6)
    found = scanned(shards, sample=4000)
    assert not found.flags["images"].everything
    first = rows_of(found.groups[0], shards)
    assert data.bad[first].mean() > 0.9
    assert np.isin(np.flatnonzero(data.bad), first).mean() > 0.5
    # nothing is said of groups that are weak for the size of the set
    needed = needed_score(sum(map(len, shards)))
    for group in found.groups:
        if group.score < needed or group.images < 5:
            assert group.false_alarms == 1.0
        else:
            assert group.false_alarms == false_alarms_at(group.score)
    score = np.concatenate(found.scores)
    assert (score[data.bad] > np.quantile(score, 0.98)).mean() > 0.5


def test_unusable_rows_have_no_score_and_change_little(one_caption: Made) -> None:
    shards = one_caption.shards(3)
    text = shards[1].text.copy()
    text[[4, 9]] = 0
    text[11, 3] = np.nan
    shards[1] = replace(shards[1], text=text)
    found = scanned(shards)
    assert found.unusable == 3
    assert np.flatnonzero(np.isnan(found.scores[1])).tolist() == [4, 9, 11]
    assert not np.isnan(np.concatenate([found.scores[0], found.scores[2]])).any()
    assert one_caption.bad[rows_of(found.groups[0], shards)].mean() > 0.9


def test_a_shard_without_usable_rows_is_no_obstacle(one_caption: Made) -> None:
    shards = one_caption.shards(3)
    nothing = Shard(3, np.zeros((7, 80), np.float16), np.ones((7, 96), np.float16))
    empty = Shard(4, np.zeros((0, 80), np.float16), np.ones((0, 96), np.float16))
    found = scanned([*shards, nothing, empty])
    assert np.isnan(found.scores[3]).all()
    assert len(found.scores[4]) == 0
    assert found.unusable == 7


def test_what_cannot_be_scanned_is_refused(one_caption: Made) -> None:
    few = Shard(0, one_caption.text[:19], one_caption.image[:19])
    with pytest.raises(InputError, match="19 usable pairs: suspicious-groups needs at least 20"):
        scanned([few])
    other = Shard(1, one_caption.text[:30, :40], one_caption.image[:30])
    with pytest.raises(InputError, match="text have 80 and 40 dimensions"):
        scanned([one_caption.shards(1)[0], other])
    with pytest.raises(InputError, match="the shards hold no pairs"):
        scan_shards([], lambda i: few)


SCAN = """
import hashlib
from tests.defenses.filters.passes.groups.conftest import made
from mmpoison.defenses.filters.passes.groups.loop import scan_shards
shards = made(0, captions=3, images=1500).shards(3)
found = scan_shards([len(one) for one in shards], lambda i: shards[i], sample=2000)
print(hashlib.sha256(b"".join(score.tobytes() for score in found.scores)).hexdigest())
"""


def test_processes_change_no_bit(one_caption: Made) -> None:
    shards = one_caption.shards(3)
    sizes = [len(one) for one in shards]
    expected = scan_shards(sizes, shards.__getitem__, sample=2000)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        same(scan_shards(sizes, shards.__getitem__, sample=2000, map_parts=pool.map), expected)


@pytest.mark.slow
def test_threads_of_the_matrix_products_change_no_bit() -> None:
    root = Path(__file__).parents[5]
    found = {
        subprocess.run(
            [sys.executable, "-c", SCAN],
            cwd=root,
            env=os.environ | {"OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(found) == 1


def test_the_limit_of_large_sets_grows_with_the_size() -> None:
    sizes = [100, 20_000, 21_000, 40_000, 99_999, 100_000, 400_000_000]
    needed = [needed_score(size) for size in sizes]
    assert needed == sorted(needed)
    assert needed[:2] == [0, 0]
    assert needed[-2:] == [STRONG, STRONG]
