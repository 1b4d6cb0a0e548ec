"""A tiny CLIP that open_clip knows by name, with and without QuickGELU, and its weights in every format."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

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


def edit_weights(file: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    weights = safetensors.torch.load_file(file)
    change(weights)
    safetensors.torch.save_file(weights, file)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(self.path),))


class Archive(nn.Module):
    """A module with parameters of given names, which does nothing."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        children: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            head, dot, rest = name.partition(".")
            if dot:
                children.setdefault(head, {})[rest] = tensor
            else:
                self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
        for name, inner in children.items():
            self.add_module(name, Archive(inner))

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.fixture(scope="session")
def archive(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights as OpenAI published CLIP: a TorchScript archive that also holds three sizes."""
    module = Archive(state)
    for name, number in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 49408)):
        module.register_buffer(name, torch.tensor(number))
    path = tmp_path_factory.mktemp("archive") / "ViT-tiny.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(path))  # type: ignore[no-untyped-call]
    return path


@pytest.fixture(scope="session")
def of_archive(archive: Path) -> Path:
    """The weights of the archive as the refusal says to save them."""
    path = archive.with_name("ViT-tiny.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(str(archive), map_location="cpu")  # type: ignore[no-untyped-call]
    safetensors.torch.save_file(module.state_dict(), path)
    return path
