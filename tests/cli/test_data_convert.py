"""`mmpoison data convert` as a user's shell calls it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmpoison.datasets import load_pairs


def test_convert(cli: Callable[..., Any], square_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    done = cli(
        "data", "convert", square_folder, "--out", out, "--to", "webdataset", "--workers", "2",
        "--images-per-shard", "20",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert f"{out}: 56 images, 280 pairs in 3 shards" in " ".join(done.out.split())
    assert len(load_pairs(out)) == 280
    again = cli("data", "convert", square_folder, "--out", out, "--to", "webdataset")
    assert again.code == 2
    assert again.err == f"mmpoison: {out}: is not empty: choose another --out, or empty it\n"


def test_options_and_what_is_left_out(
    cli: Callable[..., Any], square_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("1|2\nsheep/00.png|one\nsheep/99.png|two\n")
    done = cli(
        "data", "convert", tmp_path / "a.csv", "--out", tmp_path / "out", "--to", "parquet",
        "--option", "image=1", "--option", "caption=2", "--option", "separator=|",
        "--option", f"images={square_folder}",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "1 image, 1 pair in 1 shard" in done.out
    assert f"left out, for 1 reason: see {tmp_path / 'out' / 'problems.txt'}" in done.out
    assert "sheep/99.png: no such image" in (tmp_path / "out" / "problems.txt").read_text()


def test_labels_by_keyword(cli: Callable[..., Any], square_folder: Path, tmp_path: Path) -> None:
    done = cli(
        "data", "convert", square_folder, "--out", tmp_path / "out", "--to", "pairs-folder",
        "--images", "none", "--keywords", "thing=thing|stuff",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert load_pairs(tmp_path / "out").counts()["classes"]["thing"] == 8


def test_names_in_the_data_are_only_shown(
    cli: Callable[..., Any], write_lines: Callable[..., Path], tmp_path: Path
) -> None:
    """The target image of attack I is named after poisoning and converting; its name may be hostile."""
    lines = [
        {
            "image": f"\x1b[32m{label}{number}.jpg",
            "captions": [f"a {label} {number}"],
            "label": label,
            "split": "train" if number < 4 else "test",
        }
        for label in ("sheep", "cow")
        for number in range(6)
    ]
    folder = write_lines(*lines)
    chosen = ["--goal", "cow2sheep", "--samples", "1", "--images", "none"]
    attack = ["--attack", "single-target-image"]
    poisoned = cli("poison", folder, *attack, *chosen, "--out", tmp_path / "poisoned")
    to = ["--to", "pairs-folder", "--images", "none"]
    converted = cli("data", "convert", tmp_path / "poisoned", *to, "--out", tmp_path / "new")
    for done in (poisoned, converted):
        assert done.code == 0
        assert "the target image sheep" in done.out
        assert "\x1b" not in done.out + done.err
