"""Converts transformers' `CLIPModel` in both directions: weight names, configs, preprocessing and tokenizer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from mmpoison.base.files import write_json
from mmpoison.base.untrusted import plain_file
from mmpoison.errors import InputError
from mmpoison.models.architectures import activation_name, without_text_prefix
from mmpoison.models.checkpoint import Checkpoint, config_to_save, weights_to_save
from mmpoison.models.dual_encoder import CLIP_PREPROCESSING, DualEncoder, Tokenizer
from mmpoison.models.model_config import (
    Context,
    Epsilon,
    Layers,
    Side,
    Size,
    Token,
    Vocabulary,
    checked,
)
from mmpoison.models.open_clip_build import (
    BPE_FILE,
    hugging_face_tokenizer,
    save_text_files,
    small_tokenizer,
)
from mmpoison.models.text_files import read_mapping, refuse_code
from mmpoison.models.weights_file import read_weights

CONFIG_FILE = "config.json"
WEIGHTS_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
PREPROCESSOR_FILE = "preprocessor_config.json"

_RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
"""Pillow's numbers of filters, which preprocessor files use."""


def transformers_checkpoint(folder: Path) -> Checkpoint:
    """Describe a transformers `CLIPModel` as an equivalent open_clip model.

    Raises:
        InputError: If the model is not CLIP, is broken, or cannot be computed exactly.
    """
    where = plain_file(folder, CONFIG_FILE)
    refuse_code(folder)
    config = read_mapping(where)
    cfg = model_cfg_from_transformers(config, where)
    weights = next((folder / file for file in WEIGHTS_FILES if (folder / file).is_file()), None)
    if weights is None:
        raise InputError(f"{folder}: has no {WEIGHTS_FILES[0]}")
    tensors = weights_from_transformers(read_weights(weights).tensors)
    ours = config.get("mmpoison", {})
    if not isinstance(ours, dict):
        raise InputError(f"{where}: key mmpoison is not a mapping")
    tokenizer = _tokenizer(folder, cfg)
    full = {
        "model_cfg": cfg,
        "preprocess_cfg": _preprocess_cfg(folder, cfg["vision_cfg"]["image_size"]),
        "mmpoison": {"source": folder.name, **ours, "activation": activation_name(cfg)},
    }
    what = f"{where.name} (as open_clip names them)"
    return Checkpoint(full, tensors, weights, where, what, folder=folder, tokenizer=tokenizer)


def write_transformers(encoder: DualEncoder, folder: Path) -> None:
    """Write a `CLIPModel` into a folder, with tokenizer and image processor.

    Raises:
        InputError: If transformers' `CLIPModel` cannot compute the model.
    """
    config = config_to_save(encoder)
    theirs = transformers_config(encoder)
    theirs |= {"dtype": "float32", "torch_dtype": "float32", "mmpoison": config["mmpoison"]}
    write_json(folder / CONFIG_FILE, theirs)
    tensors = weights_to_transformers(weights_to_save(encoder))
    safetensors.torch.save_file(tensors, folder / WEIGHTS_FILES[0], metadata={"format": "pt"})
    preprocessor = _preprocessor(encoder.image_size, config.get("preprocess_cfg", {}))
    write_json(folder / PREPROCESSOR_FILE, preprocessor)
    if not hasattr(encoder.tokenizer, "save_pretrained"):
        _write_clip_tokenizer(encoder.tokenizer, folder)
    save_text_files(encoder.module, encoder.tokenizer, folder)


# -- weights ---------------------------------------------------------------------------------------

# prefixes of names: transformers' and open_clip's
_BEGINNINGS = (
    ("logit_scale", "logit_scale"),
    ("text_model.embeddings.token_embedding.", "token_embedding."),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("text_model.encoder.layers.", "transformer.resblocks."),
    ("text_model.final_layer_norm.", "ln_final."),
    ("text_projection.weight", "text_projection"),
    ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    ("vision_model.embeddings.patch_embedding.", "visual.conv1."),
    ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    ("vision_model.pre_layrnorm.", "visual.ln_pre."),
    ("vision_model.encoder.layers.", "visual.transformer.resblocks."),
    ("vision_model.post_layernorm.", "visual.ln_post."),
    ("visual_projection.weight", "visual.proj"),
)
_IN_BLOCK = (
    (".self_attn.out_proj.", ".attn.out_proj."),
    (".layer_norm1.", ".ln_1."),
    (".layer_norm2.", ".ln_2."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
)
_TRANSPOSED = ("text_projection", "visual.proj")
"""open_clip's names of matrices that transformers stores transposed."""
_QKV = ("q", "k", "v")


def _renamed(
    name: str, beginnings: Iterable[tuple[str, str]], inner: Iterable[tuple[str, str]]
) -> str:
    for before, after in beginnings:
        if name.startswith(before):
            name = after + name.removeprefix(before)
            break
    for before, after in inner:
        name = name.replace(before, after)
    return name


def is_transformers_naming(tensors: Mapping[str, Tensor]) -> bool:
    """Check whether weights have the names of a transformers `CLIPModel`."""
    return any(name.startswith("vision_model.") for name in tensors)


def weights_from_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of a `CLIPModel` for open_clip. Unknown names stay, and loading refuses them."""
    result: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.endswith("embeddings.position_ids"):  # a constant
            continue
        ours = _renamed(name, _BEGINNINGS, _IN_BLOCK)
        if match := re.fullmatch(r"(.+)\.self_attn\.([qkv])_proj\.(weight|bias)", ours):
            parts.setdefault(f"{match[1]}.attn.in_proj_{match[3]}", {})[match[2]] = tensor
        else:
            result[ours] = tensor.t() if ours in _TRANSPOSED and tensor.ndim == 2 else tensor
    for name, three in parts.items():
        if len(three) == 3 and len({part.shape for part in three.values()}) == 1:
            result[name] = torch.cat([three[part] for part in _QKV])
    return result


def weights_to_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of a native open_clip model for a `CLIPModel`."""
    beginnings, inner = (
        [(ours, theirs) for theirs, ours in pairs] for pairs in (_BEGINNINGS, _IN_BLOCK)
    )
    result: dict[str, Tensor] = {}
    for name, tensor in without_text_prefix(tensors).items():
        theirs = _renamed(name, beginnings, inner)
        if match := re.fullmatch(r"(.+)\.attn\.in_proj_(weight|bias)", theirs):
            for part, third in zip(_QKV, tensor.chunk(3), strict=True):
                result[f"{match[1]}.self_attn.{part}_proj.{match[2]}"] = third
        else:
            result[theirs] = tensor.t().contiguous() if name in _TRANSPOSED else tensor
    return result


# -- config ----------------------------------------------------------------------------------------

_EPSILON = 1e-5
_ACTIVATIONS = {"quick_gelu": True, "gelu": False}
_NAMES = {
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "max_position_embeddings": "context_length",
    "vocab_size": "vocab_size",
    "image_size": "image_size",
    "patch_size": "patch_size",
}
"""transformers' and open_clip's names of the sizes of an encoder."""


class _Tower(BaseModel):
    """The keys of an encoder's config that are read, with transformers' defaults."""

    model_config = ConfigDict(extra="ignore", strict=True)

    num_hidden_layers: Layers = 12
    hidden_act: Annotated[str, Field(max_length=40)] = "quick_gelu"
    layer_norm_eps: Epsilon = _EPSILON


class _TextTower(_Tower):
    hidden_size: Size = 512
    num_attention_heads: Size = 8
    intermediate_size: Size = 2048
    max_position_embeddings: Context = 77
    vocab_size: Vocabulary = 49408
    eos_token_id: Token = 49407


class _VisionTower(_Tower):
    hidden_size: Size = 768
    num_attention_heads: Size = 12
    intermediate_size: Size = 3072
    image_size: Side = 224
    patch_size: Side = 32


_TOWERS: dict[str, type[_Tower]] = {"text_config": _TextTower, "vision_config": _VisionTower}


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
    text, vision = (_part(config, key, where) for key in _TOWERS)
    activations = {part["hidden_act"] for part in (text, vision)}
    if len(activations) != 1 or not activations <= set(_ACTIVATIONS):
        raise InputError(
            f"{where}: hidden_act is {' and '.join(sorted(activations))}: only quick_gelu or gelu, the same in both "
            "encoders, is supported"
        )
    text_cfg, vision_cfg = (_tower_from_transformers(part) for part in (text, vision))
    # in old configs 2 means the largest token
    if text["eos_token_id"] not in (2, text["vocab_size"] - 1):
        text_cfg |= {"pool_type": "eos", "eos_id": text["eos_token_id"]}
    heads = vision_cfg.pop("heads")
    if vision_cfg["width"] % heads:
        raise InputError(f"{where}: hidden_size is not a multiple of num_attention_heads")
    vision_cfg["head_width"] = vision_cfg["width"] // heads
    return {
        "embed_dim": config.get("projection_dim", 512),
        "quick_gelu": _ACTIVATIONS[activations.pop()],
        "vision_cfg": vision_cfg,
        "text_cfg": text_cfg,
    }


def _tower_from_transformers(part: Mapping[str, Any]) -> dict[str, Any]:
    cfg = {ours: part[theirs] for theirs, ours in _NAMES.items() if theirs in part}
    if part["intermediate_size"] != 4 * part["hidden_size"]:
        cfg["mlp_ratio"] = part["intermediate_size"] / part["hidden_size"]
    if part["layer_norm_eps"] != _EPSILON:
        cfg["norm_kwargs"] = {"eps": part["layer_norm_eps"]}
    return cfg


def _part(config: Mapping[str, Any], key: str, where: Path) -> dict[str, Any]:
    """Return a tower's part of a config; configs of old releases hold the valid part under `..._dict`."""
    result: dict[str, Any] = {}
    for name in (key, f"{key}_dict"):
        part = config.get(name) or {}
        if not isinstance(part, dict):
            raise InputError(f"{where}: {name} is not a mapping")
        result |= part
    # None means the default
    given = {name: value for name, value in result.items() if value is not None}
    return checked(_TOWERS[key], given, f"{where}: {key}")


def transformers_config(encoder: DualEncoder) -> dict[str, Any]:
    """Return the config of a `CLIPModel` that computes the same.

    Raises:
        InputError: If transformers' `CLIPModel` cannot compute the model; the message names the option.
    """
    names = encoder.module.state_dict()
    embedding = "token_embedding.weight"
    tokens = names.get(embedding, names.get(f"text.{embedding}"))
    if tokens is None:
        raise _not_a_clip_model("its text encoder is not CLIP's")
    model_cfg, vocabulary = encoder.config["model_cfg"], len(tokens)
    vision = _native_options(model_cfg, "vision_cfg", {"head_width", "patch_dropout"})
    text = _native_options(
        model_cfg, "text_cfg", {"pool_type", "eos_id", "tokenizer_kwargs", "tokenizer_mode"}
    )
    end = {"argmax": vocabulary - 1, "eos": text["eos_id"]}.get(text["pool_type"])
    if not isinstance(vision["layers"], int):
        raise _not_a_clip_model("its image encoder is a ResNet")
    if end is None:
        raise _not_a_clip_model(f"text_cfg.pool_type is {text['pool_type']!r}")
    if "multimodal_cfg" in model_cfg:
        raise _not_a_clip_model("it has a decoder (CoCa)")
    if model_cfg.get("init_logit_bias") is not None:
        raise _not_a_clip_model("it has a logit bias")
    common = {
        "hidden_act": "quick_gelu" if model_cfg.get("quick_gelu") else "gelu",
        "projection_dim": model_cfg["embed_dim"],
        "attention_dropout": 0.0,
    }
    vision["heads"] = vision["width"] // vision["head_width"]
    ends = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": model_cfg["embed_dim"],
        "text_config": {
            "model_type": "clip_text_model",
            **common,
            **_tower_to_transformers(text, "text_config"),
            **ends,
            "vocab_size": vocabulary,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            **common,
            **_tower_to_transformers(vision, "vision_config"),
        },
    }


def _tower_to_transformers(cfg: Mapping[str, Any], key: str) -> dict[str, Any]:
    sizes = {
        theirs: cfg[ours] for theirs, ours in _NAMES.items() if theirs in _TOWERS[key].model_fields
    }
    return {
        **sizes,
        "intermediate_size": int(cfg["width"] * cfg["mlp_ratio"]),
        "layer_norm_eps": (cfg["norm_kwargs"] or {}).get("eps", _EPSILON),
    }


def _native_options(
    model_cfg: Mapping[str, Any], part: str, translated: set[str]
) -> dict[str, Any]:
    """Fill a tower's options with open_clip's defaults; refuse one that `CLIPModel` lacks, unless it is off."""
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    translated = {*translated, *_NAMES.values(), "mlp_ratio", "norm_kwargs"}
    result: dict[str, Any] = {}
    for field in fields(CLIPVisionCfg if part == "vision_cfg" else CLIPTextCfg):
        default = None if field.default is MISSING else field.default
        result[field.name] = model_cfg[part].get(field.name, default)
        ignored = field.name.startswith(("timm_", "hf_")) and not field.name.endswith("model_name")
        if field.name not in translated and not ignored and result[field.name] != default:
            raise _not_a_clip_model(f"{part}.{field.name} is {result[field.name]!r}")
    return result


def _not_a_clip_model(why: str) -> InputError:
    return InputError(f"transformers' CLIPModel cannot compute this model ({why})")


# -- preprocessing ---------------------------------------------------------------------------------


def _preprocess_cfg(folder: Path, image_size: int) -> dict[str, Any]:
    """Read image preprocessing from `preprocessor_config.json`; CLIP's own if there is no file."""
    file = plain_file(folder, PREPROCESSOR_FILE)
    given = read_mapping(file) if file.is_file() else {}
    numbers = {number: name for name, number in _RESAMPLING.items()}
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


def _preprocessor(size: int, preprocess: Mapping[str, Any]) -> dict[str, Any]:
    squash = preprocess.get("resize_mode", "shortest") == "squash"
    square = {"height": size, "width": size}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": square if squash else {"shortest_edge": size},
        "resample": _RESAMPLING[preprocess.get("interpolation", "bicubic")],
        "do_center_crop": not squash,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.get("mean", CLIP_PREPROCESSING["mean"])),
        "image_std": list(preprocess.get("std", CLIP_PREPROCESSING["std"])),
    }


# -- tokenizer -------------------------------------------------------------------------------------


def _tokenizer(folder: Path, cfg: dict[str, Any]) -> Tokenizer:
    """Return open_clip's tokenizer if the folder's vocabulary is CLIP's, otherwise the folder's own."""
    from open_clip.tokenizer import SimpleTokenizer

    context = cfg["text_cfg"]["context_length"]
    if (folder / BPE_FILE).exists():
        return small_tokenizer(folder / BPE_FILE, context)
    vocabulary = _vocabulary(folder)
    clip = SimpleTokenizer(context_length=context)
    if vocabulary is None:
        if cfg["text_cfg"]["vocab_size"] != clip.vocab_size:
            raise InputError(
                f"{folder}: has no tokenizer (tokenizer.json, or vocab.json and merges.txt), and its vocabulary is not "
                "CLIP's: add the tokenizer's files"
            )
    elif {t: i for t, i in vocabulary.items() if i < clip.vocab_size - 2} != {
        t: i for t, i in clip.encoder.items() if i < clip.vocab_size - 2
    }:
        # so that a checkpoint of this model saves the tokenizer too
        cfg["text_cfg"]["hf_tokenizer_name"] = folder.name
        return hugging_face_tokenizer(folder, context)
    result: Tokenizer = clip
    return result


def _vocabulary(folder: Path) -> dict[str, int] | None:
    if (folder / "vocab.json").is_file():
        content: Any = read_mapping(plain_file(folder, "vocab.json"))
    elif (folder / "tokenizer.json").is_file():
        model = read_mapping(plain_file(folder, "tokenizer.json")).get("model")
        content = model.get("vocab") if isinstance(model, dict) else None
    else:
        return None
    if not isinstance(content, dict) or not all(isinstance(i, int) for i in content.values()):
        raise InputError(f"{folder}: its tokenizer has no vocabulary")
    return content


def _write_clip_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write CLIP's byte-pair encoding for transformers: a table of tokens and a list of merges."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    tokens = dict(tokenizer.encoder)
    ids = sorted(tokens.values())[-2:]
    tokens = {token: i for token, i in tokens.items() if i not in ids} | {
        start: ids[0],
        end: ids[1],
    }
    write_json(folder / "vocab.json", tokens)
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges if len(merge) == 2)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": tokenizer.context_length,
            "do_lower_case": True,
            "errors": "replace",
            **special,
        },
    )
    write_json(folder / "special_tokens_map.json", special)
