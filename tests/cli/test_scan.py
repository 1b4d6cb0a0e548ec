"""`mmpoison scan`, from the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.cli.conftest import Outcome
from tests.runs.data_scan.conftest import write_corpus
from tests.runs.data_scan.test_shard_passes import Here

from mmpoison.runs.data_scan import scan_embedded as module


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in this process; starting others takes seconds."""
    monkeypatch.setattr(module, "make_workers", lambda *given, **more: [Here()])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


def test_the_verdict_comes_first(cli: Callable[..., Outcome], made: Path, work: Path) -> None:
    done = cli("scan", str(made), "--out", "out", "--no-planted")
    assert done.code == 0, done
    shown = [line for line in done.out.splitlines() if not line.startswith(("reading", "fitting"))]
    verdict = next(line for line in shown if line.startswith("Poisoning likely."))
    assert "1 group is stronger than in clean data" in verdict
    assert "  1. poisoning likely: captions about" in done.out
    assert "what else could explain it:" in done.out
    assert "next: Train on the pairs that out/keep lists" in done.out
    assert (work / "out" / "scan.html").is_file()
    # the same command again has nothing to do, another one is refused
    assert (
        "the same command made it before"
        in cli("scan", str(made), "--out", "out", "--no-planted").out
    )
    other = cli("scan", str(made), "--out", "out", "--lose", "0.01")
    assert other.code == 2


def test_json_is_the_record(cli: Callable[..., Outcome], made: Path, work: Path) -> None:
    done = cli("scan", str(made), "--out", "out", "--no-planted", "--json")
    assert json.loads(done.out) == json.loads((work / "out" / "scan.json").read_text())


def test_a_shard_that_cannot_be_read_makes_exit_code_1(
    cli: Callable[..., Outcome], made: Path, work: Path
) -> None:
    shutil.copytree(made, work / "source")
    (work / "source" / "text_emb" / "text_emb_1.npy").write_bytes(b"no array")
    done = cli("scan", "source", "--out", "out", "--no-planted")
    assert done.code == 1
    assert "warning: shard 1: source/text_emb/text_emb_1.npy" in done.err
    assert "4,000 pairs in 2 shards" in done.out
    assert (work / "out" / "keep" / "0.txt").is_file()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("scan nothing --out out", "nothing: no such folder or file, and no data set of that name"),
        ("scan source --out out --option q=3", "has no option 'q'"),
        ("scan source --out out --option caption=text", "text"),
        (
            "scan source --out out --encoder openmoji-mini",
            "has embeddings, so leave out --encoder",
        ),
    ],
)
def test_bad_input_is_one_line(
    refused: Callable[..., str], work: Path, command: str, says: str
) -> None:
    write_corpus(work / "source", 30, bad=0, shards=1)
    assert says in refused(command)
    assert not (work / "out").exists()


def test_no_readable_shard_is_one_line(refused: Callable[..., str], work: Path) -> None:
    write_corpus(work / "source", 30, bad=0, shards=1)
    np.save(work / "source" / "img_emb" / "img_emb_0.npy", np.zeros((29, 32), np.float16))
    assert "no shard can be read: source/" in refused("scan source --out out")


def test_pairs_that_were_scanned_can_be_reviewed(
    cli: Callable[..., Outcome], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmpoison.defenses.filters.pair_pieces import PairPieces
    from mmpoison.pages.review import as_scanned, scanned_pairs
    from mmpoison.records.data_scan import read_scan

    broken = next((work / "squares").rglob("*.png"))
    broken.write_bytes(b"no picture")
    done = cli("scan", "squares", "--out", "out", "--encoder", "model", "--no-planted")
    assert done.code == 0, done
    assert "1 image cannot be read" in done.out
    # a model that is not aligned is no sign of another order
    assert "same order" not in done.out
    monkeypatch.chdir(work / "full")  # from any folder
    pieces = PairPieces(as_scanned(read_scan(work / "out"), work / "out"))
    shown = scanned_pairs(work / "out", pieces, 20)
    assert len(shown) == 20
    assert all(pair.kept for pair in shown)
    name = str(broken.relative_to(work / "squares"))
    assert name not in {pair.image for pair in scanned_pairs(work / "out", pieces, 1000)}
