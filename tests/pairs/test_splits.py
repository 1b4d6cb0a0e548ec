"""Frozen splits: saved, checked, applied to the same images in other folders; the one that is shipped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import SHARED, refusal

from mmpoison.datasets import ImageTable, PairDataset, load_pairs
from mmpoison.errors import InputError
from mmpoison.pairs.labels import labels_of, relabel, splits_of
from mmpoison.pairs.splits import (
    FrozenSplit,
    IdKind,
    find_split,
    shipped_split,
    shipped_splits,
    split_per_class,
)

PASCAL = SHARED / "pascal_sentences" / "pascal_sentences.json"


def table(
    ids: list[str], labels: list[str | None] | None = None, splits: list[str] | None = None
) -> PairDataset:
    count = len(ids)
    images = ImageTable.build(
        ids, labels or [None] * count, splits or ["train"] * count, Path("nowhere")
    )
    return PairDataset.build(images, [f"caption of {i}" for i in ids], list(range(count)))


PAIRS = table(
    ["a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg"],
    ["cat", None, "dog", "cat"],
    ["test", "train", "val", "train"],
)


def save_split(
    pairs: PairDataset, file: Path, *, name: str = "split", ids: IdKind = "path"
) -> FrozenSplit:
    split = FrozenSplit.of(pairs, name, ids)
    split.write(file)
    return split


def apply_split(pairs: PairDataset, file: Path, *, strict: bool = True) -> PairDataset:
    return FrozenSplit.read(file).apply(pairs, strict=strict, where=str(file))


def test_a_folder_may_have_the_name_of_a_shipped_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pascal-sentences").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_split("pascal-sentences") == shipped_split("pascal-sentences")


def test_a_saved_split_gives_the_same_set_back(tmp_path: Path) -> None:
    file = tmp_path / "split.json"
    saved = save_split(PAIRS, file, name="pets")
    raw = json.loads(file.read_text())
    assert raw["name"] == "pets"
    assert raw["train"] == ["a/2.jpg", "b/4.jpg"]
    assert raw["val"] == ["b/3.jpg"]
    assert raw["test"] == ["a/1.jpg"]
    assert raw["labels"] == {"a/1.jpg": "cat", "b/3.jpg": "dog", "b/4.jpg": "cat"}
    assert raw["counts"] == {"train": 2, "val": 1, "test": 1, "classes": 2}
    assert raw["sha256"] == saved.sha256
    # no caption travels with it
    assert "caption of" not in file.read_text()
    bare = relabel(PAIRS, labels=[None] * 4, splits=["train"] * 4)
    assert apply_split(bare, file).fingerprint == PAIRS.fingerprint


def test_the_sha256_is_pinned() -> None:
    assert FrozenSplit.of(PAIRS, "pets").sha256 == PINNED


PINNED = "917a4612f7068587e04fcc319ad3476f35070bdb073795ccabc91809902c6dd1"


def test_equal_splits_have_equal_sha256() -> None:
    turned = table(
        ["b/4.jpg", "b/3.jpg", "a/2.jpg", "a/1.jpg"],
        ["cat", "dog", None, "cat"],
        ["train", "val", "train", "test"],
    )
    whole = FrozenSplit.of(PAIRS, "pets")
    assert FrozenSplit.of(turned, "another name").sha256 == whole.sha256
    for other in (
        relabel(PAIRS, labels=["cat", None, "dog", None]),
        relabel(PAIRS, splits=["test", "train", "val", "val"]),
        PAIRS.piece([0, 1, 2]),
    ):
        assert FrozenSplit.of(other, "pets").sha256 != whole.sha256


def test_images_in_other_folders_are_known_by_name(tmp_path: Path) -> None:
    file = tmp_path / "split.json"
    save_split(PAIRS, file, ids="name")
    elsewhere = table(["images/4.jpg", "images/3.jpg", "images/2.jpg", "images/1.jpg"])
    pairs = apply_split(elsewhere, file)
    assert splits_of(pairs) == ["train", "val", "train", "test"]
    assert labels_of(pairs) == ["cat", "dog", None, "cat"]
    assert FrozenSplit.of(pairs, "x", "name").sha256 == FrozenSplit.read(file).sha256


def test_two_images_of_one_name_are_known_by_path_alone(tmp_path: Path) -> None:
    twins = table(["a/1.jpg", "b/1.jpg"])
    assert "two images are called '1.jpg'" in refusal(
        save_split, twins, tmp_path / "split.json", ids="name"
    )
    assert not (tmp_path / "split.json").exists()
    save_split(twins, tmp_path / "split.json")
    # nor can the two be distinguished when a split is taken
    save_split(table(["c/1.jpg"]), tmp_path / "name.json", ids="name")
    assert "two images are called '1.jpg'" in refusal(apply_split, twins, tmp_path / "name.json")


def test_missing_and_other_images_are_named(tmp_path: Path) -> None:
    file = tmp_path / "split.json"
    save_split(PAIRS, file)
    other = table(["a/1.jpg", "a/9.jpg", "b/4.jpg", "b/8.jpg"])
    assert refusal(apply_split, other, file) == (
        f"{file}: 2 images are not in the data, the first: 'a/2.jpg'; "
        f"{file}: 2 images are in the data, but not in the split, the first: 'a/9.jpg'"
    )
    part = apply_split(other, file, strict=False)
    assert list(part.images.ids) == ["a/1.jpg", "b/4.jpg"]
    assert list(part.captions) == ["caption of a/1.jpg", "caption of b/4.jpg"]
    assert splits_of(part) == ["test", "train"]
    assert len(part.problems) == 2
    assert "a/2.jpg" in part.problems[0]


def test_a_split_of_other_data_is_refused(tmp_path: Path) -> None:
    save_split(PAIRS, tmp_path / "split.json")
    assert "none of its images is in the data: it knows 'a/2.jpg'" in refusal(
        apply_split, table(["x/1.jpg"]), tmp_path / "split.json", strict=False
    )


def change(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw.update(changes)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (change(test=["b/3.jpg"]), "image 'b/3.jpg' is in two places"),
        (change(train=["a/2.jpg", "a/2.jpg"]), "image 'a/2.jpg' is in two places"),
        (change(train=["b/4.jpg"]), "its sha256 should be .*: the file was changed"),
        (change(labels={}), "its sha256 should be .*: the file was changed"),
        (change(labels={"z.jpg": "cat"}), "a label for 'z.jpg', which is in no part"),
        (change(train="a/2.jpg"), r"not a split \(Expected `array`, got `str` - at `\$.train`\)"),
        (change(ids="hash"), "not a split"),
        # found by `make fuzz`: the message repeated a value of any length
        (change(ids="d/" * 5000), r"not a split \(.{,160}\)$"),
        (lambda raw: raw.pop("test"), "not a split"),
    ],
)
def test_broken_files_are_one_line(
    tmp_path: Path, broken: Callable[[dict[str, Any]], Any], message: str
) -> None:
    file = tmp_path / "split.json"
    save_split(PAIRS, file)
    raw = json.loads(file.read_text())
    broken(raw)
    file.write_text(json.dumps(raw))
    with pytest.raises(InputError, match=message) as error:
        FrozenSplit.read(file)
    assert str(error.value).startswith(str(file))


def test_no_file_or_no_split(tmp_path: Path) -> None:
    file = tmp_path / "split.json"
    for read in (FrozenSplit.read, find_split):
        assert "no such file" in refusal(read, file)
    assert "did you mean 'pascal-sentences'" in refusal(find_split, "pascal-sentence")
    for text in (b"", b"{", b"[]", b"\xff", b"[" * 100_000):
        file.write_bytes(text)
        assert "not a split" in refusal(FrozenSplit.read, file)


@given(
    st.dictionaries(
        st.text(min_size=1).filter(lambda text: "/" not in text),
        st.tuples(st.sampled_from(["train", "val", "test"]), st.none() | st.text()),
        min_size=1,
    )
)
def test_any_split_survives_its_file(
    tmp_path_factory: pytest.TempPathFactory, images: dict[str, tuple[str, str | None]]
) -> None:
    split = FrozenSplit(
        "any",
        {name: part for name, (part, _) in images.items()},
        {name: label for name, (_, label) in images.items()},
    )
    again = FrozenSplit.read(split.write(tmp_path_factory.mktemp("any") / "split.json"))
    assert again.sha256 == split.sha256
    assert again.splits == split.splits
    assert again.labels == split.labels


# -- what is shipped -------------------------------------------------------------------------------

SHIPPED = {"pascal-sentences": "ad15ae0979455234d2443ab33c2fc57b8b5f50cbf6cbac20e0ff08aa383e29ca"}


def test_the_shipped_splits_are_the_published_ones() -> None:
    assert {name: shipped_split(name).sha256 for name in shipped_splits()} == SHIPPED


def test_pascal_is_split_in_halves_of_each_class() -> None:
    split = shipped_split("pascal-sentences")
    assert split.counts() == {"train": 500, "val": 0, "test": 500, "classes": 20}
    assert not set(split.members("train")) & set(split.members("test"))
    for part in ("train", "test"):
        labels = [split.labels[name] for name in split.members(part)]
        assert {labels.count(label) for label in set(labels)} == {25}


def test_the_shipped_split_of_pascal_comes_from_its_rule() -> None:
    """Anyone can make it again from the names and classes alone."""
    split = shipped_split("pascal-sentences")
    bare = table(list(split.labels), list(split.labels.values()))
    again = split_per_class(bare, 25, 0)
    assert FrozenSplit.of(again, "again", "name").sha256 == split.sha256


@pytest.mark.skipif(not PASCAL.is_file(), reason="the real captions are not there")
def test_the_adapter_of_pascal_gives_the_shipped_split() -> None:
    pairs = load_pairs(PASCAL)
    assert FrozenSplit.of(pairs, "x", "name").sha256 == SHIPPED["pascal-sentences"]


@pytest.mark.skipif(not PASCAL.is_file(), reason="the real images are not there")
def test_the_split_does_not_hang_on_which_images_are_there() -> None:
    from mmpoison.errors import MmpoisonWarning

    with pytest.warns(MmpoisonWarning, match="864 of 1,000 images are not under"):
        pairs = load_pairs(PASCAL.parent)
    fixed = shipped_split("pascal-sentences").apply(pairs, strict=False)
    assert fixed.fingerprint == pairs.fingerprint
    assert 60 < pairs.counts()["splits"]["test"]["images"] < 76
