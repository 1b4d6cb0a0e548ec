"""webdataset reads real tars through `keep_filter`: exactly the pairs on the list come out."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import refusal, write_tar
from tests.embedded.conftest import make_pairs

import mmpoison
from mmpoison.errors import InputError

webdataset = pytest.importorskip("webdataset")

PAIRS = make_pairs(30)


def write_facts(file: Path, facts: Iterable[bytes | None]) -> Path:
    members: dict[str, bytes] = {}
    for key, caption, fact in zip(PAIRS.keys, PAIRS.captions, facts, strict=False):
        members |= {f"{key}.txt": caption.encode(), f"{key}.jpg": b"x"}
        members |= {} if fact is None else {f"{key}.json": fact}
    return write_tar(file, members)


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    facts = [json.dumps({"uid": uid, "url": "x"}).encode() for uid in PAIRS.uids]
    return write_facts(tmp_path / "00000.tar", facts)


def save_subset(file: Path, uids: Iterable[str]) -> Path:
    halves = sorted((int(uid[:16], 16), int(uid[16:], 16)) for uid in uids)
    np.save(file, np.array(halves, np.dtype("u8,u8")))
    return file


def read(tar: Path, predicate: Any, decode: bool = False) -> list[str]:
    dataset = webdataset.WebDataset(str(tar), shardshuffle=False)
    if decode:
        dataset = dataset.decode(only=["json"])
    return [sample["__key__"] for sample in dataset.select(predicate)]


@pytest.mark.parametrize("decode", [False, True])
def test_a_subset_file_selects_by_uid(tmp_path: Path, tar: Path, decode: bool) -> None:
    file = save_subset(tmp_path / "keep.npy", PAIRS.uids[::3])
    # the folder of a scan will do
    for place in (file, str(tmp_path)):
        assert read(tar, mmpoison.keep_filter(place), decode) == PAIRS.keys[::3]


def test_halves_that_are_equal_are_no_uids_that_are(tmp_path: Path) -> None:
    one, other, third = "a" * 16 + "b" * 16, "a" * 16 + "c" * 16, "a" * 16 + "d" * 16
    keep = mmpoison.keep_filter(save_subset(tmp_path / "keep.npy", [one, third, "f" * 32]))

    def stays(uid: str) -> bool:
        return keep({"json": {"uid": uid}})

    assert [stays(uid) for uid in (one, other, third, "f" * 32, "0" * 32)] == [
        True, False, True, True, False,
    ]  # fmt: skip
    keep = mmpoison.keep_filter(save_subset(tmp_path / "short.npy", ["0" * 30 + "1f"]))
    assert [stays(uid) for uid in ("1f", "01F", "0" * 30 + "1f", "1e", "0x1f", "0" * 31 + "1f")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
    keep = mmpoison.keep_filter(save_subset(tmp_path / "keep.npy", [one, third, "f" * 32]))
    assert [stays(uid) for uid in ("f" * 15 + "e" + "f" * 16, "", "F" * 32)] == [False, False, True]


def test_lists_of_keys_select_by_key(tmp_path: Path, tar: Path) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "0.txt").write_text("\n".join(PAIRS.keys[:5]) + "\n")
    (tmp_path / "keep" / "1.txt").write_text("\n".join(PAIRS.keys[20:22]) + "\n")
    expected = [*PAIRS.keys[:5], *PAIRS.keys[20:22]]
    for place in (tmp_path / "keep", tmp_path):
        assert read(tar, mmpoison.keep_filter(place)) == expected
    assert read(tar, mmpoison.keep_filter(tmp_path / "keep" / "1.txt")) == PAIRS.keys[20:22]


def test_it_is_pickled_without_the_list(tmp_path: Path, tar: Path) -> None:
    file = save_subset(
        tmp_path / "keep.npy", [*PAIRS.uids[:4], *(f"{n:032x}" for n in range(9999))]
    )
    keep = mmpoison.keep_filter(file)
    assert read(tar, keep) == PAIRS.keys[:4]
    raw = pickle.dumps(keep)
    assert len(raw) < 1000
    assert read(tar, pickle.loads(raw)) == PAIRS.keys[:4]


def test_broken_json_of_one_sample_does_not_stop_the_reading(tmp_path: Path) -> None:
    facts = [json.dumps({"uid": uid}).encode() for uid in PAIRS.uids]
    facts[0], facts[1], facts[2] = b"{broken", b'{"url": 1}', b'["uid"]'
    tar = write_facts(tmp_path / "a.tar", facts)
    keep = mmpoison.keep_filter(save_subset(tmp_path / "keep.npy", PAIRS.uids[:5]))
    assert read(tar, keep) == PAIRS.keys[3:5]


def test_tars_without_json_are_refused(tmp_path: Path) -> None:
    tar = write_facts(tmp_path / "a.tar", [None] * 30)
    keep = mmpoison.keep_filter(save_subset(tmp_path / "keep.npy", PAIRS.uids))
    with pytest.raises(InputError, match=r"sample '000000000' has no \.json with a uid"):
        read(tar, keep)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x.npy", "no such list"),
        (".", "has no keep.npy and no lists of keys"),
        ("a.npy", "holds float64"),
        ("a.csv", "is no list of pairs to keep"),
    ],
)
def test_what_is_no_list_is_refused_at_once(tmp_path: Path, name: str, says: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "a.csv").write_text("x")
    assert says in refusal(mmpoison.keep_filter, tmp_path / name)


def test_it_starts_without_torch() -> None:
    code = (
        "import sys, mmpoison, mmpoison.embedded as e; mmpoison.keep_filter; list(e.EMBEDDED_FORMATS); "
        "print([m for m in ('torch', 'open_clip', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
