"""Depthwise convolutions with gradients of their own: those of torch, and no less exact in bf16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmpoison.models import depthwise
from mmpoison.models.depthwise import DepthwiseGradients, depthwise_gradients


def convolution(**changed: Any) -> tuple[nn.Conv2d, Tensor]:
    """A convolution with random weights, and images for it."""
    channels = 6
    settings = {"kernel_size": 3, "groups": channels, "bias": False, **changed}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Conv2d(channels, channels, **settings), torch.randn(3, channels, 13, 15)


def gradients(
    layer: nn.Conv2d,
    x: Tensor,
    context: AbstractContextManager[Any],
    kind: torch.dtype = torch.bfloat16,
) -> list[Tensor]:
    """The output and the gradients of images, weights and bias, in 64-bit."""
    layer.zero_grad(set_to_none=True)
    leaf = x.contiguous(memory_format=torch.channels_last).detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == torch.bfloat16), context:
        output = layer(leaf)
    # small whole numbers: exact in bf16
    upstream = (torch.arange(output.numel()) % 7 - 3).view(output.shape).to(output.dtype)
    output.backward(upstream)
    found = [output, leaf.grad, *(parameter.grad for parameter in layer.parameters())]
    return [tensor.detach().double() for tensor in found if tensor is not None]


SHAPES = {
    "as EfficientNet": {"padding": 1},
    "strided": {"stride": 2},
    "5 x 5": {"kernel_size": 5, "padding": 2},
    "5 x 5, strided": {"kernel_size": 5, "stride": 2},
    "7 x 7 with bias, as ConvNeXt": {"kernel_size": 7, "padding": 3, "bias": True},
    "oblong": {"kernel_size": (3, 5), "padding": (1, 2), "stride": (1, 2)},
    "low": {"kernel_size": (1, 5), "padding": (0, 2)},
    "dilated": {"kernel_size": 5, "dilation": 2, "padding": 4},
    "padded by name": {"kernel_size": 5, "padding": "same"},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_it_rounds_no_more_than_torch(shape: dict[str, Any]) -> None:
    layer, x = convolution(**shape)
    exact = gradients(layer, x, nullcontext(), torch.float32)
    theirs = gradients(layer, x, nullcontext())
    ours = gradients(layer, x, depthwise_gradients(layer))
    assert len(ours) == len(exact) == (4 if layer.bias is not None else 3)
    for mine, other, right in zip(ours, theirs, exact, strict=True):
        scale = float(right.abs().max())
        allowed = max(float((other - right).abs().max()), 0.004 * scale)
        assert float((mine - right).abs().max()) <= 1.05 * allowed
        # a gradient of something else would be far off
        assert float((mine - right).norm() / right.norm()) < 0.01


@settings(max_examples=30)
@given(
    sides=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.integers(0, 3),
    channels=st.integers(2, 5),
)
def test_gradients_of_any_shape(
    sides: tuple[int, int], strides: tuple[int, int], padding: int, channels: int
) -> None:
    made = torch.Generator().manual_seed(1)
    # in 32-bit, so that the way is tested and not the rounding
    x = torch.randn(2, channels, 9, 10, generator=made, requires_grad=True)
    weight = torch.randn(channels, 1, *sides, generator=made, requires_grad=True)
    places = list(strides), [padding, padding], [1, 1]
    ours = depthwise.DepthwiseConvolution.apply(x, weight, None, *places)  # type: ignore[no-untyped-call]
    theirs = nn.functional.conv2d(x, weight, None, *places, channels)
    torch.testing.assert_close(ours, theirs)
    upstream = torch.randn(theirs.shape, generator=made)
    got = torch.autograd.grad(ours, (x, weight), upstream)
    expected = torch.autograd.grad(theirs, (x, weight), upstream)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of channels of each convolution that is computed here."""
    seen: list[int] = []
    apply = depthwise.DepthwiseConvolution.apply

    def noted(x: Tensor, *rest: Any) -> Any:
        seen.append(x.shape[1])
        return apply(x, *rest)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(depthwise.DepthwiseConvolution, "apply", noted)
    return seen


def test_only_depthwise_convolutions_in_bf16_with_gradients(calls: list[int]) -> None:
    layer, x = convolution()
    with DepthwiseGradients():
        layer(x)  # 32-bit
        with torch.autocast("cpu", torch.bfloat16):
            nn.Conv2d(6, 6, 3)(x)
            nn.Conv2d(6, 6, 3, groups=2)(x)
            nn.Conv2d(6, 12, 3, groups=6)(x)
            with torch.no_grad():
                layer(x)
            assert not calls
            layer(x)
    assert calls == [6]


def test_only_where_one_trains() -> None:
    layer, _ = convolution()
    assert isinstance(depthwise_gradients(nn.Sequential(nn.ReLU(), layer)), DepthwiseGradients)
    assert isinstance(depthwise_gradients(nn.Conv2d(6, 6, 3)), nullcontext)
    assert isinstance(depthwise_gradients(layer.requires_grad_(False)), nullcontext)
