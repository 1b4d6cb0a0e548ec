"""What a model is, in words and numbers."""

from __future__ import annotations

from typing import Any

from mmpoison.models.activation import activation_name
from mmpoison.models.dual_encoder import DualEncoder


def encoder_facts(encoder: DualEncoder) -> dict[str, Any]:
    """Facts about a model that a reader of results needs, in an order to be read in.

    Args:
        encoder: The model.

    Returns:
        `name`, `architecture`, `source` and `poisoned` where they are known, `activation`, `parameters` (and those of
        each encoder), `embedding` (dimensions), `image_size` (pixels), `context` (tokens), `preprocessing`,
        `temperature` (exp of the learnt scale) and `digest` (sha256 of the weights).
    """
    cfg = encoder.config["model_cfg"]
    ours = encoder.config.get("mmpoison", {})
    preprocess = encoder.config.get("preprocess_cfg", {})
    known = {key: ours[key] for key in ("architecture", "source", "poisoned") if key in ours}
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
        "temperature": round(float(encoder.logit_scale.detach().exp().max()), 4),
        "digest": encoder.digest(),
    }
