"""Checkpoints: what is loaded is what was saved, and what is broken is refused without running anything."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from tests.models.conftest import (
    CAPTIONS,
    CONFIG,
    WEIGHTS,
    edit_json,
    pixels,
)
from tests.models.conftest import refusal as refusal_of
from torch import Tensor

from mmpoison.models import DualEncoder, load_checkpoint, save_checkpoint

Embed = Callable[[DualEncoder], Tensor]

refusal = partial(refusal_of, load=load_checkpoint)


@pytest.fixture
def broken(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may break."""
    return Path(shutil.copytree(checkpoint, tmp_path / "broken"))


# -- round trip ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["CLIP", "CustomTextCLIP"])
def test_embeddings_are_the_same(
    make_encoder: Callable[..., DualEncoder],
    vit_config: dict[str, Any],
    embed: Embed,
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
    assert torch.equal(embed(encoder), embed(again))
    assert again.name == "tiny-5"
    assert again.config["mmpoison"]["seed"] == 3
    assert not again.module.training
    assert (out / "README.md").read_text() == "# a card\n"
    assert load_checkpoint(out, "other").name == "other"
    # and a copy of the copy
    twice = save_checkpoint(again, tmp_path / "twice", card="")
    assert (twice / WEIGHTS).read_bytes() == (out / WEIGHTS).read_bytes()


def test_half_is_half_as_large_and_nearly_the_same(
    encoder: DualEncoder, checkpoint: Path, embed: Embed, tmp_path: Path
) -> None:
    out = save_checkpoint(encoder, tmp_path / "out", card="", half=True)
    assert (out / WEIGHTS).stat().st_size < 0.55 * (checkpoint / WEIGHTS).stat().st_size
    again = load_checkpoint(out)
    torch.testing.assert_close(embed(again), embed(encoder), atol=5e-3, rtol=0)
    # it computes in 32 bit, and its statistics are kept in 32 bit
    assert {p.dtype for p in again.module.parameters()} == {torch.float32}
    stored = safetensors.torch.load_file(out / WEIGHTS)
    assert stored["visual.bn1.running_var"].dtype == torch.float32
    assert stored["visual.bn1.weight"].dtype == torch.float16


def test_open_clip_loads_it(encoder: DualEncoder, checkpoint: Path, embed: Embed) -> None:
    """The model card says `local-dir:PATH`."""
    import open_clip

    model: Any = open_clip.create_model(f"local-dir:{checkpoint}", device="cpu")
    tokenizer = open_clip.get_tokenizer(
        f"local-dir:{checkpoint}", bpe_path=str(checkpoint / "bpe_merges.txt.gz")
    )
    model.eval()
    tokens = tokenizer(CAPTIONS)
    assert torch.equal(tokens, encoder.tokens(CAPTIONS))
    with torch.no_grad():
        got = torch.cat(
            [
                model.encode_image(encoder.image_input(pixels(32)), normalize=True),
                model.encode_text(tokens, normalize=True),
            ]
        )
    torch.testing.assert_close(got, embed(encoder), atol=1e-6, rtol=0)


# -- what is refused -------------------------------------------------------------------------------


def test_a_checkpoint_without_weights(broken: Path) -> None:
    (broken / WEIGHTS).unlink()
    assert refusal(broken).endswith(f"has no {WEIGHTS}")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b'{"model_cfg": 3}'])
def test_a_broken_config(broken: Path, content: bytes) -> None:
    (broken / CONFIG).write_bytes(content)
    assert CONFIG in refusal(broken)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("preprocess_cfg", {"mean": [0.5]}),
        ("preprocess_cfg", {"mean": [1e300, 0, 0]}),
        ("preprocess_cfg", {"std": [0.2, 0.2, 0.0]}),
        ("preprocess_cfg", {"size": "large"}),
        ("preprocess_cfg", {"unknown": 1}),
        ("", {"preprocess_cfg": "x"}),
        ("", {"mmpoison": []}),
        ("model_cfg", {"text_cfg": None}),
        ("model_cfg", {"no_such_option": 1}),
        ("text_cfg", {"heads": 5}),
        ("vision_cfg", {"timm_model_name": "no_such_model"}),
    ],
)
def test_a_config_that_makes_no_model(broken: Path, part: str, change: dict[str, Any]) -> None:
    def update(config: Any) -> None:
        {"": config, **config, **config["model_cfg"]}[part].update(change)

    edit_json(broken / CONFIG, update)
    assert refusal(broken).startswith(str(broken / CONFIG))


def test_a_config_that_leaves_preprocessing_to_open_clip(broken: Path) -> None:
    edit_json(broken / CONFIG, lambda config: config.pop("preprocess_cfg"))
    encoder = load_checkpoint(broken)
    assert encoder.image_size == 32
    grey = np.full((1, 32, 32, 3), 255 * 0.48145466, dtype=np.uint8)
    assert encoder.image_input(grey)[0, 0].abs().max() < 0.02
