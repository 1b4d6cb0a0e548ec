"""A scan of a corpus in an object store: real calls to an S3 server on this machine, and `memory://`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from fsspec.registry import _registry
from tests.defenses.scan.embedded.conftest import datacomp, make_pairs
from tests.defenses.scan.whole.test_scan_embedded import scanned
from tests.defenses.scan.whole.test_shard_passes import Here

import mmpoison
from mmpoison.defenses.scan import open_embedded
from mmpoison.defenses.scan import scan as module
from mmpoison.defenses.scan.read.files import ShardError
from mmpoison.errors import InputError

RESULTS = ("groups.json", "keep/0.txt", "keep/1.txt", "keep/2.txt")
WHERE = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in this process; starting others takes seconds."""
    monkeypatch.setattr(module, "make_workers", lambda *given, **more: [Here()])


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 server."""
    moto = pytest.importorskip("moto.server")
    started = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    yield f"http://{host}:{port}"
    started.stop()


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system of the server, with address and credentials in the environment as users have them."""
    s3fs = pytest.importorskip("s3fs")
    for name, value in zip(WHERE, (server, "testing", "testing"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    s3fs.S3FileSystem.clear_instance_cache()
    store = s3fs.S3FileSystem()
    if not store.exists("corpora"):
        store.mkdir("corpora")
    yield store
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def local(corpus: tuple[Path, set[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a scan of the corpus on this machine."""
    out = tmp_path_factory.mktemp("local") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "make_workers", lambda *given, **more: [Here()])
        scanned(corpus[0], out)
    return out


def same_results(out: Path, expected: Path) -> None:
    for name in RESULTS:
        assert (out / name).read_bytes() == (expected / name).read_bytes(), name
    assert pq.read_table(out / "drop.parquet").equals(pq.read_table(expected / "drop.parquet"))
    assert pq.read_table(expected / "drop.parquet").num_rows > 0


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_corpus_on_s3_gives_the_same_results(
    s3: Any, corpus: tuple[Path, set[str]], local: Path, tmp_path: Path
) -> None:
    s3.put(f"{corpus[0]}/", "corpora/laion/", recursive=True)
    scanned("s3://corpora/laion", tmp_path / "out")
    same_results(tmp_path / "out", local)


@pytest.mark.slow
def test_workers_read_s3_by_themselves(
    s3: Any, corpus: tuple[Path, set[str]], local: Path, tmp_path: Path
) -> None:
    """A shard is sent to other processes, each of which connects to the store by its own environment."""
    s3.put(f"{corpus[0]}/", "corpora/shared/", recursive=True)
    scan = mmpoison.scan(
        "s3://corpora/shared", out=tmp_path / "out", planted=False, workers=2, progress=False
    )
    assert not scan.failed
    assert scan.source == "s3://corpora/shared"
    same_results(tmp_path / "out", local)


@pytest.mark.usefixtures("here")
def test_a_broken_and_a_missing_object_do_not_stop_the_others(
    s3: Any, corpus: tuple[Path, set[str]], tmp_path: Path
) -> None:
    s3.put(f"{corpus[0]}/", "corpora/broken/", recursive=True)
    file = "corpora/broken/text_emb/text_emb_1.npy"
    s3.pipe(file, s3.cat(file)[:-100])
    s3.rm("corpora/broken/metadata/metadata_2.parquet")
    scan = scanned("s3://corpora/broken", tmp_path / "out").scan
    assert scan is not None
    assert scan.pairs == 2000
    assert [shard.shard for shard in scan.failed] == ["1", "2"]
    assert "s3://corpora/broken/text_emb/text_emb_1.npy: cut short" in scan.failed[0].reason
    assert "metadata_2.parquet: no such file" in scan.failed[1].reason


def test_datacomp_on_s3_is_read_as_on_this_machine(s3: Any, tmp_path: Path) -> None:
    pairs = make_pairs(400)
    s3.put(f"{datacomp(tmp_path / 'set', [pairs])}/", "corpora/datacomp/", recursive=True)
    (shard,) = open_embedded("s3://corpora/datacomp", options={"model": "b32"}).shards
    text, image = shard.vectors()
    np.testing.assert_array_equal(text, pairs.text[:, ::-1])
    np.testing.assert_array_equal(image, pairs.image[:, ::-1])
    assert shard.ids() == pairs.uids
    assert shard.captions() == pairs.captions


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "Could not connect to the endpoint URL"),
        (
            {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
            "Unable to locate credentials",
        ),
    ],
    ids=["no server", "no credentials"],
)
def test_a_store_that_does_not_answer_is_one_line(
    s3: Any, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str | None], message: str
) -> None:
    s3.pipe("corpora/one/a.npy", b"1")
    for name, value in changed.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3.clear_instance_cache()
    with pytest.raises(InputError, match=rf"^s3://corpora/one: cannot be opened \({message}.*\)$"):
        open_embedded("s3://corpora/one")


def test_a_store_that_fails_later_fails_the_shard(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors of the store's own package are no errors of the system."""
    s3.put(f"{datacomp(tmp_path / 'set', [make_pairs(40)])}/", "corpora/later/", recursive=True)
    (shard,) = open_embedded("s3://corpora/later").shards

    class StoreError(Exception):
        pass

    def cat_file(*args: Any, **options: Any) -> bytes:
        raise StoreError("the token\nhas expired")

    monkeypatch.setattr(s3, "cat_file", cat_file)
    with pytest.raises(ShardError, match=r"cannot be read \(the token has expired\)$"):
        shard.vectors()


def test_nothing_there_is_one_line(s3: Any) -> None:
    for address in ("s3://no-such-bucket/laion", "s3://corpora/no-such-folder"):
        with pytest.raises(InputError, match=f"^{address}: no such folder or file$"):
            mmpoison.scan(address, out="unused", progress=False)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(InputError, match=r"^s3://a/b: cannot be opened \(Install s3fs .*\)$"):
        mmpoison.scan("s3://a/b", out=tmp_path / "out", progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("here")
def test_memory_in_one_process_gives_the_same_results(
    corpus: tuple[Path, set[str]], local: Path, tmp_path: Path
) -> None:
    store = fsspec.filesystem("memory")
    store.put(f"{corpus[0]}/", f"/{tmp_path.name}/", recursive=True)
    scanned(f"memory://{tmp_path.name}", tmp_path / "out")
    same_results(tmp_path / "out", local)


@pytest.mark.parametrize("address", ["memory://set", "simplecache::memory://set"])
def test_memory_is_refused_where_workers_are_other_processes(tmp_path: Path, address: str) -> None:
    with pytest.raises(InputError, match=rf"^{address}: is in the memory of one process, .*folder"):
        mmpoison.scan(address, out=tmp_path / "out", progress=False)
    assert not list(tmp_path.iterdir())


def test_results_are_not_written_to_a_store(
    corpus: tuple[Path, set[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^s3://bucket/out: results can only be written to"):
        mmpoison.scan(corpus[0], out="s3://bucket/out", progress=False)
    assert not list(tmp_path.iterdir())
