"""Data sets that the `datasets` library saved, and those of the hub."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from tests.conftest import captions_by_image, refusal
from tests.datasets.formats.conftest import write_arrow

from mmpoison.datasets import load_pairs
from mmpoison.datasets.formats.hugging_face import load_hub
from mmpoison.errors import InputError, MmpoisonWarning
from mmpoison.images import read_image


def png(colour: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def saved_dict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the library itself writes for two splits, the first in two files; never write into it."""
    datasets = pytest.importorskip("datasets", reason="needs the extra data")
    folder = tmp_path_factory.mktemp("hf") / "saved"
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "captions": datasets.List(datasets.Value("string")),
            "label": datasets.ClassLabel(names=["cow", "sheep"]),
        }
    )

    def part(start: int, count: int) -> Any:
        rows = range(start, start + count)
        return datasets.Dataset.from_dict(
            {
                "image": [{"bytes": png(n), "path": f"{n}.png"} for n in rows],
                "captions": [[f"a {n}", f"b {n}"] for n in rows],
                "label": [n % 2 for n in rows],
            },
            features=features,
        )

    both = datasets.DatasetDict({"train": part(0, 7), "validation": part(7, 3)})
    both.save_to_disk(folder, num_shards={"train": 2, "validation": 1})
    return folder


def test_splits_that_the_library_saved(saved_dict: Path) -> None:
    pairs = load_pairs(saved_dict)
    assert pairs.classes == ("cow", "sheep")
    lines = list(pairs.lines())
    assert [line["captions"] for line in lines] == [[f"a {n}", f"b {n}"] for n in range(10)]
    assert [line["label"] for line in lines] == ["cow", "sheep"] * 5
    assert [line["split"] for line in lines] == ["train"] * 7 + ["val"] * 3
    assert lines[0]["image"] == "train/data-00000-of-00002.arrow/0"
    assert lines[9]["image"] == "validation/data-00000-of-00001.arrow/2"
    for n, line in enumerate(lines):
        assert read_image(saved_dict, line["image"], 8)[0, 0, 0] == n


# -- small files of the same form ------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    columns = {"image": [f"{n}.jpg" for n in range(6)], "caption": [f"a {n}" for n in range(6)]}
    (tmp_path / "saved").mkdir()
    return write_arrow(tmp_path / "saved", columns, _split="test").parent


def test_a_cut_file_keeps_what_is_whole(saved: Path) -> None:
    raw = (saved / "a.arrow").read_bytes()
    (saved / "a.arrow").write_bytes(raw[: len(raw) - 300])
    with pytest.warns(MmpoisonWarning, match="rest is not read"):
        pairs = load_pairs(saved)
    assert 0 < len(pairs) < 6


def test_text_that_is_no_text(tmp_path: Path) -> None:
    offsets = pa.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0")
    bad = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"a\xff\xfe")])
    folder = write_arrow(tmp_path, {"image": ["1.jpg", "2.jpg"], "caption": bad}).parent
    with pytest.warns(MmpoisonWarning, match=r"row 1: a caption of '2.jpg' is not UTF-8 text"):
        assert captions_by_image(load_pairs(folder)) == {"1.jpg": ["a"], "2.jpg": []}


def test_offsets_that_lead_astray(saved: Path) -> None:
    raw = (saved / "a.arrow").read_bytes()
    good = b"\0\0\0\0\3\0\0\0\6\0\0\0"
    assert raw.count(good) == 3
    (saved / "a.arrow").write_bytes(raw.replace(good, b"\0\0\0\0\3\0\0\0\xff\xff\xff\x7f"))
    assert "contains no image" in refusal(load_pairs, saved)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("state.json", "[]", "expected a JSON object"),
        ("state.json", "{}", "'_data_files' must be a list"),
        ("state.json", '{"_data_files": [{"file": "a.arrow"}]}', "'_data_files' must be a list"),
        ("state.json", '{"_data_files": [{"filename": "none.arrow"}]}', "none.arrow: no such file"),
        ("state.json", '{"_data_files": [{"filename": "../a.arrow"}]}', "leaves the folder"),
        ("dataset_dict.json", '{"splits": "train"}', "'splits' must be a list"),
        ("dataset_dict.json", '{"splits": ["../saved"]}', "leaves the folder"),
    ],
)
def test_a_broken_description(saved: Path, name: str, text: str, message: str) -> None:
    (saved / name).write_text(text)
    assert message in refusal(load_pairs, saved)


def test_not_such_a_folder(tmp_path: Path) -> None:
    assert "save_to_disk did not write it" in refusal(load_pairs, tmp_path, format="hugging-face")


# -- the hub ---------------------------------------------------------------------------------------


class _Hub(ModuleType):
    """Stands for the library: remembers how it was called, and returns what the test sets."""

    def __init__(self, result: Any) -> None:
        super().__init__("datasets")
        self.result = result
        self.called: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def load_dataset(self, *arguments: Any, **options: Any) -> Any:
        self.called.append((arguments, options))
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def part_of(*files: Path, indices: Any = None) -> Any:
    return SimpleNamespace(cache_files=[{"filename": str(f)} for f in files], _indices=indices)


def test_a_data_set_of_the_hub(saved_dict: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = sorted((saved_dict / "train").glob("*.arrow"))
    val = sorted((saved_dict / "validation").glob("*.arrow"))
    hub = _Hub({"train": part_of(*train), "validation": part_of(*val)})
    monkeypatch.setitem(sys.modules, "datasets", hub)
    pairs = load_hub("org/name", config="small")
    assert captions_by_image(pairs) == captions_by_image(load_pairs(saved_dict))
    assert [line["split"] for line in pairs.lines()] == ["train"] * 7 + ["val"] * 3
    assert read_image(pairs.root, pairs.images.ids[9], 8)[0, 0, 0] == 9
    # no token leaves the machine, and nothing lets the data set run code
    assert hub.called == [(("org/name", "small"), {"token": False})]


def test_code_of_a_data_set_is_never_run(saved_dict: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def load_dataset(
        path: str, name: Any, *, token: Any = None, trust_remote_code: bool = True
    ) -> Any:
        seen.append((token, trust_remote_code))
        return {"train": part_of(*sorted((saved_dict / "train").glob("*.arrow")))}

    old = ModuleType("datasets")
    monkeypatch.setattr(old, "load_dataset", load_dataset, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", old)
    assert len(load_hub("org/name").images) == 7
    assert seen == [(False, False)]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (
            ConnectionError("no\nnetwork"),
            "hf:a/b: cannot be loaded from the hub (ConnectionError: no network)",
        ),
        ({"train": part_of()}, "hf:a/b: the library has no cached files of it"),
        ({"train": part_of(Path("/x/y.arrow"), indices=[1])}, "split 'train' is a selection"),
    ],
)
def test_what_the_hub_cannot_give(
    monkeypatch: pytest.MonkeyPatch, result: Any, message: str
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", _Hub(result))
    assert message in refusal(load_hub, "a/b")


@pytest.mark.parametrize("hub", ["a/b/c", "../a", "/a/b", "a b"])
def test_what_is_no_name_of_the_hub(monkeypatch: pytest.MonkeyPatch, hub: str) -> None:
    library = _Hub({})
    monkeypatch.setitem(sys.modules, "datasets", library)
    with pytest.raises(InputError, match=r"give a hub name, e\.g\. hf:org/name"):
        load_hub(hub)
    assert library.called == []


def test_a_folder_here_is_not_taken_for_the_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = _Hub({})
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    with pytest.raises(InputError, match="hf:org/name: there is a folder org/name here"):
        load_hub("org/name")
    assert library.called == []
