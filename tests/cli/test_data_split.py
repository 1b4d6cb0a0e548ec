"""`data split`: shows and makes splits; `data build` is tested with its downloads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmpoison.datasets import load_pairs

Cli = Callable[..., Any]


def test_a_split_is_shown(cli: Cli, work: Path) -> None:
    shown = cli("data", "split", "squares")
    assert shown.code == 0, shown.err
    assert shown.out == "28 train, 12 val, 16 test images, 4 classes\n"


def test_a_split_is_made_again_by_its_seed(cli: Cli, work: Path) -> None:
    for out, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        made = cli(
            *("data", "split", "squares", "--per-class", "7", "--seed", seed, "--out", out),
        )
        assert made.code == 0, made.err
        assert "28 train, 0 val, 28 test images, 4 classes" in made.out
    first, again, other = (load_pairs(out).fingerprint for out in "abc")
    assert first == again != other
    assert len(load_pairs("a").select(split="test", label="sheep")) == 7 * 5
    assert (work / "a" / "sheep" / "00.png").is_file()


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
