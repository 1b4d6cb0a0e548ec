"""Checkpoints: what is loaded is what was saved, and what is broken is refused without running anything."""

from __future__ import annotations

import pickle
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
    Trap,
    edit_json,
    edit_weights,
    pixels,
)
from tests.models.conftest import refusal as refusal_of
from torch import Tensor

from mmpoison.errors import InputError
from mmpoison.models import DualEncoder, load_checkpoint, load_encoder, save_checkpoint

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


def test_heads_come_back(
    make_heads_encoder: Callable[..., DualEncoder], embed: Embed, tmp_path: Path
) -> None:
    encoder = make_heads_encoder()
    out = save_checkpoint(encoder, tmp_path / "out", card="")
    assert torch.equal(embed(encoder), embed(load_checkpoint(out)))


def test_batch_statistics_are_kept(encoder: DualEncoder, embed: Embed, tmp_path: Path) -> None:
    for name, buffer in encoder.module.named_buffers():
        if "running_mean" in name:
            buffer.add_(0.25)
    again = load_checkpoint(save_checkpoint(encoder, tmp_path / "out", card=""))
    assert torch.equal(embed(encoder), embed(again))


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


def test_folders_that_are_no_checkpoint(tmp_path: Path, square_folder: Path) -> None:
    assert refusal(tmp_path / "nowhere").endswith("nowhere: no such checkpoint folder")
    assert "so it is not a checkpoint of a dual encoder" in refusal(square_folder)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_nothing_is_ever_unpickled(broken: Path, tmp_path: Path, writer: str) -> None:
    trap = {"weight": Trap(tmp_path / "sprung")}
    if writer == "pickle":
        (broken / WEIGHTS).write_bytes(pickle.dumps(trap))
    else:
        torch.save(trap, broken / WEIGHTS)
    assert "broken weights" in refusal(broken)
    assert not (tmp_path / "sprung").exists()


def test_a_cut_and_a_missing_file_of_weights(broken: Path) -> None:
    content = (broken / WEIGHTS).read_bytes()
    (broken / WEIGHTS).write_bytes(content[: len(content) // 2])
    assert "broken weights" in refusal(broken)
    (broken / WEIGHTS).unlink()
    assert refusal(broken).endswith(f"has no {WEIGHTS}")


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        *(
            (WEIGHTS, content, "broken weights")
            for content in (b"", b"x" * 100, b"\xff" * 8 + b"{}", bytes(16))
        ),
        *(
            (CONFIG, content, CONFIG)
            for content in (b"", b"{", b"[]", b"{}", b"null", b'{"model_cfg": 3}')
        ),
    ],
)
def test_a_broken_file(broken: Path, file: str, content: bytes, says: str) -> None:
    (broken / file).write_bytes(content)
    assert says in refusal(broken)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        *(
            (
                lambda w, value=value: w["visual.bn2.weight"][3:4].fill_(value),
                ["weight 'visual.bn2.weight' is not finite"],
            )
            for value in (float("nan"), float("inf"), -float("inf"))
        ),
        (
            lambda w: w.update({"text_projection": torch.zeros(3, 5)}),
            ["weights do not fit the config", "text_projection"],
        ),
        (lambda w: w.pop("ln_final.weight"), ["ln_final.weight"]),
        (lambda w: w.update({"backdoor": torch.ones(2)}), ["backdoor"]),
    ],
)
def test_weights_that_do_not_fit(broken: Path, change: Any, says: list[str]) -> None:
    edit_weights(broken / WEIGHTS, change)
    message = refusal(broken)
    assert all(words in message for words in says)


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
    edit_json(broken / CONFIG, change)
    refusal(broken)


def test_a_config_that_leaves_preprocessing_to_open_clip(broken: Path) -> None:
    edit_json(broken / CONFIG, lambda config: config.pop("preprocess_cfg"))
    encoder = load_checkpoint(broken)
    assert encoder.image_size == 32
    grey = np.full((1, 32, 32, 3), 255 * 0.48145466, dtype=np.uint8)
    assert encoder.image_input(grey)[0, 0].abs().max() < 0.02


# -- by name or path -------------------------------------------------------------------------------


def test_load_encoder_takes_a_path(encoder: DualEncoder, checkpoint: Path, embed: Embed) -> None:
    for where in (checkpoint, str(checkpoint)):
        assert torch.equal(embed(load_encoder(where)), embed(encoder))
