"""Scans of pairs by any method and cut: lists, the pairs that stay, the page, labels, images that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.conftest import few, write_parquet_set
from tests.defenses.scan.whole.test_shard_passes import Here

import mmpoison
from mmpoison.datasets import PairDataset, load_pairs, save_pairs
from mmpoison.datasets.verify import verify_pairs
from mmpoison.defenses import DEFENSES, RelevanceFilter, filter_pairs
from mmpoison.defenses.scan import scan as module
from mmpoison.defenses.scan.cut.labels import LabelFile, pairs_to_label
from mmpoison.errors import InputError
from mmpoison.models import DualEncoder
from mmpoison.records.data_scan import DataScan


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in this process; starting others takes seconds."""
    monkeypatch.setattr(module, "make_workers", lambda *given, **more: [Here()])


@pytest.fixture
def own_folder(poisoned: PairDataset, tmp_path: Path) -> Path:
    return save_pairs(poisoned, tmp_path / "pairs", images="copy")


METHODS: dict[str, dict[str, Any]] = {
    "threshold": {"method": "relevance-filter", "threshold": 1.9},
    "lose": {"method": "relevance-filter", "lose": 0.2},
    "local-density": {"method": "local-density", "k": 3, "lose": 0.1},
    "suspicious-groups": {"method": "suspicious-groups"},
}


def scan(source: Any, judge: Any, out: Path, **options: Any) -> DataScan:
    given = {"planted": False, "progress": False, "method": "relevance-filter", **options}
    return mmpoison.scan(source, encoder=judge, out=out, **given)


def scores(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out / "scores.parquet").to_pylist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", METHODS)
def test_a_folder_becomes_what_the_filter_in_memory_says(
    name: str, folder: Path, poisoned: PairDataset, judge: DualEncoder, tmp_path: Path
) -> None:
    out, kept = tmp_path / "out", tmp_path / "kept"
    done = scan(folder, judge, out, kept=kept, **METHODS[name])
    options = {**METHODS[name]}
    if "lose" in options:
        options["clean_loss"] = options.pop("lose")
    expected = filter_pairs(poisoned, judge, **options)
    assert done.cut is not None
    assert done.cut.value == pytest.approx(expected.threshold, abs=1e-5)
    again = load_pairs(kept)
    assert expected.kept is not None
    assert list(again.captions) == list(expected.kept.captions)
    assert verify_pairs(again).problems == []
    rows = scores(out)
    assert [not row["drop"] for row in rows] == expected.keep.tolist()
    np.testing.assert_allclose([row["score"] for row in rows], expected.scores, atol=1e-5)
    numbers, lines = (folder / "captions.jsonl").read_text().splitlines(), []
    for number, line in enumerate(numbers, 1):
        lines += [number] * sum(row["image"] == json.loads(line)["image"] for row in rows)
    assert [(row["shard"], row["row"]) for row in rows] == [("captions.jsonl", n) for n in lines]
    assert (done.method, done.encoder) == (METHODS[name]["method"], judge.name)
    assert done.score_name == DEFENSES[done.method].score_name  # type: ignore[attr-defined]
    assert done.data_path is not None
    assert (out / done.data_path).resolve() == folder.resolve()
    assert done.known is not None
    assert done.known.poisoned_total == 13
    assert again.manifest is not None
    assert again.manifest.filtered is not None
    assert again.manifest.filtered["poisoned_total"] == 13
    assert len(again.manifest.pairs) == 13 - done.known.poisoned_caught
    page = (out / "scan.html").read_text()
    assert ("The most suspicious pairs" in page) == (name != "suspicious-groups")
    assert ("data:image/jpeg;base64," in page) == (name != "suspicious-groups")
    assert ("(captions.jsonl row " in page) == (name != "suspicious-groups")


def test_another_cut_embeds_nothing_again(
    folder: Path,
    judge: DualEncoder,
    fresh_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mmpoison.defenses.scan.read import embed as embed_source

    scan(folder, judge, tmp_path / "one", threshold=0.9)
    monkeypatch.setattr(embed_source, "prepare_pixels", None)
    assert scan(folder, judge, tmp_path / "two", lose=0.01, trusted="none").dropped < 153
    with pytest.raises(TypeError):  # another kind of vectors
        scan(folder, judge, tmp_path / "three", method="suspicious-groups")


def test_shards_with_images_inside(
    folder: Path, squares: PairDataset, judge: DualEncoder, tmp_path: Path
) -> None:
    write_parquet_set(squares, tmp_path / "clean", 20)
    write_parquet_set(load_pairs(folder), tmp_path / "bad", 20)
    rule: dict[str, Any] = {"lose": 0.2, "trusted": "none"}
    clean = scan(tmp_path / "clean", judge, tmp_path / "a", kept=tmp_path / "kept-a", **rule)
    assert (clean.pairs, clean.dropped, clean.known) == (140, 28, None)
    kept = load_pairs(tmp_path / "kept-a")
    assert len(kept) == len(squares) - 28
    assert verify_pairs(kept).problems == []
    bad = scan(tmp_path / "bad", judge, tmp_path / "b", kept=tmp_path / "kept-b", **rule)
    again = load_pairs(tmp_path / "kept-b")
    assert again.manifest is not None
    assert bad.known is not None
    left = 13 - bad.known.poisoned_caught
    assert len(again.manifest.pairs) == int(again.poisoned.sum()) == left


def test_the_page_escapes_what_it_shows(
    squares: PairDataset, judge: DualEncoder, tmp_path: Path
) -> None:
    captions = squares.captions.copy()
    captions[:] = [f"<script>alert({n})</script>" for n in range(len(captions))]
    evil = PairDataset.build(squares.images, captions, squares.image)
    scan(evil, judge, tmp_path / "out", threshold=1.9)
    page = (tmp_path / "out" / "scan.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page
    assert page.count("data:image/jpeg;base64,") == 48
    assert "http:" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_a_set_without_training_pairs_is_one_line(
    squares: PairDataset, judge: DualEncoder, tmp_path: Path
) -> None:
    data = save_pairs(squares.select(split="test"), tmp_path / "test-only")
    for method in (name for name in DEFENSES if DEFENSES[name].kind == "pre-training"):
        with pytest.raises(InputError, match="has no training pairs"):
            scan(data, judge, tmp_path / "out", method=method, lose=0.1)
        with pytest.raises(InputError, match="split 'train' has no pair to judge"):
            filter_pairs(load_pairs(data), judge, method, clean_loss=0.1)
    assert not (tmp_path / "out").exists()


# -- labels ----------------------------------------------------------------------------------------


def test_labels_set_the_threshold_and_are_final(
    folder: Path, judge: DualEncoder, tmp_path: Path
) -> None:
    file = tmp_path / "labels.csv"
    scan(folder, judge, tmp_path / "first", method="relevance-filter", lose=0.02)
    rows = scores(tmp_path / "first")
    chosen = [rows[n] for n in pairs_to_label(np.array([row["score"] for row in rows]), 20)]
    # a person who drops whatever is farther apart than the middle
    middle = float(np.median([row["score"] for row in chosen]))
    with LabelFile(file, (row["pair"] for row in chosen)) as labels:
        for row in chosen:
            labels.set(row["pair"], "drop" if row["score"] > middle else "keep")
    done = scan(folder, judge, tmp_path / "out", method="relevance-filter", labels=file)
    beyond = sorted(row["score"] for row in chosen if row["score"] > middle)
    within = sorted(row["score"] for row in chosen if row["score"] <= middle)
    assert done.cut is not None
    assert within[-1] <= done.cut.value <= beyond[0]
    assert done.cut.rule == "labels"
    # one that is far apart, and stays because a person says so
    farthest = max(chosen, key=lambda row: row["score"])["pair"]
    with LabelFile(file) as labels:
        labels.set(farthest, "keep")
    scan(folder, judge, tmp_path / "final", method="relevance-filter", labels=file)
    assert {row["pair"]: row["drop"] for row in scores(tmp_path / "final")}[farthest] is False


def test_decisions_on_a_group_hold(folder: Path, judge: DualEncoder, tmp_path: Path) -> None:
    """By a method with groups, labels decide on the pairs that they name, and nothing else."""
    names = [row["pair"] for row in scores_of_groups(folder, judge, tmp_path / "one")]
    (tmp_path / "labels.csv").write_text(f"pair,verdict\n{names[3]},drop\n{names[5]},drop\n")
    out = tmp_path / "two"
    scan(folder, judge, out, method="suspicious-groups", labels=tmp_path / "labels.csv")
    assert [row["pair"] for row in scores(out) if row["drop"]] == [names[3], names[5]]
    dropped = pq.read_table(out / "drop.parquet")["reason"].to_pylist()
    assert dropped == ["dropped by hand"] * 2


def scores_of_groups(folder: Path, judge: DualEncoder, out: Path) -> list[dict[str, Any]]:
    done = scan(folder, judge, out, method="suspicious-groups")
    assert done.dropped == 0
    return scores(out)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sheep/00.png#0,keep\nsheep/99.png#0,drop\n", "1 labelled pair not among"),
        ("sheep/00.png#0,drop\n", r"no label says keep \(1 say drop\)"),
        ("sheep/00.png#0,unsure\n", r"no label says keep \(0 say drop\)"),
    ],
)
def test_labels_of_no_use_are_refused_before_anything_is_scored(
    folder: Path,
    judge: DualEncoder,
    tmp_path: Path,
    text: str,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text(f"pair,verdict\n{text}")
    monkeypatch.setattr(RelevanceFilter, "score", None)
    with pytest.raises(InputError, match=says):
        scan(folder, judge, tmp_path / "out", labels=labels)


# -- images that cannot be read --------------------------------------------------------------------

BAD = "sheep/03.png"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("name", ["threshold", "suspicious-groups"])
def test_the_others_are_judged(
    own_square_folder: Path, judge: DualEncoder, tmp_path: Path, name: str
) -> None:
    before = load_pairs(own_square_folder)
    cut(own_square_folder / BAD)
    out = tmp_path / "out"
    done = scan(own_square_folder, judge, out, kept=tmp_path / "kept", **METHODS[name])
    assert any(note.startswith("1 image cannot be read") and BAD in note for note in done.notes)
    (entry,) = lines(out / "unreadable.jsonl")
    assert entry["image"] == BAD
    assert entry["reason"].startswith("broken image (")
    assert done.unusable == 5
    rows = scores(out)
    assert {row["image"] for row in rows if row["score"] is None} == {BAD}
    assert all(row["drop"] for row in rows if row["score"] is None)
    kept = load_pairs(tmp_path / "kept")
    assert BAD not in set(kept.images.ids)
    assert len(kept.images) == len(before.images) - 1
    assert not (tmp_path / "kept" / BAD).exists()
    assert len(kept) == len(before) - done.dropped
    assert verify_pairs(kept).problems == []


@pytest.mark.parametrize("name", few([*METHODS][:3], "threshold"))
def test_the_same_as_without_the_image(
    own_square_folder: Path, judge: DualEncoder, tmp_path: Path, name: str
) -> None:
    """Nothing else depends on an image that cannot be read: verdicts are those of a set without it."""
    cut(own_square_folder / BAD)
    cut(own_square_folder / "bird" / "06.png")  # of split val
    scan(own_square_folder, judge, tmp_path / "one", **METHODS[name])
    captions = own_square_folder / "captions.jsonl"
    bad = {BAD, "bird/06.png"}
    left = [
        line for line in captions.read_text().splitlines() if json.loads(line)["image"] not in bad
    ]
    captions.write_text("\n".join(left) + "\n")
    scan(own_square_folder, judge, tmp_path / "two", **METHODS[name])
    one = [row for row in scores(tmp_path / "one") if row["score"] is not None]
    for a, b in zip(one, scores(tmp_path / "two"), strict=True):
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)
        assert (a["pair"], a["drop"], a["group"]) == (b["pair"], b["drop"], b["group"])


def test_no_trusted_image(own_square_folder: Path, judge: DualEncoder, tmp_path: Path) -> None:
    for path in own_square_folder.rglob("0[567].png"):
        if path.parent.name != "unlabelled":
            cut(path)
    with pytest.raises(InputError, match=r"no image of split 'val' .*--trusted none"):
        scan(own_square_folder, judge, tmp_path / "out", lose=0.2)
    scan(own_square_folder, judge, tmp_path / "out", lose=0.2, trusted="none")


def test_a_missing_image_of_another_split(
    own_square_folder: Path, judge: DualEncoder, tmp_path: Path
) -> None:
    (own_square_folder / "bird" / "11.png").unlink()
    (own_square_folder / "bird" / "06.png").unlink()
    kept = tmp_path / "kept"
    scan(own_square_folder, judge, tmp_path / "out", lose=0.2, kept=kept)
    assert [line["image"] for line in lines(kept / "unreadable.jsonl")] == [
        "bird/06.png",
        "bird/11.png",
    ]
    assert verify_pairs(load_pairs(kept)).problems == []
    # a table alone needs no files
    table = tmp_path / "table"
    scan(own_square_folder, judge, tmp_path / "two", threshold=1.9, kept=table, images="none")
    assert "bird/11.png" in set(load_pairs(table).images.ids)


@pytest.mark.parametrize("name", few(METHODS, "threshold", "suspicious-groups"))
def test_poison_stays_marked(
    own_folder: Path, judge: DualEncoder, tmp_path: Path, name: str
) -> None:
    """A poisoned pair goes with its image, and stays where only its caption's image is broken."""
    before = load_pairs(own_folder)
    assert before.manifest is not None
    shown = before.manifest.pairs[0].poisoned_image
    lost = [pair for pair in before.manifest.pairs if pair.poisoned_image == shown]
    source = next(p.clean_image for p in before.manifest.pairs if p.poisoned_image != shown)
    cut(own_folder / shown)
    cut(own_folder / source)
    done = scan(own_folder, judge, tmp_path / "out", kept=tmp_path / "kept", **METHODS[name])
    kept = load_pairs(tmp_path / "kept")
    assert kept.manifest is not None
    assert done.known is not None
    assert done.known.poisoned_total == len(before.manifest.pairs) - len(lost)
    left = done.known.poisoned_total - done.known.poisoned_caught
    assert len(kept.manifest.pairs) == int(kept.poisoned.sum()) == left
    assert shown not in {pair.poisoned_image for pair in kept.manifest.pairs}
    assert not (tmp_path / "kept" / shown).exists()
    assert not (tmp_path / "kept" / source).exists()
    named = {pair.clean_image for pair in kept.manifest.pairs}
    assert (source in set(kept.images.ids)) == (source in named)
    if name == "threshold":
        assert source in named


def test_labels_of_an_unreadable_image_count_for_nothing(
    own_square_folder: Path, judge: DualEncoder, tmp_path: Path
) -> None:
    scan(own_square_folder, judge, tmp_path / "one", lose=0.01)
    named = [row["pair"] for row in scores(tmp_path / "one")]
    rows = [f"{pair},{'drop' if n % 9 == 0 else 'keep'}" for n, pair in enumerate(named)]
    (tmp_path / "labels.csv").write_text("pair,verdict\n" + "\n".join(rows) + "\n")
    cut(own_square_folder / BAD)
    done = scan(own_square_folder, judge, tmp_path / "out", labels=tmp_path / "labels.csv")
    assert all(row["drop"] for row in scores(tmp_path / "out") if row["image"] == BAD)
    assert done.dropped >= 5
