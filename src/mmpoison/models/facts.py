"""Describes a model: names, sizes, activation, preprocessing, digest."""

from __future__ import annotations

from typing import Any

import torch

from mmpoison.models.activation import activation_name
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.export import export_targets


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
