"""Registers pre-trained dual encoders: OpenAI's CLIP (used in the paper), and small ones included in the package."""

from __future__ import annotations

from functools import partial
from importlib.resources import as_file, files

from mmpoison.models.catalogue import MODELS, ModelSource
from mmpoison.models.checkpoint import load_checkpoint
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.hub import hub_files_here
from mmpoison.models.open_clip_models import load_tag

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
