"""A tiny CLIP that open_clip knows by name, with and without QuickGELU, and its weights in every format."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmpoison.errors import InputError
from mmpoison.models import DualEncoder, load_encoder

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
TINY = "tiny-clip"
QUICK = "tiny-clip-quickgelu"
CAPTIONS = ["a sheep in the sun", "an aeroplane", "a sofa! 3 words, and a Bird"]


def tiny_architecture(quick_gelu: bool) -> dict[str, Any]:
    return {
        "embed_dim": 32,
        **({"quick_gelu": True} if quick_gelu else {}),
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8},
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 64,
            "heads": 1,
            "layers": 2,
        },
    }


@pytest.fixture(scope="session", autouse=True)
def tiny_architectures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two architectures in open_clip's registry."""
    import open_clip
    from open_clip import factory

    folder = tmp_path_factory.mktemp("architectures")
    for name, quick in ((TINY, False), (QUICK, True)):
        (folder / f"{name}.json").write_text(json.dumps(tiny_architecture(quick)))
    open_clip.add_model_config(folder)
    yield
    factory._MODEL_CONFIG_PATHS.remove(folder)
    for name in (TINY, QUICK):
        factory._MODEL_CONFIGS.pop(name)


@pytest.fixture(scope="session")
def quick(tiny_architectures: None) -> DualEncoder:
    """The tiny CLIP with QuickGELU and random weights, large enough that activations differ; read only."""
    encoder = load_encoder(f"{QUICK}:random-3")
    with torch.no_grad():
        for name, parameter in encoder.module.named_parameters():
            if "mlp" in name:
                parameter.mul_(4)
    return encoder


@pytest.fixture(scope="session")
def state(quick: DualEncoder) -> dict[str, Tensor]:
    """Its weights."""
    return {name: tensor.detach().clone() for name, tensor in quick.module.state_dict().items()}


@pytest.fixture(scope="session")
def embed() -> Callable[[DualEncoder], Tensor]:
    """Embeddings of some pixels and some captions, one below the other."""

    def run(encoder: DualEncoder) -> Tensor:
        inputs = encoder.image_input(pixels(encoder.image_size))
        with torch.no_grad():
            return torch.cat(
                [encoder.encode_image(inputs), encoder.encode_text(encoder.tokens(CAPTIONS))]
            )

    return run


def same(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def pixels(size: int) -> Any:
    return np.random.default_rng(1).integers(0, 256, (3, size, size, 3), dtype=np.uint8)


def refusal(
    name: str | Path, *, load: Callable[..., DualEncoder] = load_encoder, **options: Any
) -> str:
    """What is wrong with a model that is not loaded, in one line; a path is named in it."""
    with pytest.raises(InputError) as error:
        load(name, **options)
    assert len(str(error.value).splitlines()) == 1
    if isinstance(name, Path):
        assert str(name) in str(error.value)
    return str(error.value)


def edit_json(file: Path, change: Callable[[Any], object]) -> None:
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))
