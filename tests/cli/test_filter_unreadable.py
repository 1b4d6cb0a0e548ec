"""`filter` where images cannot be read: they are named and counted, and the others are judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import few, png

from mmpoison.datasets import load_pairs

Cli = Callable[..., Any]
Snapshot = Callable[[Path], dict[str, bytes]]

BAD = "sheep/03.png"

METHODS = {
    "threshold": ("--threshold", "1.9"),
    "auto": ("--auto",),
    "lose": ("--lose", "0.2"),
    "local-density": ("--method", "local-density", "--set", "k=3", "--lose", "0.1"),
    "suspicious-groups": ("--method", "suspicious-groups"),
}


@pytest.fixture
def run(cli: Cli, work: Path, judge_checkpoint: Path) -> Cli:
    """A function that filters: the options, then the data and the output."""

    def filter_(*options: str, data: str = "squares", out: str = "out") -> Any:
        command = ("filter", "--data", data, "--encoder", judge_checkpoint, "--out", out)
        return cli(*command, *options)

    return filter_


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def strip(path: Path) -> None:
    path.write_bytes(png(99_000_000, 1))


def no_file(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut": (cut, "broken image ("),
    "strip": (strip, "99000000 x 1 pixels: a side is over the limit of 65,535"),
    "missing": (no_file, "no such image"),
    "folder": (folder, "cannot be read (Is a directory)"),
    "loop": (loop, "not a path of a file (a link to itself?)"),
}


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("method", few(METHODS, "threshold", "suspicious-groups"))
@pytest.mark.parametrize("fault", few(FAULTS, "cut", "missing"))
def test_the_others_are_judged(work: Path, run: Cli, cli: Cli, method: str, fault: str) -> None:
    break_it, reason = FAULTS[fault]
    before = load_pairs(work / "squares")
    break_it(work / "squares" / BAD)
    done = run(*METHODS[method])
    assert done.code == 0, done.err
    # the pairs that --lose is measured on are of split val: 12 more images are read
    images = 40 if method == "lose" else 28
    warned = f"mmpoison: warning: 1 of {images} images cannot be read: left out, listed in "
    assert done.err == warned + "out/unreadable.jsonl\n"
    assert f"(5 more left out: 1 of {images} images cannot be read)" in done.out
    (entry,) = lines(work / "out" / "unreadable.jsonl")
    assert entry["image"] == BAD
    assert reason in entry["reason"]
    facts = json.loads((work / "out" / "filter-report" / "filter.json").read_text())
    assert (facts["images"], facts["unreadable_images"]) == (images, 1)
    assert (facts["unreadable_pairs"], facts["pairs"]) == (5, 135)
    verdicts = lines(work / "out" / "verdicts.jsonl")
    assert len(verdicts) == 135
    assert BAD not in {verdict["image"] for verdict in verdicts}
    kept = load_pairs(work / "out")
    assert BAD not in set(kept.images.ids)
    assert len(kept.images) == len(before.images) - 1
    assert not (work / "out" / BAD).exists()
    dropped = sum(not verdict["keep"] for verdict in verdicts)
    assert len(kept) == len(before) - 5 - dropped
    assert "no format errors" in cli("data", "verify", "out").out


@pytest.mark.parametrize("method", few(METHODS, "threshold", "suspicious-groups"))
def test_the_same_as_without_the_image(work: Path, run: Cli, method: str) -> None:
    """Nothing else depends on an image that cannot be read: verdicts are those of a set without it."""
    cut(work / "squares" / BAD)
    cut(work / "squares" / "bird" / "06.png")  # of split val
    assert run(*METHODS[method]).code == 0
    captions = work / "squares" / "captions.jsonl"
    bad = {BAD, "bird/06.png"} if method == "lose" else {BAD}
    left = [
        line for line in captions.read_text().splitlines() if json.loads(line)["image"] not in bad
    ]
    captions.write_text("\n".join(left) + "\n")
    done = run(*METHODS[method], out="two")
    assert done.code == 0
    assert done.err == ""
    for name in ("verdicts.jsonl", "captions.jsonl"):
        one, two = lines(work / "out" / name), lines(work / "two" / name)
        for a, b in zip(one, two, strict=True):
            assert a.pop("distance", 0) == pytest.approx(b.pop("distance", 0), abs=1e-5)
            assert a == b
    assert not (work / "two" / "unreadable.jsonl").exists()


@pytest.mark.parametrize("method", few(METHODS, "threshold", "suspicious-groups"))
@pytest.mark.parametrize("fault", few(FAULTS, "cut", "missing"))
def test_no_image_at_all(work: Path, run: Cli, snapshot: Snapshot, method: str, fault: str) -> None:
    for path in sorted((work / "squares").rglob("*.png")):
        FAULTS[fault][0](path)
    before = snapshot(work / "squares")
    done = run(*METHODS[method])
    assert done.code == 2
    assert len(done.err.splitlines()) == 1, done.err
    said = "no image of split 'train' can be read (28 of 28 images cannot be read, the first: "
    assert said in done.err
    assert FAULTS[fault][1] in done.err
    assert not (work / "out").exists()
    assert snapshot(work / "squares") == before


def test_no_trusted_image(work: Path, run: Cli) -> None:
    for path in (work / "squares").rglob("0[567].png"):
        if path.parent.name != "unlabelled":
            cut(path)
    done = run("--lose", "0.2")
    assert done.code == 2
    assert "no image of split 'val' can be read (12 of 12 images cannot be read" in done.err
    assert "`--trusted none`" in done.err
    assert not (work / "out").exists()
    assert run("--lose", "0.2", "--trusted", "none").code == 0


def test_unreadable_trusted_images_are_left_out(work: Path, run: Cli) -> None:
    cut(work / "squares" / "bird" / "06.png")
    done = run("--lose", "0.2")
    assert done.code == 0, done.err
    assert "1 of 40 images cannot be read" in done.err
    assert [entry["image"] for entry in lines(work / "out" / "unreadable.jsonl")] == ["bird/06.png"]
    assert "bird/06.png" not in set(load_pairs(work / "out").images.ids)
    assert json.loads((work / "out" / "filter-report" / "filter.json").read_text())["pairs"] == 140


@pytest.mark.parametrize("method", few(METHODS, "threshold", "suspicious-groups"))
def test_a_missing_image_of_another_split(work: Path, run: Cli, cli: Cli, method: str) -> None:
    (work / "squares" / "bird" / "11.png").unlink()
    done = run(*METHODS[method])
    assert done.code == 0, done.err
    assert lines(work / "out" / "unreadable.jsonl") == [
        {"image": "bird/11.png", "reason": "no such image"}
    ]
    assert f"1 of {41 if method == 'lose' else 29} images cannot be read" in done.err
    assert "no format errors" in cli("data", "verify", "out").out
    # a table alone needs no files
    assert run(*METHODS[method], "--images", "none", out="two").code == 0
    assert "bird/11.png" in set(load_pairs(work / "two").images.ids)


@pytest.mark.parametrize("method", few(METHODS, "threshold", "suspicious-groups"))
def test_poison_stays_marked(work: Path, run: Cli, cli: Cli, method: str) -> None:
    """A poisoned pair goes with its image, and stays where only its caption's image is broken."""
    made = cli(
        *("poison", "squares", "--goal", "sheep2aeroplane", "--samples", "4", "--seed", "1"),
        *("--out", "bad", "--images", "copy"),
    )
    assert made.code == 0, made.err
    before = load_pairs(work / "bad")
    assert before.manifest is not None
    shown = before.manifest.pairs[0].poisoned_image
    lost = [pair for pair in before.manifest.pairs if pair.poisoned_image == shown]
    source = next(p.clean_image for p in before.manifest.pairs if p.poisoned_image != shown)
    cut(work / "bad" / shown)
    cut(work / "bad" / source)
    done = run(*METHODS[method], data="bad")
    assert done.code == 0, done.err
    kept = load_pairs(work / "out")
    assert kept.manifest is not None
    facts = json.loads((work / "out" / "filter-report" / "filter.json").read_text())
    assert facts["unreadable_poisoned"] == len(lost)
    assert facts["poisoned_total"] == len(before.manifest.pairs) - len(lost)
    left = facts["poisoned_total"] - facts["poisoned_caught"]
    assert len(kept.manifest.pairs) == int(kept.poisoned.sum()) == left
    assert shown not in {pair.poisoned_image for pair in kept.manifest.pairs}
    assert not (work / "out" / shown).exists()
    assert not (work / "out" / source).exists()
    named = {pair.clean_image for pair in kept.manifest.pairs}
    assert (source in set(kept.images.ids)) == (source in named)
    if method == "threshold":
        assert source in named
    wrong = json.loads(cli("data", "verify", "out", "--json").out)["wrong"]
    # an image that the manifest names as a caption's own has a line, and no file
    assert set(wrong) <= {"images"}
    assert ("images" in wrong) == (source in named)


def test_a_shard_with_broken_images_inside(work: Path, run: Cli, cli: Cli) -> None:
    cut(work / "squares" / BAD)
    made = cli("data", "convert", "squares", "--out", "shards", "--to", "webdataset")
    assert made.code == 0, made.err
    done = run("--threshold", "1.9", data="shards")
    assert done.code == 0, done.err
    assert "1 of 28 images cannot be read" in done.err
    assert len(lines(work / "out" / "unreadable.jsonl")) == 1
    assert "no format errors" in cli("data", "verify", "out").out


def test_labels_of_an_unreadable_image_count_for_nothing(work: Path, run: Cli) -> None:
    assert run("--auto", out="one").code == 0
    named = [verdict["pair"] for verdict in lines(work / "one" / "verdicts.jsonl")]
    rows = [f"{pair},{'drop' if n % 9 == 0 else 'keep'}" for n, pair in enumerate(named)]
    (work / "labels.csv").write_text("pair,verdict\n" + "\n".join(rows) + "\n")
    cut(work / "squares" / BAD)
    done = run("--labels", "labels.csv")
    assert done.code == 0, done.err


def test_a_review_of_the_result(work: Path, run: Cli) -> None:
    """Verdicts are found again in the set, although pairs of it have none."""
    from mmpoison.defenses.filters.pair_pieces import PairPieces
    from mmpoison.pages.review.app import filtered_pairs

    cut(work / "squares" / BAD)
    assert run("--auto").code == 0
    shown = filtered_pairs(work / "out", PairPieces(work / "squares"), 135)
    assert len(shown) == 135
