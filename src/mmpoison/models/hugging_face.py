"""Converts CLIP between transformers and open_clip: names of weights and configs, both ways."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from mmpoison.base.untrusted import plain_file, read_json
from mmpoison.errors import InputError
from mmpoison.models.architectures import without_text_prefix
from mmpoison.models.dual_encoder import CLIP_PREPROCESSING
from mmpoison.models.model_config import (
    Context,
    Epsilon,
    Heads,
    Layers,
    Side,
    Token,
    Vocabulary,
    Width,
    known_part,
)

CONFIG_FILE = "config.json"
WEIGHTS_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
PREPROCESSOR_FILE = "preprocessor_config.json"
RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
"""Pillow's numbers of filters, which preprocessor files use."""

_EPSILON = 1e-5
_ACTIVATIONS = {"quick_gelu": True, "gelu": False}
_CLIP_END_OF_TEXT = 49407

# transformers' name, open_clip's name, whether the matrix is transposed
_SINGLE = (
    ("logit_scale", "logit_scale", False),
    ("text_model.embeddings.token_embedding.weight", "token_embedding.weight", False),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding", False),
    ("text_model.final_layer_norm.weight", "ln_final.weight", False),
    ("text_model.final_layer_norm.bias", "ln_final.bias", False),
    ("text_projection.weight", "text_projection", True),
    ("vision_model.embeddings.class_embedding", "visual.class_embedding", False),
    ("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight", False),
    ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding", False),
    ("vision_model.pre_layrnorm.weight", "visual.ln_pre.weight", False),
    ("vision_model.pre_layrnorm.bias", "visual.ln_pre.bias", False),
    ("vision_model.post_layernorm.weight", "visual.ln_post.weight", False),
    ("vision_model.post_layernorm.bias", "visual.ln_post.bias", False),
    ("visual_projection.weight", "visual.proj", True),
)
_TOWERS = (
    ("text_model.encoder.layers.", "transformer.resblocks."),
    ("vision_model.encoder.layers.", "visual.transformer.resblocks."),
)
_IN_BLOCK = (
    ("self_attn.out_proj.", "attn.out_proj."),
    ("layer_norm1.", "ln_1."),
    ("layer_norm2.", "ln_2."),
    ("mlp.fc1.", "mlp.c_fc."),
    ("mlp.fc2.", "mlp.c_proj."),
)
_QKV = ("q", "k", "v")


# -- weights ---------------------------------------------------------------------------------------


def is_transformers_naming(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether weights carry the names of a transformers `CLIPModel`."""
    return any(name.startswith("vision_model.") for name in tensors)


def weights_from_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of a `CLIPModel` for open_clip; unknown names stay as they are, and loading refuses them."""
    single = {theirs: (ours, transposed) for theirs, ours, transposed in _SINGLE}
    result: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.endswith("embeddings.position_ids"):  # a constant
            continue
        if name in single:
            ours, transposed = single[name]
            result[ours] = tensor.t() if transposed and tensor.ndim == 2 else tensor
            continue
        renamed = name
        for theirs, ours in _TOWERS:
            if name.startswith(theirs):
                renamed = ours + name.removeprefix(theirs)
                for their_part, our_part in _IN_BLOCK:
                    renamed = renamed.replace(f".{their_part}", f".{our_part}")
        if match := re.fullmatch(r"(.+)\.self_attn\.([qkv])_proj\.(weight|bias)", renamed):
            parts.setdefault(f"{match[1]}.attn.in_proj_{match[3]}", {})[match[2]] = tensor
        else:
            result[renamed] = tensor
    for name, three in parts.items():
        if len(three) == 3 and len({part.shape for part in three.values()}) == 1:
            result[name] = torch.cat([three[part] for part in _QKV])
    return result


def weights_to_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of a native open_clip model for a `CLIPModel`."""
    single = {ours: (theirs, transposed) for theirs, ours, transposed in _SINGLE}
    result: dict[str, Tensor] = {}
    for name, tensor in without_text_prefix(tensors).items():
        if name in single:
            theirs, transposed = single[name]
            result[theirs] = tensor.t() if transposed else tensor
            continue
        theirs, ours = next(pair for pair in _TOWERS if name.startswith(pair[1]))
        renamed = theirs + name.removeprefix(ours)
        if match := re.fullmatch(r"(.+)\.attn\.in_proj_(weight|bias)", renamed):
            for part, third in zip(_QKV, tensor.chunk(3), strict=True):
                result[f"{match[1]}.self_attn.{part}_proj.{match[2]}"] = third
            continue
        for their_part, our_part in _IN_BLOCK:
            renamed = renamed.replace(f".{our_part}", f".{their_part}")
        result[renamed] = tensor
    return result


# -- config ----------------------------------------------------------------------------------------


def model_cfg_from_transformers(config: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Convert a transformers CLIP config to open_clip's model config.

    Raises:
        InputError: If it is not CLIP, or a CLIP that open_clip cannot compute exactly.
    """
    if config.get("model_type") != "clip":
        raise InputError(
            f"{where}: model type {repr(config.get('model_type'))[:40]} is not supported: of transformers' models, "
            "only CLIPModel is"
        )
    text = {**_defaults_of_transformers(512, 8, 2048), **_part(config, "text_config", where)}
    vision = {**_defaults_of_transformers(768, 12, 3072), **_part(config, "vision_config", where)}
    activations = {str(part.get("hidden_act")) for part in (text, vision)}
    if len(activations) != 1 or not activations <= set(_ACTIVATIONS):
        raise InputError(
            f"{where}: hidden_act is {' and '.join(sorted(activations))}: only quick_gelu or gelu, the same in both "
            "encoders, is supported"
        )
    if vision["hidden_size"] % vision["num_attention_heads"]:
        raise InputError(f"{where}: hidden_size is no multiple of num_attention_heads")
    end = text.get("eos_token_id", _CLIP_END_OF_TEXT)
    text_cfg = {
        "context_length": text.get("max_position_embeddings", 77),
        "vocab_size": text.get("vocab_size", 49408),
        "width": text["hidden_size"],
        "heads": text["num_attention_heads"],
        "layers": text["num_hidden_layers"],
    }
    # in old configs 2 means the largest token
    if end not in (2, text_cfg["vocab_size"] - 1):
        text_cfg |= {"pool_type": "eos", "eos_id": end}
    vision_cfg = {
        "image_size": vision.get("image_size", 224),
        "patch_size": vision.get("patch_size", 32),
        "width": vision["hidden_size"],
        "head_width": vision["hidden_size"] // vision["num_attention_heads"],
        "layers": vision["num_hidden_layers"],
    }
    for part, cfg in ((text, text_cfg), (vision, vision_cfg)):
        if part["intermediate_size"] != 4 * part["hidden_size"]:
            cfg["mlp_ratio"] = part["intermediate_size"] / part["hidden_size"]
        if part["layer_norm_eps"] != _EPSILON:
            cfg["norm_kwargs"] = {"eps": part["layer_norm_eps"]}
    return {
        "embed_dim": config.get("projection_dim", 512),
        "quick_gelu": _ACTIVATIONS[activations.pop()],
        "vision_cfg": vision_cfg,
        "text_cfg": text_cfg,
    }


class _Tower(BaseModel):
    """The keys of an encoder's config that are read; `None` in a file means the default."""

    model_config = ConfigDict(extra="ignore", strict=True)

    hidden_size: Width | None = None
    num_attention_heads: Heads | None = None
    num_hidden_layers: Layers | None = None
    intermediate_size: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    hidden_act: Annotated[str, Field(max_length=40)] | None = None
    layer_norm_eps: Epsilon | None = None
    max_position_embeddings: Context | None = None
    vocab_size: Vocabulary | None = None
    eos_token_id: Token | None = None
    image_size: Side | None = None
    patch_size: Side | None = None


def _defaults_of_transformers(width: int, heads: int, hidden: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": hidden,
        "num_hidden_layers": 12,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": _EPSILON,
    }


def _part(config: Mapping[str, Any], key: str, where: Path) -> dict[str, Any]:
    """Return a tower's part of a config; configs of old releases hold the valid part under `..._dict`."""
    result: dict[str, Any] = {}
    for name in (key, f"{key}_dict"):
        part = config.get(name) or {}
        if not isinstance(part, dict):
            raise InputError(f"{where}: {name} is not a mapping")
        result |= part
    return known_part(_Tower, result, f"{where}: {key}")


def preprocess_cfg_from_transformers(folder: Path, image_size: int) -> dict[str, Any]:
    """Read image preprocessing from `preprocessor_config.json`; CLIP's own if there is no file."""
    file = plain_file(folder, PREPROCESSOR_FILE)
    given = read_json(file) if file.is_file() else {}
    if not isinstance(given, dict):
        raise InputError(f"{file}: not a mapping")
    numbers = {number: name for name, number in RESAMPLING.items()}
    resample = given.get("resample", 3)
    interpolation = numbers.get(resample) if isinstance(resample, int) else None
    if interpolation not in ("bilinear", "bicubic"):
        raise InputError(f"{file}: resample {repr(resample)[:40]} is not 2 or 3")
    size = given.get("size")
    squash = (
        isinstance(size, dict)
        and "shortest_edge" not in size
        and not given.get("do_center_crop", True)
    )
    return {
        "size": image_size,
        "mode": "RGB",
        "mean": given.get("image_mean", list(CLIP_PREPROCESSING["mean"])),
        "std": given.get("image_std", list(CLIP_PREPROCESSING["std"])),
        "interpolation": interpolation,
        "resize_mode": "squash" if squash else "shortest",
        "fill_color": 0,
    }


def config_to_transformers(model_cfg: Mapping[str, Any], vocabulary: int) -> dict[str, Any]:
    """Convert an open_clip config to that of a `CLIPModel` that computes the same.

    Args:
        model_cfg: open_clip's config.
        vocabulary: Size of the vocabulary; its last token ends a text.

    Raises:
        InputError: If transformers' `CLIPModel` cannot compute the model; the message names the option.
    """
    vision = _native_options(
        model_cfg["vision_cfg"],
        "vision_cfg",
        {
            "layers",
            "width",
            "head_width",
            "mlp_ratio",
            "patch_size",
            "image_size",
            "norm_kwargs",
            "patch_dropout",
        },
    )
    text = _native_options(
        model_cfg["text_cfg"],
        "text_cfg",
        {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "norm_kwargs"}
        | {"pool_type", "eos_id", "tokenizer_kwargs", "tokenizer_mode"},
    )
    end = {"argmax": vocabulary - 1, "eos": text["eos_id"]}.get(text["pool_type"])
    if not isinstance(vision["layers"], int) or end is None or "multimodal_cfg" in model_cfg:
        raise _not_a_clip_model(
            "its image encoder is a ResNet"
            if not isinstance(vision["layers"], int)
            else f"text_cfg.pool_type is {text['pool_type']!r}"
            if end is None
            else "it has a decoder (CoCa)"
        )
    if model_cfg.get("init_logit_bias") is not None:
        raise _not_a_clip_model("it has a logit bias")
    activation = "quick_gelu" if model_cfg.get("quick_gelu") else "gelu"
    embed_dim = model_cfg["embed_dim"]
    common = {"hidden_act": activation, "projection_dim": embed_dim, "attention_dropout": 0.0}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": embed_dim,
        "text_config": {
            "model_type": "clip_text_model",
            **common,
            **_tower(text, text["heads"]),
            "vocab_size": vocabulary,
            "max_position_embeddings": text["context_length"],
            "bos_token_id": end - 1,
            "eos_token_id": end,
            "pad_token_id": end,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            **common,
            **_tower(vision, vision["width"] // vision["head_width"]),
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        },
    }


def _tower(cfg: Mapping[str, Any], heads: int) -> dict[str, Any]:
    return {
        "hidden_size": cfg["width"],
        "intermediate_size": int(cfg["width"] * cfg["mlp_ratio"]),
        "num_hidden_layers": cfg["layers"],
        "num_attention_heads": heads,
        "layer_norm_eps": (cfg["norm_kwargs"] or {}).get("eps", _EPSILON),
    }


def _native_options(cfg: Mapping[str, Any], part: str, translated: set[str]) -> dict[str, Any]:
    """Fill a tower's options with open_clip's defaults; refuse one that `CLIPModel` lacks, unless it is off."""
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    result: dict[str, Any] = {}
    for field in fields(CLIPVisionCfg if part == "vision_cfg" else CLIPTextCfg):
        default = None if field.default is MISSING else field.default
        result[field.name] = cfg.get(field.name, default)
        ignored = field.name.startswith(("timm_", "hf_")) and not field.name.endswith("model_name")
        if field.name not in translated and not ignored and result[field.name] != default:
            raise _not_a_clip_model(f"{part}.{field.name} is {result[field.name]!r}")
    return result


def _not_a_clip_model(why: str) -> InputError:
    return InputError(f"transformers' CLIPModel cannot compute this model ({why})")
