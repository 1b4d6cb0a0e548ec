"""Checkpoints: what is loaded is what was saved, and what is broken is refused without running anything."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from mmpoison.errors import InputError
from mmpoison.models import DualEncoder, load_checkpoint, load_encoder, save_checkpoint

CAPTIONS = ["a sheep in the sun", "an aeroplane", "a sofa"]
WEIGHTS = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"


def embeddings(encoder: DualEncoder) -> torch.Tensor:
    size = encoder.image_size
    pixels = np.random.default_rng(1).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    with torch.no_grad():
        return torch.cat(
            [
                encoder.encode_image(encoder.image_input(pixels)),
                encoder.encode_text(encoder.tokens(CAPTIONS)),
            ]
        )


@pytest.fixture
def broken(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may break."""
    return Path(shutil.copytree(checkpoint, tmp_path / "broken"))


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        load_checkpoint(folder)
    assert len(str(error.value).splitlines()) == 1
    assert str(folder) in str(error.value)
    return str(error.value)


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = safetensors.torch.load_file(folder / WEIGHTS)
    change(weights)
    safetensors.torch.save_file(weights, folder / WEIGHTS)


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))


# -- round trip ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["CLIP", "CustomTextCLIP"])
def test_embeddings_are_the_same(
    make_encoder: Callable[..., DualEncoder],
    vit_config: dict[str, Any],
    tmp_path: Path,
    kind: str,
) -> None:
    encoder = make_encoder(5, None if kind == "CLIP" else vit_config)
    out = save_checkpoint(encoder, tmp_path / "out", card="# a card\n", metadata={"seed": 3})
    assert {path.name for path in out.iterdir()} == {
        WEIGHTS,
        CONFIG,
        "README.md",
        "bpe_merges.txt.gz",
    }
    again = load_checkpoint(out)
    assert torch.equal(embeddings(encoder), embeddings(again))
    assert again.name == "tiny-5"
    assert again.config["mmpoison"]["seed"] == 3
    assert not again.module.training
    assert (out / "README.md").read_text() == "# a card\n"
    assert load_checkpoint(out, "other").name == "other"
    # and a copy of the copy
    twice = save_checkpoint(again, tmp_path / "twice", card="")
    assert (twice / WEIGHTS).read_bytes() == (out / WEIGHTS).read_bytes()


def test_heads_come_back(make_heads_encoder: Callable[..., DualEncoder], tmp_path: Path) -> None:
    encoder = make_heads_encoder()
    out = save_checkpoint(encoder, tmp_path / "out", card="")
    assert torch.equal(embeddings(encoder), embeddings(load_checkpoint(out)))


def test_batch_statistics_are_kept(encoder: DualEncoder, tmp_path: Path) -> None:
    for name, buffer in encoder.module.named_buffers():
        if "running_mean" in name:
            buffer.add_(0.25)
    again = load_checkpoint(save_checkpoint(encoder, tmp_path / "out", card=""))
    assert torch.equal(embeddings(encoder), embeddings(again))


def test_half_is_half_as_large_and_nearly_the_same(
    encoder: DualEncoder, checkpoint: Path, tmp_path: Path
) -> None:
    out = save_checkpoint(encoder, tmp_path / "out", card="", half=True)
    assert (out / WEIGHTS).stat().st_size < 0.55 * (checkpoint / WEIGHTS).stat().st_size
    again = load_checkpoint(out)
    torch.testing.assert_close(embeddings(again), embeddings(encoder), atol=5e-3, rtol=0)
    # it computes in 32 bit, and its statistics are kept in 32 bit
    assert {p.dtype for p in again.module.parameters()} == {torch.float32}
    stored = safetensors.torch.load_file(out / WEIGHTS)
    assert stored["visual.bn1.running_var"].dtype == torch.float32
    assert stored["visual.bn1.weight"].dtype == torch.float16


def test_an_occupied_folder_is_refused(
    encoder: DualEncoder, tmp_path: Path, snapshot: Callable[[Path], dict[str, bytes]]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match="is not empty"):
        save_checkpoint(encoder, tmp_path / "out", card="")
    assert snapshot(tmp_path) == before


def test_a_failed_save_leaves_nothing(
    encoder: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(InputError, match="the disk is full"):
        save_checkpoint(encoder, tmp_path / "out", card="")
    assert list(tmp_path.iterdir()) == []


def test_open_clip_loads_it(encoder: DualEncoder, checkpoint: Path) -> None:
    """The model card says `local-dir:PATH`."""
    import open_clip

    model: Any = open_clip.create_model(f"local-dir:{checkpoint}", device="cpu")
    tokenizer = open_clip.get_tokenizer(
        f"local-dir:{checkpoint}", bpe_path=str(checkpoint / "bpe_merges.txt.gz")
    )
    model.eval()
    tokens = tokenizer(CAPTIONS)
    assert torch.equal(tokens, encoder.tokens(CAPTIONS))
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        got = torch.cat(
            [
                model.encode_image(encoder.image_input(pixels), normalize=True),
                model.encode_text(tokens, normalize=True),
            ]
        )
    torch.testing.assert_close(got, embeddings(encoder), atol=1e-6, rtol=0)


# -- what is refused -------------------------------------------------------------------------------


def test_missing_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere").endswith("nowhere: no such checkpoint folder")


def test_not_a_checkpoint(square_folder: Path) -> None:
    assert "so it is not a checkpoint of a dual encoder" in refusal(square_folder)


def test_missing_weights(broken: Path) -> None:
    (broken / WEIGHTS).unlink()
    assert refusal(broken).endswith(f"has no {WEIGHTS}")


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\xff" * 8 + b"{}", bytes(16)])
def test_broken_weights(broken: Path, content: bytes) -> None:
    (broken / WEIGHTS).write_bytes(content)
    assert "broken weights" in refusal(broken)


def test_cut_weights(broken: Path) -> None:
    content = (broken / WEIGHTS).read_bytes()
    (broken / WEIGHTS).write_bytes(content[: len(content) // 2])
    assert "broken weights" in refusal(broken)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(self.path),))


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_nothing_is_ever_unpickled(broken: Path, tmp_path: Path, writer: str) -> None:
    trap = {"weight": Trap(str(tmp_path / "sprung"))}
    if writer == "pickle":
        (broken / WEIGHTS).write_bytes(pickle.dumps(trap))
    else:
        torch.save(trap, broken / WEIGHTS)
    assert "broken weights" in refusal(broken)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_no_number(broken: Path, value: float) -> None:
    edit_weights(broken, lambda weights: weights["visual.bn2.weight"][3:4].fill_(value))
    assert "weight 'visual.bn2.weight' is not finite" in refusal(broken)


def test_a_wrong_shape(broken: Path) -> None:
    edit_weights(broken, lambda w: w.update({"text_projection": torch.zeros(3, 5)}))
    message = refusal(broken)
    assert "weights do not fit the config" in message
    assert "text_projection" in message


def test_a_missing_and_an_extra_weight(broken: Path) -> None:
    edit_weights(broken, lambda weights: weights.pop("ln_final.weight"))
    assert "ln_final.weight" in refusal(broken)
    edit_weights(broken, lambda w: w.update({"ln_final.weight": torch.ones(32)}))
    load_checkpoint(broken)
    edit_weights(broken, lambda w: w.update({"backdoor": torch.ones(2)}))
    assert "backdoor" in refusal(broken)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"model_cfg": 3}'])
def test_a_broken_config(broken: Path, text: str) -> None:
    (broken / CONFIG).write_text(text)
    assert CONFIG in refusal(broken)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["preprocess_cfg"].update(mean=[0.5]),
        lambda c: c["preprocess_cfg"].update(mean="x"),
        lambda c: c["preprocess_cfg"].update(size="large"),
        lambda c: c["preprocess_cfg"].update(size=["x"]),
        lambda c: c.update(preprocess_cfg="x"),
        lambda c: c["model_cfg"].pop("text_cfg"),
        lambda c: c["model_cfg"].update(embed_dim="x"),
        lambda c: c["model_cfg"].update(no_such_option=1),
        lambda c: c["model_cfg"]["text_cfg"].update(heads=5),
        lambda c: c["model_cfg"]["text_cfg"].update(heads=0),
        lambda c: c["model_cfg"]["text_cfg"].update(context_length="x"),
        lambda c: c["model_cfg"]["vision_cfg"].update(timm_model_name="no_such_model"),
        lambda c: c.update(mmpoison=[]),
    ],
)
def test_a_config_that_makes_no_model(broken: Path, change: Any) -> None:
    edit_config(broken, change)
    refusal(broken)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["model_cfg"]["text_cfg"].update(
            hf_model_name="someone/model", hf_tokenizer_name="someone/model"
        ),
        lambda c: c["model_cfg"]["text_cfg"].update(hf_model_name="pypi:this"),
        lambda c: c["model_cfg"]["vision_cfg"].update(
            timm_model_name="test_resnet", timm_model_pretrained=True
        ),
    ],
)
def test_a_config_fetches_and_imports_nothing(
    broken: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    """A checkpoint is data from somewhere: it may not make us download a model or import a module."""
    import socket
    import sys

    def no_network(*_: Any, **__: Any) -> None:
        raise AssertionError("a checkpoint reached for the network")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    edit_config(broken, change)
    refusal(broken)
    assert "this" not in sys.modules


def test_a_config_that_leaves_preprocessing_to_open_clip(broken: Path) -> None:
    edit_config(broken, lambda config: config.pop("preprocess_cfg"))
    encoder = load_checkpoint(broken)
    assert encoder.image_size == 32
    grey = np.full((1, 32, 32, 3), 255 * 0.48145466, dtype=np.uint8)
    assert encoder.image_input(grey)[0, 0].abs().max() < 0.02


# -- by name or path -------------------------------------------------------------------------------


def test_load_encoder_takes_a_path(encoder: DualEncoder, checkpoint: Path) -> None:
    for where in (checkpoint, str(checkpoint)):
        assert torch.equal(embeddings(load_encoder(where)), embeddings(encoder))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("openmoji-smal", "unknown model 'openmoji-smal': did you mean 'openmoji-small'"),
        ("nothing", "unknown model 'nothing': known: "),
        ("some/where", "some/where: no such checkpoint folder"),
    ],
)
def test_load_encoder_says_what_is_wrong(name: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        load_encoder(name)
    assert says in str(error.value)
    assert len(str(error.value).splitlines()) == 1
