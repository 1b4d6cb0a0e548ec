"""Patches as one matrix product give open_clip's tokens and gradients."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmpoison.models import DualEncoder, clip_blocks
from mmpoison.models.clip_blocks import embed_patches


@pytest.fixture
def visual(make_encoder: Callable[..., DualEncoder], vit_config: dict[str, Any]) -> Any:
    module: Any = make_encoder(0, deepcopy(vit_config)).module
    for parameter in module.visual.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module.visual.train()


def images(last: bool = True) -> Tensor:
    made = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return made.to(memory_format=torch.channels_last) if last else made


def run(visual: Any, compute: Callable[[Any, Tensor], Tensor], inputs: Tensor) -> list[Tensor]:
    visual.zero_grad(set_to_none=True)
    output = compute(visual, inputs)
    torch.autograd.backward((output * torch.linspace(-1, 1, output.shape[-1])).sum())
    names = ("conv1.weight", "class_embedding", "positional_embedding", "ln_pre.weight")
    gradients = [visual.get_parameter(name).grad for name in names]
    return [output.detach(), *gradients]


def open_clips(visual: Any, inputs: Tensor) -> Tensor:
    return torch.as_tensor(visual._embeds(inputs))


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the weights of the matrix products of patches."""
    seen: list[tuple[int, ...]] = []
    plain = F.linear

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        seen.append(tuple(weight.shape))
        return plain(x, weight, bias)

    monkeypatch.setattr(F, "linear", linear)
    return seen


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_tokens_and_gradients_are_open_clips(
    visual: Any, products: list[tuple[int, ...]], last: bool, bias: bool
) -> None:
    if bias:
        visual.conv1.bias = nn.Parameter(torch.linspace(-1, 1, len(visual.conv1.weight)))
    expected = run(visual, open_clips, images(last))
    got = run(visual, embed_patches, images(last))
    side = visual.conv1.stride[0]
    assert products == [(len(visual.conv1.weight), 3 * side * side)]
    for one, other in zip(got, expected, strict=True):
        scale = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(one, other, atol=1e-6 * scale, rtol=1e-5)


def test_what_is_no_matrix_product_is_left_to_open_clip(
    visual: Any, products: list[tuple[int, ...]]
) -> None:
    inputs = images()
    visual.conv1.weight.requires_grad_(False)
    embed_patches(visual, inputs)
    visual.conv1.weight.requires_grad_(True)
    with torch.no_grad():
        embed_patches(visual, inputs)
    handle = visual.conv1.register_forward_hook(lambda *_: None)
    embed_patches(visual, inputs)
    handle.remove()
    assert products == []
    conv = visual.conv1
    for change in ({"padding": 1}, {"stride": conv.stride[0] // 2}, {"dilation": 2}):
        options = {"kernel_size": conv.kernel_size, "stride": conv.stride, "bias": False} | change
        other = nn.Conv2d(3, conv.out_channels, **options)
        assert not clip_blocks._cuts_patches(other, inputs)
    assert not clip_blocks._cuts_patches(conv, inputs[:, :, :-1])
    assert clip_blocks._cuts_patches(conv, inputs)
