"""Registers the paper's three encoders: CLIP with OpenAI's weights, always with QuickGELU."""

from __future__ import annotations

from mmpoison.models.catalogue import MODELS, ModelSource
from mmpoison.models.dual_encoder import DualEncoder

TAG = "openai"


def load_openai_clip(name: str, architecture: str) -> DualEncoder:
    """Load one of OpenAI's models, from the Hugging Face cache or by download."""
    from mmpoison.models.open_clip_models import load_tag

    encoder = load_tag(architecture, TAG)
    encoder.name = name
    return encoder


def is_here(repository: str) -> bool:
    """Return whether the weights are in the Hugging Face cache."""
    from mmpoison.models.hub import hub_files_here

    return hub_files_here(repository, "open_clip_model.safetensors", "open_clip_pytorch_model.bin")


for _name, _architecture, _repository, _megabytes in (
    ("clip-vit-b32", "ViT-B-32-quickgelu", "timm/vit_base_patch32_clip_224.openai", 605),
    ("clip-vit-b16", "ViT-B-16-quickgelu", "timm/vit_base_patch16_clip_224.openai", 599),
    ("clip-vit-l14", "ViT-L-14-quickgelu", "timm/vit_large_patch14_clip_224.openai", 1710),
):
    MODELS.register(_name)(
        ModelSource(
            name=_name,
            summary=f"OpenAI's CLIP {_architecture.removesuffix('-quickgelu')}, as in the paper; {_architecture}:{TAG}",
            load=lambda name=_name, architecture=_architecture: load_openai_clip(
                name, architecture
            ),  # type: ignore[misc]
            megabytes=_megabytes,
            licence="MIT",
            origin=f"https://huggingface.co/{_repository}",
            is_here=lambda repository=_repository: is_here(repository),  # type: ignore[misc]
        )
    )
