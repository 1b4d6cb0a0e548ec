"""`data split`: shows and makes splits; `data build` is tested with its downloads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmpoison.datasets import load_pairs

Cli = Callable[..., Any]


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
