"""`mmpoison scan`, from the command line."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.conftest import Outcome
from tests.defenses.scan.whole.conftest import write_corpus
from tests.defenses.scan.whole.test_shard_passes import Here
from tests.test_commands import printed_problems

import mmpoison
from mmpoison.defenses.scan import scan as module
from mmpoison.defenses.scan.cut.labels import ShownPair
from mmpoison.defenses.scan.read.pieces import PairPieces
from mmpoison.defenses.scan.write import files as drop
from mmpoison.records.data_scan import read_scan


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
    assert "details: " in done.out
    assert "next: Train on the pairs listed in out/keep" in done.out
    assert (work / "out" / "scan.html").is_file()
    # the same command again has nothing to do, another one is refused
    assert (
        "the same command made it before"
        in cli("scan", str(made), "--out", "out", "--no-planted").out
    )
    other = cli("scan", str(made), "--out", "out", "--lose", "0.01")
    assert other.code == 2


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


def test_a_scan_of_embeddings_takes_no_encoder(refused: Callable[..., str], work: Path) -> None:
    write_corpus(work / "source", 30, bad=0, shards=1)
    said = refused("scan source --out out --encoder openmoji-mini")
    assert "has embeddings: omit --encoder" in said


def test_no_readable_shard_is_one_line(refused: Callable[..., str], work: Path) -> None:
    write_corpus(work / "source", 30, bad=0, shards=1)
    np.save(work / "source" / "img_emb" / "img_emb_0.npy", np.zeros((29, 32), np.float16))
    assert "no shard can be read: source/" in refused("scan source --out out")


def test_every_next_step_of_a_table_elsewhere_runs(
    cli: Callable[..., Outcome], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absolute paths, columns by option, and labels: what is printed is copied and run, from another folder too."""
    from mmpoison.pages.review import as_scanned, scanned_pairs

    pairs = mmpoison.load(work / "squares").select(split="train")
    rows = [f"{pairs.root / one.image}\t{one.caption}\t{n}" for n, one in enumerate(pairs)]
    (work / "pairs.tsv").write_text(
        "\n".join(["bild\twort\tnr", *rows, "https://x.org/a.png\tweb\t-1"])
    )
    how = ["--data-root", str(pairs.root), "--option", "image=bild", "--option", "caption=wort"]
    options = ["--encoder", "model", "--no-planted"]
    done = cli("scan", "pairs.tsv", *how, *options, "--out", "out", "--kept", "kept")
    assert done.code == 0, done
    again = cli("scan", "pairs.tsv", *how, *options, "--out", "out", "--kept", "kept")
    assert "the same command made it before" in again.out
    assert printed_problems(done.out) == []
    found = read_scan(work / "out")
    assert found.left_out is not None
    assert found.left_out.rows == 1
    assert "is a URL" in found.left_out.examples[0]
    monkeypatch.chdir(work / "full")
    shown = scanned_pairs(work / "out", PairPieces(as_scanned(found, work / "out")), 5)
    assert len(shown) == 5
    monkeypatch.chdir(work)
    (work / "out-labels.csv").write_text(f"pair,verdict\n{shown[0].pair},drop\n")
    steps = [line.partition("mmpoison ")[2] for line in found.next_steps if "mmpoison " in line]
    assert steps
    for step in {step for step in steps if step.startswith("scan ")}:
        assert cli(*shlex.split(step), "--no-planted").code == 0, step
        shutil.rmtree(work / "out-2")
    labelled = ["--labels", "out-labels.csv", "--out", "labelled"]
    done = cli("scan", "pairs.tsv", *how, *options, *labelled)
    assert done.code == 0
    assert "mmpoison review labelled --labels out-labels.csv" in done.out
    kept = (work / "labelled" / "kept.tsv").read_text().splitlines()
    assert kept == [
        "bild\twort\tnr",
        *(row for row in rows if row != rows[_row_of(shown[0], rows)]),
    ]


def _row_of(pair: ShownPair, rows: list[str]) -> int:
    (found,) = (n for n, row in enumerate(rows) if f"/{pair.image}\t{pair.caption}\t" in row)
    return found


def test_a_scan_that_was_killed_after_it_wrote_what_stays_resumes(
    cli: Callable[..., Outcome], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["scan", "squares", "--encoder", "model", "--no-planted", "--out", "out"]
    command += ["--kept", "kept"]
    write = drop._write_kept

    def killed(*given: Any) -> None:
        write(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(drop, "_write_kept", killed)
        assert cli(*command).code != 0
    assert (work / "kept").is_dir()
    assert not (work / "out").exists()
    assert cli(*command).code == 0
    assert (work / "out" / "scan.json").is_file()
    assert not (work / "out.scanning").exists()
    other = cli("scan", "squares", "--encoder", "model", "--out", "other", "--kept", "kept")
    assert (other.code, "is not empty" in other.err) == (2, True)
