"""One set of weights in every format gives the same embeddings, and the wrong ones are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tests.models.conftest import (
    CAPTIONS,
    CONFIG,
    QUICK,
    TINY,
    WEIGHTS,
    edit_json,
    pixels,
    refusal,
)
from torch import Tensor

from mmpoison.errors import MmpoisonWarning
from mmpoison.models import DualEncoder, export_model, load_encoder, save_checkpoint

Embed = Callable[[DualEncoder], Tensor]
State = dict[str, Tensor]


def same(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def saved(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


# -- every format, the same embeddings -------------------------------------------------------------


def test_random_weights_are_of_their_seed(embed: Embed) -> None:
    first = embed(load_encoder(f"{QUICK}:random-3"))
    torch.manual_seed(99)
    assert torch.equal(embed(load_encoder(f"{QUICK}:random-3")), first)
    assert not torch.equal(embed(load_encoder(f"{QUICK}:random")), first)
    # and torch's own state is left alone
    assert torch.initial_seed() == 99


def test_open_clip_itself_gives_the_same(
    quick: DualEncoder, state: State, embed: Embed, tmp_path: Path
) -> None:
    import open_clip

    path = saved(state, tmp_path / "state.pt")
    model: Any = open_clip.create_model(QUICK, pretrained=str(path)).eval()
    with torch.no_grad():
        theirs = torch.cat(
            [
                model.encode_image(quick.image_input(pixels(32)), normalize=True),
                model.encode_text(open_clip.get_tokenizer(QUICK)(CAPTIONS), normalize=True),
            ]
        )
    same(embed(quick), theirs)
    same(embed(load_encoder(f"{QUICK}@{path}")), theirs)


SIZES = {
    "input_resolution": torch.tensor(32),
    "context_length": torch.tensor(77),
    "vocab_size": torch.tensor(49408),
}
"""What OpenAI's files hold besides weights."""

STATES: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "a training": lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
    "parallel": lambda state: {"state_dict": {f"module.{name}": t for name, t in state.items()}},
    "compiled": lambda state: {f"module._orig_mod.{name}": t for name, t in state.items()},
    "wrapped": lambda state: {"model_state_dict": state},
    "64 bit": lambda state: {name: t.double() for name, t in state.items()},
    # the text encoder under `text.`, as CustomTextCLIP has it
    "text apart": lambda state: {
        name if name.startswith(("visual.", "logit_scale")) else f"text.{name}": t
        for name, t in state.items()
    },
}


@pytest.mark.parametrize("wrap", STATES.values(), ids=STATES)
def test_checkpoints_of_open_clip(
    quick: DualEncoder, state: State, embed: Embed, tmp_path: Path, wrap: Any
) -> None:
    path = saved(wrap(state), tmp_path / "epoch_3.pt")
    encoder = load_encoder(f"{QUICK}@{path}")
    assert torch.equal(embed(encoder), embed(quick))
    assert encoder.name == f"{QUICK}@epoch_3.pt"
    assert encoder.config["mmpoison"]["activation"] == "QuickGELU"
    assert not encoder.module.training


def old_torch(quick: DualEncoder, state: State, folder: Path) -> str:
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
    return f"{QUICK}@{folder / 'old.pt'}"


def bare_safetensors(quick: DualEncoder, state: State, folder: Path) -> str:
    safetensors.torch.save_file(state, folder / "weights.safetensors")
    return f"{QUICK}@{folder / 'weights.safetensors'}"


def folder_with_a_bin_file(quick: DualEncoder, state: State, folder: Path) -> Path:
    out = export_model(quick, folder / "out", "open-clip")
    (out / WEIGHTS).unlink()
    saved(state, out / "open_clip_pytorch_model.bin")
    return out


@pytest.mark.parametrize(
    "write",
    [
        old_torch,
        bare_safetensors,
        folder_with_a_bin_file,
        lambda quick, state, folder: f"{QUICK}@{saved({**state, **SIZES}, folder / 'weights.pt')}",
        # as open_clip itself names a folder
        lambda quick, _, folder: f"local-dir:{export_model(quick, folder / 'out', 'open-clip')}",
        # a file next to its config
        lambda quick, _, folder: export_model(quick, folder / "out", "open-clip") / WEIGHTS,
    ],
)
def test_more_ways_to_save_the_same(
    quick: DualEncoder, state: State, embed: Embed, tmp_path: Path, write: Any
) -> None:
    encoder = load_encoder(write(quick, state, tmp_path))
    same(embed(encoder), embed(quick))
    assert encoder.config["model_cfg"] == quick.config["model_cfg"]


def test_weights_of_openai_are_kept_in_16_bit(
    quick: DualEncoder, state: State, embed: Embed, tmp_path: Path
) -> None:
    """The model computes in 32."""
    half = {name: tensor.half().float() for name, tensor in state.items()}
    path = saved({name: t.half() for name, t in half.items()} | SIZES, tmp_path / "tiny.pt")
    encoder = load_encoder(f"{QUICK}@{path}")
    assert {parameter.dtype for parameter in encoder.module.parameters()} == {torch.float32}
    assert all(torch.equal(encoder.module.state_dict()[name], half[name]) for name in half)
    torch.testing.assert_close(embed(encoder), embed(quick), atol=5e-3, rtol=0)


# -- a file without a name -------------------------------------------------------------------------


def test_a_bare_file_needs_the_name_of_its_architecture(state: State, tmp_path: Path) -> None:
    path = saved(state, tmp_path / "weights.pt")
    message = refusal(path)
    assert f"does not say its architecture: name it, ARCHITECTURE@{path}" in message
    assert "-quickgelu" in message


# -- QuickGELU -------------------------------------------------------------------------------------


def test_activations_differ(state: State, quick: DualEncoder, embed: Embed, tmp_path: Path) -> None:
    """What the guards are for: the wrong one loads without a word."""
    path = saved(state, tmp_path / "state.pt")
    with pytest.warns(MmpoisonWarning, match="it is unknown whether these weights were trained"):
        wrong = load_encoder(f"{TINY}@{path}")
    assert (embed(wrong) - embed(quick)).abs().max() > 1e-3


@pytest.mark.parametrize(
    "write",
    [
        lambda _, state, folder: saved({**state, **SIZES}, folder / "tiny.pt"),
        lambda quick, _, folder: export_model(quick, folder / "out", "open-clip") / WEIGHTS,
    ],
    ids=["sizes of OpenAI", "config in the folder"],
)
def test_weights_that_say_their_activation(
    quick: DualEncoder, state: State, tmp_path: Path, write: Any
) -> None:
    message = refusal(f"{TINY}@{write(quick, state, tmp_path)}")
    assert "trained with QuickGELU, but tiny-clip uses GELU" in message
    assert message.endswith(f"use {QUICK}")


def test_a_checkpoint_remembers_its_activation(quick: DualEncoder, tmp_path: Path) -> None:
    out = save_checkpoint(quick, tmp_path / "out", card="")
    assert json.loads((out / CONFIG).read_text())["mmpoison"]["activation"] == "QuickGELU"
    edit_json(out / CONFIG, lambda config: config["model_cfg"].pop("quick_gelu"))
    assert "was saved with QuickGELU and the config now says GELU" in refusal(out)


def test_published_weights(
    quick: DualEncoder,
    state: State,
    embed: Embed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from open_clip import pretrained

    tag = {
        "file": str(saved(state, tmp_path / "w.pt")),
        "quick_gelu": True,
        "mean": (0.5, 0.5, 0.5),
        "interpolation": "bilinear",
    }
    monkeypatch.setitem(pretrained._PRETRAINED, QUICK, {"mine": tag})
    encoder = load_encoder(f"{QUICK}:mine")
    assert encoder.name == f"{QUICK}:mine"
    assert encoder.config["preprocess_cfg"]["mean"] == [0.5, 0.5, 0.5]
    assert encoder.config["preprocess_cfg"]["interpolation"] == "bilinear"
    assert encoder.config["mmpoison"]["architecture"] == QUICK
    tokens = quick.tokens(CAPTIONS)
    with torch.no_grad():
        assert torch.equal(encoder.encode_text(tokens), quick.encode_text(tokens))
    assert f"architecture {QUICK} has no pre-trained weights 'yours': it has mine, random" in (
        refusal(f"{QUICK}:yours")
    )
    assert f"use {QUICK}:mine" in refusal(f"{TINY}:mine")


def test_openai_by_open_clips_own_table() -> None:
    """Refused before anything is fetched."""
    message = refusal("ViT-B-32:openai")
    assert (
        "would load without an error and give wrong embeddings: use ViT-B-32-quickgelu" in message
    )
    assert "use ViT-B-32:laion2b_s34b_b79k" in refusal("ViT-B-32-quickgelu:laion2b_s34b_b79k")


# -- what does not fit -----------------------------------------------------------------------------


def test_weights_of_another_architecture(state: State, tmp_path: Path) -> None:
    path = saved(state, tmp_path / "weights.pt")
    message = refusal(f"ViT-S-32-alt@{path}")
    assert "weights do not match ViT-S-32-alt: " in message
    assert "of another shape (" in message
    assert len(message) < 700


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("ln_final.bias"), "1 missing (ln_final.bias)"),
        (lambda s: s.update(backdoor=torch.ones(2)), "1 unknown (backdoor)"),
        (
            lambda s: s.update(text_projection=torch.ones(64, 16)),
            "1 of another shape (text_projection 64x16 for 64x32)",
        ),
        (
            # open_clip would resize these
            lambda s: s.update({"visual.positional_embedding": torch.ones(26, 128)}),
            "visual.positional_embedding 26x128 for 17x128",
        ),
    ],
)
def test_weights_that_do_not_fit(state: State, tmp_path: Path, change: Any, says: str) -> None:
    changed = {name: tensor.clone() for name, tensor in state.items()}
    change(changed)
    path = saved(changed, tmp_path / "weights.pt")
    message = refusal(f"{QUICK}@{path}")
    assert says in message
    assert str(path) in message


# -- names that are none ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ViT-B-33:openai", "unknown architecture 'ViT-B-33': did you mean 'ViT-B-32'"),
        ("ViT-B-32", "'ViT-B-32' is an architecture without weights"),
        ("ViT-B-32:", "write ARCHITECTURE:TAG"),
        ("@weights.pt", "write ARCHITECTURE@FILE"),
        ("hf-hub:a/b/c", "hf-hub: needs a repository"),
        ("openai/clip", "for a repository on the hub write hf-hub:openai/clip"),
        ("clip-vit-b23", "did you mean 'clip-vit-b32'"),
    ],
)
def test_names_that_are_none(name: str, says: str) -> None:
    assert says in refusal(name)
