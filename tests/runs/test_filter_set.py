"""The whole filter on a small set: folder, verdicts, figures, page; labels on the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mmpoison.attacks import SingleTargetLabel
from mmpoison.cli.labelling import label_pairs, picture
from mmpoison.datasets import PairDataset, load_pairs, save_pairs
from mmpoison.datasets.convert import convert_pairs
from mmpoison.datasets.verify.pairs_check import verify_pairs
from mmpoison.defenses import RelevanceFilter
from mmpoison.defenses.filters.pair_labels import ShownPair, read_labels
from mmpoison.errors import InputError
from mmpoison.models import DualEncoder, prepare_pixels
from mmpoison.runs.filter_set import FilterRule, filter_set

Make = Callable[..., DualEncoder]


@pytest.fixture(scope="module")
def poisoned(squares: PairDataset) -> PairDataset:
    return SingleTargetLabel("sheep2aeroplane", pairs=13).poison(squares, seed=1)


@pytest.fixture(scope="module")
def folder(poisoned: PairDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pairs(poisoned, tmp_path_factory.mktemp("poisoned") / "pairs")


@pytest.fixture(scope="module")
def judge(make_encoder: Make) -> DualEncoder:
    return make_encoder(7)


def test_a_folder_becomes_what_the_filter_in_memory_says(
    folder: Path, poisoned: PairDataset, judge: DualEncoder, tmp_path: Path
) -> None:
    done = filter_set(folder, judge, tmp_path / "out", FilterRule(lose=0.2))
    train = poisoned.select(split="train")
    expected = RelevanceFilter(clean_loss=0.2).apply(
        train, judge, prepare_pixels(judge, poisoned), trusted=poisoned.select(split="val")
    )
    assert done.cut.value == pytest.approx(expected.threshold, abs=1e-5)
    kept = load_pairs(tmp_path / "out")
    assert list(kept.select(split="train").captions) == list(expected.kept.captions)
    assert len(kept.select(split="test")) == len(poisoned.select(split="test"))
    assert verify_pairs(kept).problems == []
    assert kept.manifest is not None
    assert kept.manifest.filtered is not None
    assert kept.manifest.filtered["poisoned_total"] == 13
    report = tmp_path / "out" / "filter-report"
    facts = json.loads((report / "filter.json").read_text())
    assert facts["dropped_pairs"] == int((~expected.keep).sum())
    assert facts["cut"]["rule"] == "loss"
    low, high = facts["cut"]["loss_interval"]
    assert low <= facts["cut"]["loss"] <= high
    for name in ("distances.png", "curves.png"):
        assert (report / name).read_bytes().startswith(b"\x89PNG")
    # another threshold looks at no image again
    assert filter_set(folder, judge, tmp_path / "two", FilterRule(automatic=True)).new_pairs == 0


def test_shards_with_images_inside(
    folder: Path, squares: PairDataset, square_folder: Path, judge: DualEncoder, tmp_path: Path
) -> None:
    convert_pairs(square_folder, tmp_path / "clean", to="parquet", images_per_shard=20)
    convert_pairs(folder, tmp_path / "bad", to="parquet", images_per_shard=20)
    rule = FilterRule(lose=0.2, trusted="none")
    clean = filter_set(tmp_path / "clean", judge, tmp_path / "kept-clean", rule)
    assert clean.facts["pairs"] == 140
    assert clean.facts["dropped_pairs"] == 28
    assert "poisoned_total" not in clean.facts
    kept = load_pairs(tmp_path / "kept-clean")
    assert len(kept) == len(squares) - 28
    assert verify_pairs(kept).problems == []
    bad = filter_set(tmp_path / "bad", judge, tmp_path / "kept-bad", rule)
    again = load_pairs(tmp_path / "kept-bad")
    assert again.manifest is not None
    left = 13 - bad.facts["poisoned_caught"]
    assert len(again.manifest.pairs) == int(again.poisoned.sum()) == left


def test_the_page_escapes_what_it_shows(
    squares: PairDataset, judge: DualEncoder, tmp_path: Path
) -> None:
    captions = squares.captions.copy()
    captions[:] = [f"<script>alert({n})</script>" for n in range(len(captions))]
    evil = PairDataset.build(squares.images, captions, squares.image)
    filter_set(evil, judge, tmp_path / "out", FilterRule(threshold=1.9), images="none")
    page = (tmp_path / "out" / "filter-report" / "suspicious.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("data:image/jpeg;base64,") == 48
    assert "http:" not in page.replace("http-equiv", "")
    assert not (tmp_path / "out" / "filter-report" / "curves.png").exists()


def test_without_matplotlib_it_says_so(
    squares: PairDataset, judge: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    done = filter_set(squares, judge, tmp_path / "o", FilterRule(threshold=1.9), images="none")
    assert done.notes == ("no figures: figures need matplotlib: pip install 'mmpoison[figures]'",)
    assert (tmp_path / "o" / "filter-report" / "suspicious.html").exists()


@pytest.mark.parametrize(
    "rule",
    [{}, {"threshold": 0.5, "lose": 0.1}, {"automatic": True, "labels": Path("x.csv")}],
)
def test_exactly_one_rule(rule: dict[str, float]) -> None:
    with pytest.raises(InputError, match="exactly one of --threshold"):
        FilterRule(**rule)  # type: ignore[arg-type]
    FilterRule(labels=Path("x.csv"), lose=0.1)


# -- labels on the terminal ------------------------------------------------------------------------


def answer(keys: str) -> Callable[[], str]:
    left = iter(keys)
    return lambda: next(left)


def test_labels_set_the_threshold(folder: Path, judge: DualEncoder, tmp_path: Path) -> None:
    seen: list[ShownPair] = []
    console = Console(file=(tmp_path / "terminal").open("w"))

    def ask(pairs, file):  # type: ignore[no-untyped-def]
        seen.extend(pairs)
        # a person who drops whatever is farther apart than the middle
        middle = float(np.median([pair.distance for pair in pairs]))
        keys = "".join("d" if pair.distance > middle else "k" for pair in pairs)
        label_pairs(pairs, file, console=console, read_key=answer(keys))

    rule = FilterRule(labels=tmp_path / "labels.csv", label_pairs=20)
    done = filter_set(folder, judge, tmp_path / "out", rule, ask=ask, images="none")
    assert len(seen) == 20
    middle = float(np.median([pair.distance for pair in seen]))
    beyond = sorted(pair.distance for pair in seen if pair.distance > middle)
    within = sorted(pair.distance for pair in seen if pair.distance <= middle)
    assert within[-1] <= done.cut.value <= beyond[0]
    assert done.cut.rule == "labels"
    # the same file without asking gives the same
    again = filter_set(folder, judge, tmp_path / "two", rule, images="none")
    assert again.cut == done.cut


def test_keys(squares: PairDataset, tmp_path: Path) -> None:
    pairs = [
        ShownPair(
            f"{squares.images.ids[n]}#0", squares.images.ids[n], f"[red]c{n}", squares.root, 0.5
        )
        for n in range(4)
    ]
    file = tmp_path / "labels.csv"
    with (tmp_path / "terminal").open("w") as stream:
        console = Console(file=stream)
        # keep, drop, back and keep after all, an unknown key, stop
        label_pairs(pairs, file, console=console, read_key=answer("kdbkxq"))
        assert list(read_labels(file).values()) == ["keep", "keep", "", ""]
        # goes on with what is open: skip one, drop one
        label_pairs(pairs, file, console=console, read_key=answer("sd"))
    assert list(read_labels(file).values()) == ["keep", "keep", "", "drop"]
    shown = (tmp_path / "terminal").read_text()
    assert "[red]c0" in shown
    assert "0.5" not in shown
    assert "2 keep, 1 drop, 0 unsure, 1 open" in shown
    assert picture(pairs[0]).plain.count("▀") == 48 * 24
    gone = ShownPair("x#0", "no/where.png", "x", squares.root, 0.5)
    assert "no such image" in picture(gone).plain
