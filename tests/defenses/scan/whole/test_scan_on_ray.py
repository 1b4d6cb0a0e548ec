"""A scan with `ray="local"`: the same bytes as with processes, also if a worker is killed or the cores are few."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.defenses.scan.whole.conftest import write_corpus
from tests.runs.conftest import kill_the_first_worker

import mmpoison
from mmpoison.base.workers import connect
from mmpoison.errors import InputError
from mmpoison.records.data_scan import DataScan

ray = pytest.importorskip("ray")


def scan(source: Path, out: Path, ray: str | None = None) -> DataScan:
    return mmpoison.scan(source, out=out, planted=False, workers=2, ray=ray, progress=False)


def bytes_of(out: Path) -> dict[str, bytes]:
    return {str(f.relative_to(out)): f.read_bytes() for f in out.rglob("*") if f.is_file()}


@pytest.mark.slow
def test_ray_gives_the_bytes_that_processes_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ray's workers give way to all other processes by default, here to other tests
    monkeypatch.setenv("RAY_worker_niceness", "0")
    source = tmp_path / "corpus"
    write_corpus(source, 4000, shards=4)
    # one shard that cannot be read: its message comes back from the workers
    file = source / "text_emb" / "text_emb_3.npy"
    file.write_bytes(file.read_bytes()[:-100])
    killed = kill_the_first_worker(monkeypatch)
    # on a cluster a node was started in another folder than the scan
    (tmp_path / "node").mkdir()
    monkeypatch.chdir(tmp_path / "node")
    try:
        # one core for two workers, as on what is left of a cluster of which a node has died
        connect("local", 1, 1)
        monkeypatch.chdir(tmp_path)
        source, out = Path("corpus"), Path("scan")
        found = scan(source, out, "local")
    finally:
        ray.shutdown()
    assert killed
    assert [shard.shard for shard in found.failed] == ["3"]
    # in the same folder, since pages name it
    shutil.move(out, tmp_path / "by-ray")
    scan(source, out)
    by_ray, by_processes = bytes_of(tmp_path / "by-ray"), bytes_of(out)
    assert set(by_ray) >= {"drop.parquet", "groups.json", "scan.json", "scan.html", "keep/0.txt"}
    assert b"cut short" in by_ray["scan.json"]
    assert by_ray == by_processes


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", 200, bad=0, shards=1)
    with pytest.raises(InputError, match=r"^--ray head-node: give local, auto, HOST:PORT or"):
        scan(tmp_path / "corpus", tmp_path / "out", "head-node")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus"]


def test_local_is_a_cluster_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address Ray joins a cluster of the user's, and refuses to be told its number of cores."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: asked.update(options))
    connect("local", 3, 2)
    assert (asked["address"], asked["num_cpus"]) == ("local", 6)
