"""Writes a model for other software: an open_clip folder, a transformers `CLIPModel`, or one safetensors file."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import safetensors.torch
import torch

from mmpoison._version import __version__
from mmpoison.base.files import atomic_folder, front_matter, write_json
from mmpoison.errors import InputError
from mmpoison.models import hugging_face
from mmpoison.models.architectures import activation_name
from mmpoison.models.checkpoint import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, weights_to_save
from mmpoison.models.dual_encoder import CLIP_PREPROCESSING, DualEncoder
from mmpoison.models.open_clip_build import (
    BPE_FILE,
    PYPI_PREFIX,
    PYPI_TOWERS,
    TEXT_TOWER_FOLDER,
    save_text_files,
)
from mmpoison.models.weights_file import METADATA_KEY

ExportFormat = Literal["open-clip", "transformers", "safetensors"]
SAFETENSORS_FILE = "model.safetensors"


def export_model(encoder: DualEncoder, out: Path, format: ExportFormat) -> Path:
    """Write a model for other software, whole or not at all; loaded here again, it gives the same embeddings.

    - `open-clip`: for `open_clip.create_model("local-dir:OUT")`;
    - `transformers`: for `CLIPModel.from_pretrained("OUT")`, with tokenizer and image processor; vision transformers
      with CLIP's text encoder only;
    - `safetensors`: one file under open_clip's names, with the config in its header.

    Args:
        encoder: The model.
        out: New folder.
        format: The software it is for.

    Returns:
        The folder.

    Raises:
        InputError: If `out` is not empty, or the format cannot hold the model; then nothing is written.
    """
    if format not in get_args(ExportFormat):
        raise InputError(f"format {format!r}: one of {', '.join(get_args(ExportFormat))}")
    write = {
        "open-clip": _write_open_clip,
        "transformers": _write_transformers,
        "safetensors": _write_safetensors,
    }[format]
    if reason := export_targets(encoder)[format]:
        able = [name for name, why in export_targets(encoder).items() if why is None]
        raise InputError(f"{encoder.name}: {reason}; it can be exported as {' and '.join(able)}")
    with atomic_folder(out) as folder:
        write(encoder, folder)
        (folder / CARD_FILE).write_text(_card(encoder, format, folder), encoding="utf-8")
        for file in folder.glob(
            "*.safetensors"
        ):  # safetensors makes files that only their owner can read
            shutil.copymode(folder / CARD_FILE, file)
    return out


def export_targets(encoder: DualEncoder) -> dict[ExportFormat, str | None]:
    """Say in which formats a model can be written.

    Returns:
        For each format None, or why it cannot hold the model.
    """
    reason = None
    try:
        _transformers_config(encoder)
    except InputError as error:
        reason = str(error)
    return {"open-clip": None, "transformers": reason, "safetensors": None}


def _transformers_config(encoder: DualEncoder) -> dict[str, Any]:
    """Return the config of a `CLIPModel` that computes the same.

    Raises:
        InputError: If there is none; the message says why.
    """
    names = encoder.module.state_dict()
    embedding = "token_embedding.weight"
    vocabulary = names.get(embedding, names.get(f"text.{embedding}"))
    if vocabulary is None:
        raise InputError(
            "transformers' CLIPModel cannot compute this model (its text encoder is not CLIP's)"
        )
    return hugging_face.config_to_transformers(encoder.config["model_cfg"], len(vocabulary))


def _full_config(encoder: DualEncoder) -> dict[str, Any]:
    model_cfg = {**encoder.config["model_cfg"]}
    text = model_cfg["text_cfg"] = {**model_cfg["text_cfg"]}
    for key in ("hf_model_name", "hf_tokenizer_name"):
        name = str(text.get(key) or "")
        if name.startswith(PYPI_PREFIX):  # other software needs the tower's name on the hub
            text[key] = PYPI_TOWERS[name.removeprefix(PYPI_PREFIX)]
    facts = {
        **encoder.record.to_json(),
        "name": encoder.name,
        "activation": activation_name(model_cfg),
    }
    return {**encoder.config, "model_cfg": model_cfg, "mmpoison": facts}


def _write_open_clip(encoder: DualEncoder, folder: Path) -> None:
    safetensors.torch.save_file(
        weights_to_save(encoder), folder / WEIGHTS_FILE, metadata={"format": "pt"}
    )
    write_json(folder / CONFIG_FILE, _full_config(encoder))
    save_text_files(encoder.module, encoder.tokenizer, folder)


def _write_safetensors(encoder: DualEncoder, folder: Path) -> None:
    config = json.dumps(_full_config(encoder), ensure_ascii=False)
    safetensors.torch.save_file(
        weights_to_save(encoder),
        folder / SAFETENSORS_FILE,
        metadata={"format": "pt", METADATA_KEY: config},
    )
    save_text_files(encoder.module, encoder.tokenizer, folder)


def _write_transformers(encoder: DualEncoder, folder: Path) -> None:
    config = _full_config(encoder)
    weights = weights_to_save(encoder)
    theirs = _transformers_config(encoder)
    theirs |= {"dtype": "float32", "torch_dtype": "float32", "mmpoison": config["mmpoison"]}
    converted = hugging_face.weights_to_transformers(weights)
    safetensors.torch.save_file(
        {name: tensor.contiguous() for name, tensor in converted.items()},
        folder / hugging_face.WEIGHTS_FILES[0],
        metadata={"format": "pt"},
    )
    write_json(folder / hugging_face.CONFIG_FILE, theirs)
    write_json(
        folder / hugging_face.PREPROCESSOR_FILE,
        _preprocessor(encoder.image_size, config.get("preprocess_cfg", {})),
    )
    if hasattr(encoder.tokenizer, "save_pretrained"):
        encoder.tokenizer.save_pretrained(str(folder))
    else:
        _write_clip_tokenizer(encoder.tokenizer, folder)
        save_text_files(encoder.module, encoder.tokenizer, folder)


def _preprocessor(size: int, preprocess: Mapping[str, Any]) -> dict[str, Any]:
    squash = preprocess.get("resize_mode", "shortest") == "squash"
    square = {"height": size, "width": size}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": square if squash else {"shortest_edge": size},
        "resample": hugging_face.RESAMPLING[preprocess.get("interpolation", "bicubic")],
        "do_center_crop": not squash,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.get("mean", CLIP_PREPROCESSING["mean"])),
        "image_std": list(preprocess.get("std", CLIP_PREPROCESSING["std"])),
    }


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


# -- the card --------------------------------------------------------------------------------------

_HOW = {
    "open-clip": (
        "import open_clip\n"
        'model = open_clip.create_model("local-dir:THIS_FOLDER")\n'
        'tokenizer = open_clip.get_tokenizer("local-dir:THIS_FOLDER"{bpe})\n'
    ),
    "transformers": (
        "from transformers import CLIPModel, CLIPProcessor\n"
        'model = CLIPModel.from_pretrained("THIS_FOLDER")\n'
        'processor = CLIPProcessor.from_pretrained("THIS_FOLDER")\n'
    ),
    "safetensors": (
        "from mmpoison import load_encoder\n"
        'encoder = load_encoder("THIS_FOLDER/model.safetensors")\n'
    ),
}


def _card(encoder: DualEncoder, format: ExportFormat, folder: Path) -> str:
    record = encoder.record
    facts = record.to_json()
    bpe = f', bpe_path="THIS_FOLDER/{BPE_FILE}"' if (folder / BPE_FILE).is_file() else ""
    lines = [
        f"# {encoder.name}",
        "",
        *(
            [
                "**TRAINED ON DATA POISONED ON PURPOSE**, for research on defences. Do not use it for anything else.",
                "",
            ]
            if record.poisoned
            else []
        ),
        f"- written by: mmpoison {__version__}, as {format}",
        f"- activation: {activation_name(encoder.config['model_cfg'])}",
        *(f"- {key}: {facts[key]}" for key in ("architecture", "source", "seed") if key in facts),
        "",
        "```python",
        _HOW[format].format(bpe=bpe).rstrip() if format == "open-clip" else _HOW[format].rstrip(),
        "```",
        "",
    ]
    if (folder / TEXT_TOWER_FOLDER).is_dir():
        lines += [
            f"The config of the text encoder is in `{TEXT_TOWER_FOLDER}`; open_clip itself reads it from the hub.",
            "",
        ]
    fields = hub_fields(record.source or "", "transformers" if format == "transformers" else None)
    return front_matter(bool(record.poisoned), **fields) + "\n".join(lines)


def hub_fields(started_from: str, library: str | None = None) -> dict[str, str | None]:
    """Return the metadata of a model by which the hub knows what it is; no licence, which nobody here knows.

    Args:
        started_from: The model that it was made from; named if it is one of the hub.
        library: The software that loads it; open_clip by default.

    >>> hub_fields("hf-hub:owner/name@v1")["base_model"]
    'owner/name'
    """
    hub = re.fullmatch(r"hf-hub:([\w.-]+/[\w.-]+)(@.*)?", started_from)
    return {
        "library_name": library or "open_clip",
        "pipeline_tag": "zero-shot-image-classification",
        "base_model": hub[1] if hub else None,
    }


# -- Describes a model: names, sizes, activation, preprocessing, digest.


def encoder_facts(encoder: DualEncoder) -> dict[str, Any]:
    """Collect facts about a model for readers of results, in reading order.

    Args:
        encoder: The model.

    Returns:
        `name`; `architecture`, `source` and `poisoned` if they are known; `activation`, `parameters` (also of each
        encoder), `embedding` (dimensions), `image_size` (pixels), `context` (tokens), `preprocessing`, `logit_scale`
        (what cosines are multiplied by), `temperature` (what they are divided by), `exports` (the formats of
        `models export`: True, or why not) and `digest` (sha256 of the weights).
    """
    scale = float(encoder.logit_scale.detach().exp().max())
    cfg = encoder.config["model_cfg"]
    record = encoder.record.to_json()
    preprocess = encoder.config.get("preprocess_cfg", {})
    known: dict[str, Any] = {
        key: record[key] for key in ("architecture", "source", "poisoned") if key in record
    }
    return {
        "name": encoder.name,
        **known,
        "activation": activation_name(cfg),
        "parameters": sum(p.numel() for p in encoder.module.parameters()),
        "image_parameters": sum(p.numel() for p in encoder.image_parameters()),
        "text_parameters": sum(p.numel() for p in encoder.text_parameters()),
        "embedding": cfg["embed_dim"],
        "image_size": encoder.image_size,
        "context": cfg["text_cfg"].get("context_length", 77),
        "preprocessing": {
            key: preprocess[key]
            for key in ("mean", "std", "interpolation", "resize_mode")
            if key in preprocess
        },
        "logit_scale": round(scale, 4),
        "temperature": float(f"{1 / scale:.4g}"),
        "exports": {
            target: True if reason is None else f"no: {reason}"
            for target, reason in export_targets(encoder).items()
        },
        "digest": encoder.digest(),
    }


def size_facts(encoder: DualEncoder) -> dict[str, float]:
    """Measure the size of a model (table 10).

    Args:
        encoder: The model.

    Returns:
        `parameters_m`, millions of parameters, and `flops_g`, billions of multiply-adds for one image and one caption
        of full length through both encoders.
    """
    from torch.utils.flop_counter import FlopCounterMode

    side = encoder.image_size
    image = encoder.image_input(torch.zeros((1, side, side, 3), dtype=torch.uint8))
    # longer than the context, so that the caption fills it
    tokens = encoder.tokens(["a " * 500])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder.encode_image(image)
        encoder.encode_text(tokens)
    parameters = sum(p.numel() for p in encoder.module.parameters())
    return {
        "parameters_m": round(parameters / 1e6, 3),
        # PyTorch counts a multiply-add as two
        "flops_g": round(counter.get_total_flops() / 2e9, 3),
    }
