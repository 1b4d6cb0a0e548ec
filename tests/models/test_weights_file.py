"""Files of weights: tensors that can be computed with, or one line that says why not; nothing in them is run."""

from __future__ import annotations

import io
import json
import pickle
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from mmpoison.errors import InputError
from mmpoison.models.weights_file import read_weights

WEIGHTS = {"weight": torch.linspace(-1, 1, 100)}
NOT_STORED = {
    "expanded": torch.zeros(1).expand(1 << 40),
    "meta": torch.zeros(3, device="meta"),
    "sparse": torch.sparse_coo_tensor(
        torch.zeros((1, 1)), torch.ones(1), (1 << 40,), check_invariants=False
    ),
}
NOT_SUPPORTED = {
    "complex": torch.zeros(3, dtype=torch.complex64),
    "float8": torch.zeros(3).to(torch.float8_e4m3fn),
}
NO_DICTIONARIES: list[Any] = [[1, 2], {}, {"epoch": 3}, {"state_dict": {}}, {"a": {"b": 1}}]


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(self.path),))


def by_torch(content: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def by_safetensors() -> bytes:
    return safetensors.torch.save(WEIGHTS)


def program() -> bytes:
    """A TorchScript archive, as OpenAI published CLIP."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), stream)
    return stream.getvalue()


def packed() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x00" * (64 << 20))
    return stream.getvalue()


def names_of_100000_letters() -> list[bytes]:
    """Pickles that name something long, in the form before zip archives and in an archive."""
    long = b"GLOBAL " * 15_000
    header = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    header += pickle.dumps({"little_endian": True}, 2)
    named = [b"\x80\x02c" + b"a" * 100_000 + b"\nb\n.", b"\x80\x02c" + long + b"\n" + long + b"\n."]
    files = [header + content for content in named]
    for content in named:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/version", "3\n")
            archive.writestr("archive/byteorder", "little")
        files.append(stream.getvalue())
    return files


REFUSED = [
    *(
        (f"weights.{suffix}", content, says)
        for suffix in ("pt", "safetensors")
        for content, says in (
            (b"", "broken weights"),
            (b"\xff" * 8 + b"{}", "broken weights"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
            (b"<!DOCTYPE html><html>", "web page"),
        )
    ),
    ("cut.pt", by_torch(WEIGHTS)[:-300], "broken weights"),
    ("cut.safetensors", by_safetensors()[:-20], "broken weights"),
    ("program.pt", program(), "a TorchScript archive, and a checkpoint's code is never run here"),
    ("packed.bin", packed(), "when unpacked"),
    *(
        ("other.pt", by_torch(content), "contains no dictionary of weights")
        for content in NO_DICTIONARIES
    ),
    *(
        ("inf.pt", by_torch({"proj": torch.tensor([1, value])}), "weight 'proj' is not finite")
        for value in (float("nan"), float("inf"), -float("inf"))
    ),
    *(
        (f"{name}.bin", by_torch({name: tensor}), f"weight {name!r} is {says}")
        for tensors, says in ((NOT_STORED, "not stored whole"), (NOT_SUPPORTED, "of type"))
        for name, tensor in tensors.items()
    ),
    *(("long.bin", content, "long.bin: ") for content in names_of_100000_letters()),
    *(
        ("model.safetensors.index.json", json.dumps({"weight_map": shards}).encode(), says)
        for shards, says in (
            ({"weight": "../outside.safetensors"}, "is not a safetensors file in the same folder"),
            ({"weight": "shard.bin"}, "is not a safetensors file in the same folder"),
            ({"weight": 3}, "not a weights index"),
            (["weight"], "not a weights index"),
            ({"weight": "gone.safetensors"}, "gone.safetensors: no such file of weights"),
        )
    ),
]


@pytest.mark.filterwarnings("ignore:Sparse invariant")
@pytest.mark.parametrize(("name", "content", "says"), REFUSED)
def test_what_is_refused(
    tmp_path: Path, name: str, content: bytes, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("a program was run"))
    (tmp_path / "outside.safetensors").write_bytes(by_safetensors())
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / name
    path.write_bytes(content)
    begun = time.process_time()
    with pytest.raises(InputError) as error:
        read_weights(path)
    # torch would search a long name for minutes
    assert time.process_time() - begun < 3
    assert says in str(error.value)
    assert str(path.parent) in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("name", "write", "says"),
    [
        ("weights.safetensors", pickle.dumps, "broken weights"),
        ("weights.safetensors", by_torch, "broken weights"),
        ("weights.pt", by_torch, "holds more than weights"),
        (
            "weights.pt",
            lambda content: by_torch(content, _use_new_zipfile_serialization=False),
            "holds more than weights",
        ),
    ],
)
def test_nothing_is_ever_unpickled(tmp_path: Path, name: str, write: Any, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(write({"state_dict": WEIGHTS, "args": Trap(tmp_path / "sprung")}))
    with pytest.raises(InputError, match=says):
        read_weights(path)
    assert not (tmp_path / "sprung").exists()
