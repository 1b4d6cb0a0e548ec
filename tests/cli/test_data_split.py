"""`data split`: shows, makes, saves and takes splits; `data build` is tested with its downloads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmpoison.datasets import load_pairs

Cli = Callable[..., Any]


def words(text: str) -> str:
    return " ".join(text.split())


def test_a_split_is_shown(cli: Cli, work: Path) -> None:
    shown = cli("data", "split", "squares")
    assert shown.code == 0, shown.err
    first, second = shown.out.splitlines()
    assert first == "28 train, 12 val, 16 test images, 4 classes"
    assert second.startswith("sha256 ")
    assert len(second.split()[1]) == 64


def test_a_split_is_made_saved_and_taken(cli: Cli, work: Path) -> None:
    made = cli(
        *("data", "split", "squares", "--per-class", "7", "--seed", "3"),
        *("--save", "s.json", "--out", "a"),
    )
    assert made.code == 0, made.err
    assert "28 train, 0 val, 28 test images, 4 classes" in made.out
    raw = json.loads((work / "s.json").read_text())
    assert f"sha256 {raw['sha256']}" in made.out
    assert raw["name"] == "squares"
    taken = cli("data", "split", "squares", "--apply", "s.json", "--out", "b")
    assert taken.code == 0, taken.err
    assert f"sha256 {raw['sha256']}" in taken.out
    assert load_pairs("a").fingerprint == load_pairs("b").fingerprint
    assert len(load_pairs("a").select(split="test", label="sheep")) == 7 * 5
    assert (work / "b" / "sheep" / "00.png").is_file()


def test_labels_and_keywords(cli: Cli, work: Path) -> None:
    (work / "labels.csv").write_text("image,label,split\nunlabelled/00.png,tree,test\n")
    done = cli(
        *("data", "split", "squares", "--labels", "labels.csv", "--keywords", "thing=thing"),
        *("--out", "new", "--images", "none"),
    )
    assert done.code == 0, done.err
    pairs = load_pairs("new", images="squares")
    assert pairs.counts()["classes"]["thing"] == 8
    assert "tree" not in pairs.classes
    assert not (work / "new" / "sheep").exists()


def test_images_that_are_not_the_same(cli: Cli, work: Path) -> None:
    assert cli("data", "split", "squares", "--save", "s.json").code == 0
    lines = (work / "squares" / "captions.jsonl").read_text().splitlines()
    (work / "squares" / "captions.jsonl").write_text("\n".join(lines[1:]) + "\n")
    refused = cli("data", "split", "squares", "--apply", "s.json")
    assert refused.code == 2
    assert "s.json: 1 image is not in the data, the first: 'aeroplane/00.png'" in refused.err
    allowed = cli("data", "split", "squares", "--apply", "s.json", "--partial")
    assert allowed.code == 0
    assert "1 image is not in the data" in words(allowed.out)
