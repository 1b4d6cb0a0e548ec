"""`ucm-captions`: the authors' layout in small, what breaks it, and the real photos where they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import SHARED
from tests.datasets.published.conftest import karpathy_image

from mmpoison.datasets import DATASETS, load_pairs
from mmpoison.datasets.published.rsicd_ucm import CLASSES
from mmpoison.errors import InputError

SAMPLE = SHARED / "ucm"
needs_sample = pytest.mark.skipif(
    not (SAMPLE / "captions.jsonl").is_file(),
    reason=f"ucm is not at {SHARED} (set MMPOISON_SHARED_DATA)",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "UCM_captions"
    (folder / "imgs").mkdir(parents=True)
    names = {"1.tif": "train", "100.tif": "val", "101.tif": "test", "2100.tif": "train"}
    _write(folder, *(karpathy_image(name, split) for name, split in names.items()))
    for name in names:
        (folder / "imgs" / name).touch()
    return folder


def _write(root: Path, *images: Any) -> None:
    (root / "dataset.json").write_text(json.dumps({"images": images, "dataset": "UCM"}))


def test_the_authors_layout(root: Path) -> None:
    pairs = load_pairs(root)
    assert pairs.problems == ()
    found = {line["image"]: (line["label"], line["split"]) for line in pairs.lines()}
    assert found == {
        "imgs/1.tif": ("agricultural", "train"),
        "imgs/100.tif": ("agricultural", "val"),
        "imgs/101.tif": ("airplane", "test"),
        "imgs/2100.tif": ("tenniscourt", "train"),
    }
    assert list(pairs.captions[:2]) == ["many planes are parked .", "some planes ."]
    assert load_pairs(root / "dataset.json").fingerprint == pairs.fingerprint


def test_sydney_captions_is_not_taken_for_it(root: Path) -> None:
    _write(root, *(karpathy_image(f"{number}.tif") for number in range(1, 614)))
    with pytest.raises(InputError, match="which is Sydney-Captions and not UCM-Captions"):
        load_pairs(root)


def test_another_dataset_json_is_not_recognised(root: Path) -> None:
    recognise = DATASETS["ucm-captions"].recognise
    assert recognise is not None
    assert recognise(root) == "dataset.json"
    for content in ('{"images": [{"filename": "1.jpg"}]}', '{"x": "1.tif"}'):
        (root / "dataset.json").write_text(content)
        assert recognise(root) is None
    (root / "dataset.json").unlink()
    assert recognise(root) is None


# -- real data -------------------------------------------------------------------------------------


@needs_sample
def test_the_sample_as_a_pairs_folder() -> None:
    pairs = load_pairs(SAMPLE)
    assert (len(pairs.images), len(pairs), len(set(pairs.captions))) == (2100, 10_500, 2032)
    counts = pairs.counts()
    assert counts["classes"] == dict.fromkeys(CLASSES, 100)
    assert {name: split["images"] for name, split in counts["splits"].items()} == {
        "train": 1680,
        "val": 210,
        "test": 210,
    }


@needs_sample
def test_the_sample_put_back_into_the_authors_layout(tmp_path: Path) -> None:
    """The classes by number are those of the sample, whose files keep their number."""
    sample = load_pairs(SAMPLE)
    lines = list(sample.lines())
    _write(
        tmp_path,
        *(
            karpathy_image(f"{int(line['image'][-8:-4])}.tif", line["split"], *line["captions"])
            for line in lines
        ),
    )
    pairs = load_pairs(tmp_path)
    assert list(pairs.captions) == list(sample.captions)
    assert pairs.counts() == sample.counts()
    for index, line in enumerate(lines):
        assert pairs.images.label(index) == line["label"]
