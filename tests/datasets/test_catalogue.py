"""Names, paths and formats: how a user's words become a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmpoison.attacks import SingleTargetLabel
from mmpoison.datasets import DATASETS, PairDataset, load_dataset, load_pairs, stream_pairs
from mmpoison.datasets.catalogue import find_root, recognise
from mmpoison.errors import InputError, MmpoisonWarning

LINE: dict[str, Any] = {"image": "a.jpg", "captions": ["a sheep", "it grazes"], "label": "sheep"}


def test_a_folder_of_two_formats_says_so(write_lines: Callable[..., Path]) -> None:
    folder = write_lines(LINE)
    (folder / "dataset_flickr30k.json").write_text('{"images": [], "dataset": "flickr30k"}')
    assert len(load_pairs(folder)) == 2, "the own table of a folder says what it is"
    (folder / "captions.jsonl").rename(folder / "dataset_dict.json")
    with pytest.raises(InputError, match=r"could be .* or .*: say which with --format"):
        load_pairs(folder)


def test_a_folder_with_the_name_of_a_set(
    write_lines: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_lines(LINE, name="coco")
    monkeypatch.chdir(folder.parent)
    monkeypatch.delenv("MMPOISON_DATA", raising=False)
    with pytest.raises(
        InputError, match=r"'coco' needs the folder .*; the folder here is \./coco:"
    ):
        load_dataset("coco")
    assert len(load_dataset("./coco")) == 2


def test_data_sets_side_by_side_are_no_classes(
    write_lines: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write_lines(LINE)
    outer = folder.parent
    (folder / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError) as error:
        load_pairs(outer)
    assert f"{outer}: is not a data set, but contains {folder.name} (pairs-folder): give one" in (
        str(error.value)
    )
    (folder / "captions.jsonl").unlink()
    assert recognise(outer).name == "image-folder"


def test_a_named_set_is_found_under_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MMPOISON_DATA", raising=False)
    assert find_root(DATASETS["coco"]) is None
    monkeypatch.setenv("MMPOISON_DATA", str(tmp_path))
    assert find_root(DATASETS["coco-m"]) is None
    (tmp_path / "coco").mkdir()
    assert find_root(DATASETS["coco"]) == find_root(DATASETS["coco-m"]) == tmp_path / "coco"
    assert find_root(DATASETS["openmoji"]) is None


def test_a_named_set_may_be_a_pairs_folder(
    write_lines: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_lines(LINE, name="pascal_sentences")
    assert list(load_dataset("pascal-sentences", folder).captions) == LINE["captions"]
    monkeypatch.setenv("MMPOISON_DATA", str(folder.parent))
    assert find_root(DATASETS["pascal-sentences"]) == folder
    assert len(load_dataset("pascal-sentences")) == 2
    with pytest.raises(InputError, match="'pairs-folder' has no option 'missing'"):
        load_dataset("pascal-sentences", options={"missing": "keep"})
    # derived sets are made from the annotations
    with pytest.raises(InputError, match="coco"):
        load_dataset("coco-paper", folder)
    # the authors' own files come first
    (folder / "pascal_sentences.json").write_text(
        '{"b.jpg": {"category": "cow", "captions": ["x"]}}'
    )
    assert list(load_dataset("pascal-sentences").captions) == ["x"]


def test_what_was_left_out_is_in_one_piece(tmp_path: Path) -> None:
    rows = "".join(f"{number}.jpg,a sheep\n" for number in range(5))
    (tmp_path / "pairs.csv").write_text(f"image,caption\n{rows}../up.jpg,x\n")
    with pytest.warns(MmpoisonWarning, match="left out: "):
        pieces = list(stream_pairs(tmp_path, images_at_once=2))
    assert [len(piece.images) for piece in pieces] == [2, 2, 1]
    assert [len(piece.problems) for piece in pieces] == [1, 0, 0]


def test_a_piece_keeps_split_label_and_poison(squares: PairDataset) -> None:
    poisoned = SingleTargetLabel("sheep2aeroplane", samples=2).poison(squares)
    code = {poisoned.images.class_code(name) for name in ("sheep", "aeroplane")}
    rows = np.flatnonzero([c in code for c in poisoned.images.class_codes])
    piece = poisoned.piece(rows)
    assert piece.poisoned.sum() == poisoned.poisoned.sum() > 0
    assert set(piece.classes) == {"sheep", "aeroplane"}
    assert piece.manifest == poisoned.manifest
    with pytest.raises(InputError, match="images its captions are from"):
        poisoned.piece(
            np.flatnonzero(poisoned.images.class_codes == poisoned.images.class_code("aeroplane"))
        )
