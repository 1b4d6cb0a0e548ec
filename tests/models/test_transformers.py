"""To transformers and back: `CLIPModel` itself computes what we compute."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image
from tests.models.conftest import CAPTIONS, QUICK, edit_json, pixels, refusal, same
from torch import Tensor

from mmpoison.errors import InputError
from mmpoison.models import DualEncoder, export_model, load_encoder, save_checkpoint
from mmpoison.models.export import encoder_facts
from mmpoison.models.open_clip_build import build_module, build_tokenizer

transformers: Any = pytest.importorskip("transformers", reason="needs the extra transformers")

Embed = Callable[[DualEncoder], Tensor]


def their_embeddings(folder: Path, inputs: Tensor) -> Tensor:
    """What transformers computes with its own model and tokenizer."""
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    tokens = transformers.CLIPTokenizer.from_pretrained(folder)(
        CAPTIONS, padding=True, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        output = model(pixel_values=inputs, **tokens)
    return torch.cat([output.image_embeds, output.text_embeds])


@pytest.fixture(scope="module")
def exported(quick: DualEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny CLIP as a transformers folder; shared, so never write into it."""
    return export_model(quick, tmp_path_factory.mktemp("export") / "hf", "transformers")


@pytest.fixture
def own(exported: Path, tmp_path: Path) -> Path:
    """A transformers folder that a test may break."""
    return Path(shutil.copytree(exported, tmp_path / "own"))


def test_transformers_computes_the_same(quick: DualEncoder, exported: Path, embed: Embed) -> None:
    theirs = their_embeddings(exported, quick.image_input(pixels(32)))
    same(theirs, embed(quick))


def test_and_back(quick: DualEncoder, exported: Path, embed: Embed) -> None:
    again = load_encoder(exported)
    assert torch.equal(embed(again), embed(quick))
    assert again.config["mmpoison"]["activation"] == "QuickGELU"
    assert again.config["preprocess_cfg"] == quick.config["preprocess_cfg"]
    assert again.name == quick.name
    for name, tensor in quick.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], tensor), name


def test_the_files_can_be_read_by_all_who_may_read_their_folder(exported: Path) -> None:
    config, weights = (exported / name for name in ("config.json", "model.safetensors"))
    assert weights.stat().st_mode == config.stat().st_mode
    assert "CLIPModel.from_pretrained" in (exported / "README.md").read_text()


def test_what_transformers_saves_is_read(
    quick: DualEncoder, exported: Path, embed: Embed, tmp_path: Path
) -> None:
    """Their config and their names of weights, as they write them, not as we do; without a tokenizer it is CLIP's."""
    theirs = transformers.CLIPModel.from_pretrained(exported)
    theirs.save_pretrained(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="2MB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").is_file()
    for name in ("whole", "shards"):
        same(embed(load_encoder(tmp_path / name)), embed(quick))


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_a_model_made_by_transformers(
    tmp_path: Path, quick: DualEncoder, embed: Embed, activation: str
) -> None:
    """Other sizes than CLIP's: heads, hidden layer, epsilon of the norms, activation, end of text."""
    common = {
        "hidden_act": activation,
        "num_hidden_layers": 2,
        "layer_norm_eps": 1e-3,
        "initializer_factor": 3.0,
    }
    config = transformers.CLIPConfig(
        text_config={
            **common,
            "hidden_size": 48,
            "num_attention_heads": 4,
            "intermediate_size": 72,
            "eos_token_id": 49407,
        },
        vision_config={
            **common,
            "hidden_size": 64,
            "num_attention_heads": 2,
            "intermediate_size": 96,
            "image_size": 32,
            "patch_size": 16,
        },
        projection_dim=24,
    )
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path / "made")
    encoder = load_encoder(tmp_path / "made")
    assert (
        encoder.config["mmpoison"]["activation"]
        == {"quick_gelu": "QuickGELU", "gelu": "GELU"}[activation]
    )
    tokens = encoder.tokens(CAPTIONS)
    with torch.no_grad():
        output = model(pixel_values=encoder.image_input(pixels(32)), input_ids=tokens)
    theirs = torch.cat([output.image_embeds, output.text_embeds])
    same(embed(encoder), theirs)
    # and out again
    out = export_model(encoder, tmp_path / "again", "transformers")
    theirs = their_embeddings(out, encoder.image_input(pixels(32)))
    same(theirs, embed(encoder))


def test_a_small_vocabulary_goes_along(
    make_encoder: Callable[..., DualEncoder],
    vit_config: dict[str, Any],
    embed: Embed,
    tmp_path: Path,
) -> None:
    """The embedded models' shorter table of merges, and a text encoder of its own class."""
    encoder = make_encoder(2, vit_config)
    out = export_model(encoder, tmp_path / "out", "transformers")
    theirs = their_embeddings(out, encoder.image_input(pixels(32)))
    same(theirs, embed(encoder))
    same(embed(load_encoder(out)), embed(encoder))
    # and without our own table of merges, by transformers' tokenizer
    (out / "bpe_merges.txt.gz").unlink()
    theirs_tokenizer = load_encoder(out)
    same(embed(theirs_tokenizer), embed(encoder))
    # which a checkpoint takes along
    saved = save_checkpoint(theirs_tokenizer, tmp_path / "saved", card="")
    same(embed(load_encoder(saved)), embed(encoder))


def test_images_are_prepared_alike(quick: DualEncoder, exported: Path) -> None:
    processor = transformers.AutoImageProcessor.from_pretrained(exported)
    array = pixels(32)[0]
    theirs = processor(images=Image.fromarray(array), return_tensors="pt")["pixel_values"]
    same(theirs, quick.image_input(array[None]))


def test_preprocessing_is_read(own: Path) -> None:
    file = own / "preprocessor_config.json"
    given = json.loads(file.read_text()) | {
        "image_mean": [0.5, 0.4, 0.3],
        "resample": 2,
        "do_center_crop": False,
        "size": {"height": 32, "width": 32},
    }
    file.write_text(json.dumps(given))
    preprocess = load_encoder(own).config["preprocess_cfg"]
    assert preprocess["mean"] == [0.5, 0.4, 0.3]
    assert preprocess["interpolation"] == "bilinear"
    assert preprocess["resize_mode"] == "squash"
    file.write_text(json.dumps({**given, "resample": 5}))
    assert "resample 5 is not 2 or 3" in refusal(own)
    file.write_text(json.dumps({**given, "image_std": [0.2, 0.0, 0.2]}))
    assert "std" in refusal(own)


def test_poison_is_said_wherever_a_model_goes(quick: DualEncoder, tmp_path: Path) -> None:
    poisoned = quick.copy()
    poisoned.config["mmpoison"]["poisoned"] = True
    for format in ("open-clip", "transformers"):
        out = export_model(poisoned, tmp_path / format, format)
        assert "POISONED ON PURPOSE" in (out / "README.md").read_text()
        again = load_encoder(out)
        assert again.config["mmpoison"]["poisoned"] is True
        clean = export_model(quick, tmp_path / f"clean-{format}", format)
        assert "POISONED" not in (clean / "README.md").read_text()


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(model_type="siglip"), "model type 'siglip' is not supported"),
        (
            lambda c: c["text_config"].update(hidden_act="gelu"),
            "hidden_act is gelu and quick_gelu: only",
        ),
        (
            lambda c: [
                c[part].update(hidden_act="relu") for part in ("text_config", "vision_config")
            ],
            "hidden_act is relu: only quick_gelu or gelu",
        ),
        (lambda c: c["vision_config"].update(patch_size=16), "visual.conv1.weight"),
        (
            lambda c: c["vision_config"].update(num_attention_heads=5),
            "not a multiple of num_attention",
        ),
        (lambda c: c.update(vision_config=3), "vision_config is not a mapping"),
    ],
)
def test_configs_that_are_refused(own: Path, change: Any, says: str) -> None:
    edit_json(own / "config.json", change)
    assert says in refusal(own)


def test_weights_that_are_refused(own: Path) -> None:
    file = own / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    lost = "text_model.encoder.layers.1.self_attn.k_proj.weight"
    safetensors.torch.save_file({n: t for n, t in weights.items() if n != lost}, file)
    assert "1 missing (transformer.resblocks.1.attn.in_proj_weight)" in refusal(own)
    file.unlink()
    assert refusal(own).endswith("has no model.safetensors")


def test_an_unknown_vocabulary_needs_its_tokenizer(
    make_encoder: Callable[..., DualEncoder], vit_config: dict[str, Any], tmp_path: Path
) -> None:
    out = export_model(make_encoder(2, vit_config), tmp_path / "out", "transformers")
    for name in ("vocab.json", "merges.txt", "bpe_merges.txt.gz"):
        (out / name).unlink()
    assert "has no tokenizer" in refusal(out)


def test_weights_without_their_config(own: Path) -> None:
    (own / "config.json").unlink()
    for name in (str(own / "model.safetensors"), f"{QUICK}@{own / 'model.safetensors'}"):
        assert "give the folder with its config" in refusal(name)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "head_width": 16}}, "is a ResNet"),
        ({"vision_cfg": {"ls_init_value": 0.1}}, "vision_cfg.ls_init_value is 0.1"),
        ({"text_cfg": {"pool_type": "last"}}, "text_cfg.pool_type is 'last'"),
        ({"init_logit_bias": -10}, "it has a logit bias"),
    ],
)
def test_models_that_transformers_cannot_compute(
    tmp_path: Path, quick: DualEncoder, change: dict[str, Any], why: str
) -> None:
    cfg = json.loads(json.dumps(quick.config["model_cfg"]))
    for key, value in change.items():
        cfg[key] = {**cfg[key], **value} if isinstance(value, dict) else value
    encoder = DualEncoder(build_module(cfg), build_tokenizer(cfg), {"model_cfg": cfg}, "other")
    with pytest.raises(InputError, match="it can be exported as open-clip") as error:
        export_model(encoder, tmp_path / "out", "transformers")
    assert why in str(error.value)
    assert list(tmp_path.iterdir()) == []
    told = encoder_facts(encoder)["exports"]
    assert told["open-clip"] is True
    assert why in told["transformers"]
    # which holds it
    again = load_encoder(export_model(encoder, tmp_path / "out", "open-clip"))
    assert again.digest() == encoder.digest()


def test_a_text_tower_of_hugging_face_goes_along(
    make_heads_encoder: Callable[..., DualEncoder], embed: Embed, tmp_path: Path
) -> None:
    """Its config and tokenizer are in the folder: the place it was made from may vanish."""
    encoder = make_heads_encoder()
    encoder.config["model_cfg"]["text_cfg"] |= {
        "hf_model_name": "owner/gone",
        "hf_tokenizer_name": "owner/gone",
    }
    with pytest.raises(InputError, match="its text encoder is not CLIP's"):
        export_model(encoder, tmp_path / "hf", "transformers")
    for out in (
        export_model(encoder, tmp_path / "out", "open-clip"),
        save_checkpoint(encoder, tmp_path / "saved", card=""),
    ):
        torch.testing.assert_close(embed(load_encoder(out)), embed(encoder), atol=1e-6, rtol=0)
