"""The whole filter on a small set: folder, verdicts, figures, page, labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmpoison.datasets import PairDataset, load_pairs, save_pairs
from mmpoison.datasets.convert import convert_pairs
from mmpoison.datasets.verify.pairs_check import verify_pairs
from mmpoison.defenses import DEFENSES, RelevanceFilter, build_filter, filter_pairs
from mmpoison.defenses.filters.pair_labels import LabelFile, ShownPair
from mmpoison.errors import InputError
from mmpoison.models import DualEncoder, prepare_pixels


def report(out: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((out / "filter-report" / "filter.json").read_text())
    return value


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("relevance-filter", {"clean_loss": 0.2}),
        ("local-density", {"k": 3}),
        ("suspicious-groups", {}),
        ("suspicious-groups", {"false_alarms": 1 - 1e-12}),
    ],
)
def test_a_folder_becomes_what_the_filter_in_memory_says(
    method: str,
    options: dict[str, Any],
    folder: Path,
    poisoned: PairDataset,
    judge: DualEncoder,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    done = filter_pairs(folder, judge, method, out=out, **options)
    train, inputs = poisoned.select(split="train"), prepare_pixels(judge, poisoned)
    known = poisoned.select(split="val")
    plug_in: Any = build_filter(method, options)
    expected = plug_in.apply(train, judge, inputs, trusted=known)
    assert done.cut.value == pytest.approx(expected.threshold, abs=1e-5)
    kept = load_pairs(out)
    assert list(kept.select(split="train").captions) == list(expected.kept.captions)
    assert len(kept.select(split="test")) == len(poisoned.select(split="test"))
    assert verify_pairs(kept).problems == []
    lines = [json.loads(line) for line in (out / "verdicts.jsonl").read_text().splitlines()]
    assert [line["keep"] for line in lines] == done.keep.tolist() == expected.keep.tolist()
    np.testing.assert_allclose([line["distance"] for line in lines], expected.scores, atol=1e-5)
    facts = report(out)
    assert (facts["data"], facts["method"], facts["encoder"]) == (str(folder), method, judge.name)
    assert facts["dropped_pairs"] == int((~expected.keep).sum())
    assert facts["score_name"] == plug_in.score_name
    assert (out / facts["data_path"]).resolve() == folder.resolve()
    # what a method does by default is not repeated
    said = None if options.keys() <= {"k"} else json.loads(json.dumps(done.cut.facts()))
    assert facts.get("cut") == said
    assert kept.manifest is not None
    assert kept.manifest.filtered is not None
    assert kept.manifest.filtered["poisoned_total"] == facts["poisoned_total"] == 13
    for name in ("distances.png", "curves.png"):
        assert (out / "filter-report" / name).read_bytes().startswith(b"\x89PNG")
    assert "most suspicious pairs" in (out / "filter-report" / "suspicious.html").read_text()
    goals = out / "suspected-goals.json"
    assert goals.exists() == ("suspected_goals" in facts) == (expected.goals is not None)
    if expected.goals is not None:
        found = json.loads(goals.read_text())
        assert found["false_alarms"] == options.get("false_alarms", 0.01)
        assert [goal["sentence"] for goal in found["goals"]] == list(map(str, expected.goals))


def test_another_threshold_embeds_nothing_again(folder: Path, judge: DualEncoder) -> None:
    filter_pairs(folder, judge, threshold=0.9)
    assert filter_pairs(folder, judge, automatic=True).new_pairs == 0


def test_the_interval_of_a_cut_by_trusted_pairs(folder: Path, judge: DualEncoder) -> None:
    cut = filter_pairs(folder, judge, clean_loss=0.2).cut
    assert cut.rule == "loss"
    assert cut.loss is not None
    assert cut.loss_interval is not None
    low, high = cut.loss_interval
    assert low <= cut.loss <= high


def test_a_set_in_memory_comes_back_without_what_was_dropped(
    poisoned: PairDataset, judge: DualEncoder
) -> None:
    done = filter_pairs(poisoned, judge, clean_loss=0.2, trusted="none")
    assert done.kept is not None
    train = poisoned.select(split="train")
    assert list(done.kept.select(split="train").captions) == list(train.captions[done.keep])
    for split in ("val", "test"):
        assert len(done.kept.select(split=split)) == len(poisoned.select(split=split))
    assert list(done.keep[done.most_suspicious]) == sorted(done.keep)


def test_shards_with_images_inside(
    folder: Path, squares: PairDataset, square_folder: Path, judge: DualEncoder, tmp_path: Path
) -> None:
    convert_pairs(square_folder, tmp_path / "clean", to="parquet", images_per_shard=20)
    convert_pairs(folder, tmp_path / "bad", to="parquet", images_per_shard=20)
    rule: dict[str, Any] = {"clean_loss": 0.2, "trusted": "none"}
    clean = filter_pairs(tmp_path / "clean", judge, out=tmp_path / "kept-clean", **rule)
    assert len(clean.keep) == 140
    assert (~clean.keep).sum() == 28
    assert "poisoned_total" not in clean.facts()
    kept = load_pairs(tmp_path / "kept-clean")
    assert len(kept) == len(squares) - 28
    assert verify_pairs(kept).problems == []
    bad = filter_pairs(tmp_path / "bad", judge, out=tmp_path / "kept-bad", **rule)
    again = load_pairs(tmp_path / "kept-bad")
    assert again.manifest is not None
    left = 13 - bad.facts()["poisoned_caught"]
    assert len(again.manifest.pairs) == int(again.poisoned.sum()) == left


def test_the_page_escapes_what_it_shows(
    squares: PairDataset, judge: DualEncoder, tmp_path: Path
) -> None:
    captions = squares.captions.copy()
    captions[:] = [f"<script>alert({n})</script>" for n in range(len(captions))]
    evil = PairDataset.build(squares.images, captions, squares.image)
    filter_pairs(evil, judge, out=tmp_path / "out", threshold=1.9, images="none")
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
    done = filter_pairs(squares, judge, out=tmp_path / "o", threshold=1.9, images="none")
    assert done.notes == ["no figures: figures need matplotlib: pip install 'mmpoison[figures]'"]
    assert (tmp_path / "o" / "filter-report" / "suspicious.html").exists()


def test_a_set_without_training_pairs_is_one_line(
    squares: PairDataset, judge: DualEncoder, tmp_path: Path
) -> None:
    data = save_pairs(squares.select(split="test"), tmp_path / "test-only")
    for method in (name for name in DEFENSES if DEFENSES[name].kind == "pre-training"):
        with pytest.raises(InputError, match="split 'train' has no pair to judge"):
            filter_pairs(data, judge, method, out=tmp_path / "out", clean_loss=0.1)
    assert not (tmp_path / "out").exists()


def test_labels_set_the_threshold(folder: Path, judge: DualEncoder, tmp_path: Path) -> None:
    seen: list[ShownPair] = []

    def ask(pairs: Sequence[ShownPair], file: Path) -> None:
        seen.extend(pairs)
        # a person who drops whatever is farther apart than the middle
        middle = float(np.median([pair.distance for pair in pairs]))
        with LabelFile(file, (pair.pair for pair in pairs)) as labels:
            for pair in pairs:
                labels.set(pair.pair, "drop" if pair.distance > middle else "keep")

    method = RelevanceFilter(labels=tmp_path / "labels.csv")
    done = filter_pairs(folder, judge, method, ask=ask, label_pairs=20)
    assert len(seen) == 20
    middle = float(np.median([pair.distance for pair in seen]))
    beyond = sorted(pair.distance for pair in seen if pair.distance > middle)
    within = sorted(pair.distance for pair in seen if pair.distance <= middle)
    assert within[-1] <= done.cut.value <= beyond[0]
    assert done.cut.rule == "labels"
    # the same file without asking gives the same
    assert filter_pairs(folder, judge, method).cut == done.cut


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sheep/00.png#0,keep\nsheep/99.png#0,drop\n", "1 labelled pairs are not among"),
        ("sheep/00.png#0,drop\n", "1 labels, 1 of them drop"),
        ("sheep/00.png#0,unsure\n", "0 labels, 0 of them drop"),
    ],
)
@pytest.mark.parametrize("method", ["relevance-filter", "local-density"])
def test_labels_of_no_use_are_refused_before_anything_is_judged(
    folder: Path, judge: DualEncoder, tmp_path: Path, text: str, says: str, method: str
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text(f"pair,verdict\n{text}")
    steps: list[str] = []

    def progress(what: str) -> Callable[[int, int], None]:
        steps.append(what)
        return lambda done, total: None

    with pytest.raises(InputError, match=says):
        filter_pairs(folder, judge, method, labels=labels, progress=progress)
    assert steps == []


def test_a_step_that_counts_images_does_not_say_pairs(folder: Path, judge: DualEncoder) -> None:
    totals: dict[str, int] = {}

    def progress(what: str) -> Callable[[int, int], None]:
        return lambda done, total: totals.update({what: total})

    filter_pairs(folder, judge, clean_loss=0.2, trusted="none", progress=progress)
    images = len(load_pairs(folder).images)
    assert totals == {"scanning images for train pairs": images}
