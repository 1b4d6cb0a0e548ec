"""Damaged and hostile containers: whatever is in them, they are read or refused in one line."""

from __future__ import annotations

import json
import os
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.conftest import refusal, write_tar
from tests.datasets.formats.conftest import write_arrow, write_parquet

from mmpoison.datasets import load_pairs
from mmpoison.errors import InputError
from mmpoison.images.containers import arrow_batches, walk_tar
from mmpoison.images.sources import image_bytes

ROWS = range(30)


def table() -> dict[str, Any]:
    return {
        "image": [{"bytes": bytes([n]) * 20, "path": f"{n}.jpg"} for n in ROWS],
        "captions": [[f"a {n}", f"b {n}"] for n in ROWS],
        "label": [f"class {n % 3}" for n in ROWS],
    }


def write_coded(folder: Path) -> Path:
    columns = table()
    return write_parquet(
        folder, {**columns, "label": pa.array(columns["label"]).dictionary_encode()}
    )


def write_long_names(folder: Path) -> Path:
    # a long name takes a header of its own
    names = [f"{'d' * 120}/{n}" if n == 3 else str(n) for n in range(6)]
    parts = {"jpg": b"x" * 700, "txt": b"text", "json": b'{"label": 1}'}
    members = {f"{name}.{end}": data for name in names for end, data in parts.items()}
    return write_tar(folder / "00000.tar", members)


def damaged(raw: bytes, rng: random.Random) -> bytes:
    changed = bytearray(raw)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at = rng.randrange(len(changed))
        changed[at] = rng.choice([0, 255, rng.randrange(256), changed[at] ^ 1 << rng.randrange(8)])
    return bytes(changed[: rng.randrange(len(changed))] if rng.random() < 0.2 else changed)


@pytest.mark.parametrize(
    ("format", "write"),
    [
        ("parquet", write_coded),
        ("hugging-face", lambda folder: write_arrow(folder, table())),
        ("webdataset", write_long_names),
    ],
)
def test_any_damage_is_read_or_refused(
    tmp_path: Path, format: str, write: Callable[[Path], Path]
) -> None:
    file = write(tmp_path)
    raw = file.read_bytes()
    said: list[str] = []
    outcomes = {"read": 0, "refused": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(150):
            # a new file each time, since Arrow files are mapped
            file.unlink()
            file.write_bytes(damaged(raw, random.Random(seed)))
            try:
                pairs = load_pairs(tmp_path, format=format)
            except InputError as error:
                said.append(str(error))
                outcomes["refused"] += 1
                continue
            outcomes["read"] += 1
            assert len(pairs.fingerprint) == 64
            for image_id in pairs.images.ids:
                try:
                    image_bytes(tmp_path, image_id)
                except InputError as error:
                    said.append(str(error))
    assert all(len(message.splitlines()) == 1 for message in said)
    assert min(outcomes.values()) > 10


def test_a_column_name_of_an_arrow_file_that_is_not_utf_8(tmp_path: Path) -> None:
    file = write_arrow(tmp_path, table())
    raw = file.read_bytes()
    file.unlink()
    file.write_bytes(raw.replace(b"captions", b"\xffaptions"))
    assert "broken after row 0" in refusal(load_pairs, tmp_path, format="hugging-face")


LONG = "x" * (5 << 20)


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        ("captions.jsonl", '{"image": "a.jpg", "captions": ["' + LONG + '"]}\n', {}),
        ("results_20130124.token", "a.jpg#0\t" + LONG, {"missing": "keep"}),
        (
            "results.csv",
            "image_name| comment_number| comment\na.jpg| 0| " + LONG,
            {"missing": "keep"},
        ),
    ],
)
def test_a_line_of_5_mib_is_refused(
    tmp_path: Path, name: str, text: str, options: dict[str, Any]
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=r"line [12]: longer than the limit of 4 MiB"):
        load_pairs(tmp_path, **options)


def test_a_caption_of_a_million_characters_is_left_out(tmp_path: Path) -> None:
    captions = json.dumps({"a.jpg": {"category": "sheep", "captions": ["a", LONG]}})
    (tmp_path / "pascal_sentences.json").write_text(captions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pairs = load_pairs(tmp_path, format="pascal-sentences", missing="keep")
    assert list(pairs.captions) == ["a"]
    assert "has 5,242,880 characters, over 131,072" in pairs.problems[0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_the_place_of_a_container(tmp_path: Path) -> None:
    problems: list[str] = []
    for name, read in (("a.arrow", arrow_batches), ("a.tar", walk_tar)):
        os.mkfifo(tmp_path / name)
        assert list(read(tmp_path / name, problems.append)) == []
        assert f"{name}: is a named pipe, not a regular file" in problems[-1]
