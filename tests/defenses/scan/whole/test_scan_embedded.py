"""A scan of embeddings that exist: verdict, lists, what is resumed, and what cannot be read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.defenses.scan.embedded.conftest import datacomp, make_pairs
from tests.defenses.scan.whole.conftest import FALSE_PAIRS, write_corpus
from tests.defenses.scan.whole.test_shard_passes import Here

import mmpoison
from mmpoison.base.progress import SilentProgress
from mmpoison.defenses.scan import open_embedded
from mmpoison.defenses.scan import scan as module
from mmpoison.defenses.scan.cut.score_filter import SuspiciousGroups
from mmpoison.defenses.scan.scan import ScanSettings, scan_embedded
from mmpoison.defenses.scan.shard_runner import BLOCK
from mmpoison.defenses.scan.sources import OpenedSource
from mmpoison.defenses.scan.write.files import Judged
from mmpoison.errors import InputError
from mmpoison.records.data_scan import DataScan

QUICK = ScanSettings(planted=False)


@pytest.fixture(autouse=True)
def in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in this process; starting others takes seconds."""
    if "own_processes" not in request.keywords:
        monkeypatch.setattr(module, "make_workers", lambda *given, **more: [Here()])


def scanned(
    source: str | Path, out: Path, settings: ScanSettings = QUICK, **options: Any
) -> Judged:
    return scan_embedded(
        OpenedSource(open_embedded(source)),
        out,
        out.with_name(f"{out.name}.scanning"),
        settings,
        workers=options.get("workers", 1),
        threads=1,
        ray=None,
        progress=SilentProgress(),
    )


@dataclass(frozen=True)
class Result:
    """The result of a scan of `corpus`."""

    scan: DataScan
    out: Path


@pytest.fixture(scope="module")
def result(corpus: tuple[Path, set[str]], tmp_path_factory: pytest.TempPathFactory) -> Result:
    patch = pytest.MonkeyPatch()
    patch.setattr(module, "make_workers", lambda *given, **more: [Here()])
    out = tmp_path_factory.mktemp("scan") / "out"
    try:
        found = scanned(corpus[0], out).scan
        assert found is not None
        return Result(found, out)
    finally:
        patch.undo()


def test_the_goal_is_named_and_its_pairs_are_dropped(
    result: Result, corpus: tuple[Path, set[str]]
) -> None:
    scan, out = result.scan, result.out
    assert scan.verdict == "poisoning likely"
    assert "topic3" in scan.groups[0].captions_about
    assert "topic7" in scan.groups[0].images_about
    dropped = pq.read_table(out / "drop.parquet")
    keys = set(dropped["image_path"].to_pylist())
    assert len(keys & corpus[1]) > 0.6 * FALSE_PAIRS
    assert len(keys - corpus[1]) < 0.005 * scan.pairs
    gone = dropped["image_path"].to_pylist()
    assert dropped["own"].to_pylist() == [f"mine {int(key)}" for key in gone]
    assert all("captions about" in reason for reason in dropped["reason"].to_pylist())
    kept = {line for file in (out / "keep").iterdir() for line in file.read_text().splitlines()}
    assert len(kept) == scan.pairs - scan.dropped
    assert not kept & keys
    assert scan.groups[0].examples[0].address is not None


def test_clean_data_show_nothing_and_say_what_would_have_been_seen(tmp_path: Path) -> None:
    write_corpus(tmp_path / "clean", 4000, bad=0, shards=2)
    scan = scanned(tmp_path / "clean", tmp_path / "out", ScanSettings()).scan
    assert scan is not None
    assert scan.verdict == "nothing stands out"
    assert scan.dropped == 0
    assert all(group.grade == "as in clean data" for group in scan.groups)
    assert {one.images for one in scan.planted} == {10, 25, 50}
    assert f"{scan.planted[-1].found} of 6 on 50 images" in scan.summary[0]
    assert scan.planted[-1].found > 0


@pytest.mark.parametrize(("name", "used"), [("category", True), ("place", False)])
def test_a_column_of_labels_says_the_kinds_of_planted_goals(
    name: str, used: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "clean", 2000, bad=0, shards=2)
    for file in (tmp_path / "clean" / "metadata").iterdir():
        table = pq.read_table(file)
        values = [None if row % 10 == 0 else f"kind {row % 3}" for row in range(len(table))]
        pq.write_table(table.append_column(name, pa.array(values)), file)
    given: list[Any] = []

    def plant(pairs: Any, level: float, labels: Any, **more: Any) -> list[Any]:
        given.append(labels)
        return []

    monkeypatch.setattr(module, "plant_goals", plant)
    scanned(tmp_path / "clean", tmp_path / "out", ScanSettings())
    (labels,) = given
    assert (labels is not None) == used
    if used:
        assert sorted(set(labels.tolist())) == [-1, 1, 2, 3]
        assert (labels == -1).mean() == pytest.approx(0.1)


def test_a_share_of_single_pairs_can_be_given_up(
    corpus: tuple[Path, set[str]], tmp_path: Path
) -> None:
    scan = scanned(
        corpus[0], tmp_path / "out", ScanSettings(SuspiciousGroups(clean_loss=0.02), planted=False)
    ).scan
    assert scan is not None
    dropped = pq.read_table(tmp_path / "out" / "drop.parquet").to_pylist()
    alone = [row for row in dropped if row["group"] is None]
    assert alone
    assert 0.0195 * scan.pairs <= scan.dropped <= 0.0201 * scan.pairs
    assert all(row["reason"].startswith("cosine distance") for row in alone)
    # the false pairs are the most distant ones here
    assert len({row["image_path"] for row in dropped} & corpus[1]) == FALSE_PAIRS


def test_broken_rows_and_a_broken_shard(corpus: tuple[Path, set[str]], tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(corpus[0], source)
    vectors = np.load(source / "img_emb" / "img_emb_0.npy")
    vectors[5], vectors[6] = 0, np.nan
    np.save(source / "img_emb" / "img_emb_0.npy", vectors)
    file = source / "text_emb" / "text_emb_2.npy"
    file.write_bytes(file.read_bytes()[:-100])
    scan = scanned(source, tmp_path / "out").scan
    assert scan is not None
    assert [shard.shard for shard in scan.failed] == ["2"]
    assert "text_emb_2.npy" in scan.failed[0].reason
    assert scan.pairs == 4000
    assert scan.unusable == 2
    rows = pq.read_table(tmp_path / "out" / "drop.parquet").to_pylist()
    assert [row["row"] for row in rows if "no usable embedding" in row["reason"]] == [5, 6]
    assert sorted(path.name for path in (tmp_path / "out" / "keep").iterdir()) == ["0.txt", "1.txt"]


def test_embeddings_in_another_order_are_not_judged(
    corpus: tuple[Path, set[str]], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(corpus[0], source)
    file = source / "img_emb" / "img_emb_1.npy"
    np.save(file, np.random.default_rng(0).permutation(np.load(file)))
    scan = scanned(source, tmp_path / "out").scan
    assert scan is not None
    assert scan.verdict == "cannot be decided"
    assert any("not in the same order" in note for note in scan.notes)


def test_too_few_pairs_are_not_judged(tmp_path: Path) -> None:
    write_corpus(tmp_path / "few", 100, bad=0, shards=1)
    scan = scanned(tmp_path / "few", tmp_path / "out", ScanSettings()).scan
    assert scan is not None
    assert scan.verdict == "cannot be decided"
    assert "100 pairs are too few" in scan.summary[0]


def test_a_scan_that_was_stopped_resumes_to_the_same_result(
    corpus: tuple[Path, set[str]],
    result: Result,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop() -> None:
        raise Stopped

    worker = Meddles("3-gather/1", stop)
    monkeypatch.setattr(module, "make_workers", lambda *given, **more: [worker])
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        scanned(corpus[0], out)
    assert not out.exists()
    again = Here()
    monkeypatch.setattr(module, "make_workers", lambda *given, **more: [again])
    scanned(corpus[0], out)
    assert again.done[0] == "3-gather/1"
    for name in ("scan.json", "groups.json", "keep/0.txt"):
        found, expected = ((one / name).read_text() for one in (out, result.out))
        # the next step names the folder
        assert found.replace(str(out), str(result.out)) == expected, name


def test_work_of_other_data_is_not_used(corpus: tuple[Path, set[str]], tmp_path: Path) -> None:
    work = tmp_path / "out.scanning" / "passes"
    work.mkdir(parents=True)
    (work / "key.json").write_text('{"scan": "of something else", "files": {}}')
    with pytest.raises(InputError, match="unfinished work of another scan"):
        scanned(corpus[0], tmp_path / "out")


@pytest.mark.parametrize("key", ['{"scan": "x"', '{"scan": 3, "files": {}}'])
def test_a_damaged_key_of_unfinished_work_is_one_line(
    corpus: tuple[Path, set[str]], tmp_path: Path, key: str
) -> None:
    work = tmp_path / "out.scanning" / "passes"
    work.mkdir(parents=True)
    (work / "key.json").write_text(key)
    with pytest.raises(
        InputError, match=r"cannot be resumed, key\.json is damaged .*: delete"
    ) as e:
        scanned(corpus[0], tmp_path / "out")
    assert len(str(e.value).splitlines()) == 1


def test_embeddings_of_which_none_can_be_used_are_refused(tmp_path: Path) -> None:
    pairs = make_pairs(60)
    datacomp(tmp_path / "in", [replace(pairs, text=pairs.text * np.float16(0))])
    with pytest.raises(InputError, match=r"in: no pair can be judged: 60 pairs, each with an"):
        scanned(tmp_path / "in", tmp_path / "out")
    # nothing is left that a scan of repaired embeddings would stumble over
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


class Stopped(Exception):
    pass


class Meddles(Here):
    """Does something when a shard's turn comes in a pass."""

    def __init__(self, task: str, act: Callable[[], None]) -> None:
        super().__init__()
        self._task, self._act = task, act

    def submit(self, task: Any) -> None:
        if task.id == self._task:
            self._act()
        super().submit(task)


def replace_keeping_times(file: Path) -> None:
    """As `rsync -t` does: other embeddings, with the size and the time of change of the old ones."""
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    new = file.with_suffix(".new")
    np.save(new.open("wb"), np.load(file)[::-1].copy())
    new.replace(file)
    os.utime(file, ns=times)


def write_keeping_times(file: Path) -> None:
    """Change the middle of a file in place; size, inode, time of change, beginning and end stay."""
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    middle = file.stat().st_size // 2
    assert middle > BLOCK + 4
    with file.open("r+b") as stream:
        stream.seek(middle)
        stream.write(b"\0\0\0\0")
    os.utime(file, ns=times)


@pytest.mark.parametrize(
    ("task", "change"),
    [
        ("1-read/2", replace_keeping_times),
        ("2-counts/0", write_keeping_times),
        ("4-score/2", replace_keeping_times),
    ],
)
def test_a_source_that_changes_under_the_scan_gives_no_result(
    corpus: tuple[Path, set[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    change: Callable[[Path], None],
) -> None:
    source = tmp_path / "source"
    shutil.copytree(corpus[0], source)
    file = source / "img_emb" / "img_emb_0.npy"
    worker = Meddles(task, lambda: change(file))
    monkeypatch.setattr(module, "make_workers", lambda *given, **more: [worker])
    with pytest.raises(InputError, match=r"img_emb_0\.npy: changed since the scan began"):
        scanned(source, tmp_path / "out")
    assert task in worker.done
    assert not (tmp_path / "out").exists()


def test_a_source_that_changes_between_a_kill_and_its_resume_is_refused(
    corpus: tuple[Path, set[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    shutil.copytree(corpus[0], source)

    def stop() -> None:
        raise Stopped

    worker = Meddles("3-gather/1", stop)
    monkeypatch.setattr(module, "make_workers", lambda *given, **more: [worker])
    with pytest.raises(Stopped):
        scanned(source, tmp_path / "out")
    replace_keeping_times(source / "text_emb" / "text_emb_1.npy")
    with pytest.raises(InputError, match=r"text_emb_1\.npy: changed since the scan began"):
        scanned(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.own_processes
def test_processes_give_the_same_bytes(
    corpus: tuple[Path, set[str]], result: Result, tmp_path: Path
) -> None:
    before = os.environ.get("OMP_NUM_THREADS")
    found = mmpoison.scan(corpus[0], out=tmp_path / "out", planted=False, workers=2, progress=False)
    assert os.environ.get("OMP_NUM_THREADS") == before
    assert found.groups == result.scan.groups
    for name in ("groups.json", "keep/0.txt", "keep/1.txt", "keep/2.txt"):
        assert (tmp_path / "out" / name).read_bytes() == (result.out / name).read_bytes(), name


def test_a_script_without_a_guard_scans(corpus: tuple[Path, set[str]], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import mmpoison\n"
        f"source, out = {str(corpus[0])!r}, {str(tmp_path / 'out')!r}\n"
        "found = mmpoison.scan(source, out=out, planted=False, progress=False)\n"
        "print(found.verdict)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "poisoning likely\n"
