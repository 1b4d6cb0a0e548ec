"""Gradients of depthwise convolutions in bf16 on a CPU, for EfficientNet, MobileNet and ConvNeXt (decision 0014).

In bf16, torch has fast image gradients for stride 1 and fast weight gradients for 3 x 3 weights; others take up to 50
times longer. Other strides are therefore computed in 32-bit, and larger weights in blocks of 3 x 3. Gradients of
dilated weights, and of weights smaller than 3, are left to torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

FAST_SIDE = 3
"""Height and width at which torch's weight gradient is fast in bf16."""


class DepthwiseConvolution(torch.autograd.Function):
    """A convolution of each channel with its own weights. Its gradients are at least as exact as torch's."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
    ) -> Tensor:
        """Convolve images, shape `(n, c, h, w)`, with weights, shape `(c, 1, kh, kw)`, all of the same dtype."""
        ctx.save_for_backward(x, weight)
        ctx.places = stride, padding, dilation
        return F.conv2d(x, weight, bias, stride, padding, dilation, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of the images, of the weights and of the bias."""
        x, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.places
        by_x = by_weight = None
        if ctx.needs_input_grad[0]:
            kind = x.dtype if max(stride) == 1 else torch.float32
            given = [tensor.to(kind) for tensor in (gradient, x, weight)]
            by_x = _gradients(given, ctx.places, (True, False))[0].to(x.dtype)
        if ctx.needs_input_grad[1]:
            low, high = sorted(weight.shape[2:])
            if low >= FAST_SIDE and high > FAST_SIDE and max(dilation) == 1:
                by_weight = _in_blocks(gradient, x, weight, stride, padding)
            else:
                by_weight = _gradients((gradient, x, weight), ctx.places, (False, True))[1]
        by_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return by_x, by_weight, by_bias, None, None, None


def _gradients(
    given: Sequence[Tensor],
    places: tuple[list[int], list[int], list[int]],
    wanted: tuple[bool, bool],
) -> list[Tensor]:
    """Compute the requested gradients of images and weights, given the output gradient, images and weights."""
    computed: list[Tensor] = torch.ops.aten.convolution_backward(
        *given, None, *places, False, [0, 0], len(given[2]), [*wanted, False]
    )
    return computed


def _in_blocks(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: list[int], padding: list[int]
) -> Tensor:
    """Compute the gradient of large weights from several of 3 x 3, each over a part of the images."""
    x = F.pad(x, [padding[1]] * 2 + [padding[0]] * 2)
    by_weight, block = torch.empty_like(weight), weight[:, :, :FAST_SIDE, :FAST_SIDE].contiguous()
    rows, columns = (
        (length - 1) * step + FAST_SIDE
        for length, step in zip(gradient.shape[2:], stride, strict=True)
    )
    # the last block overlaps the one before
    tops, lefts = (
        {*range(0, last, FAST_SIDE), last} for last in (k - FAST_SIDE for k in weight.shape[2:])
    )
    for top in tops:
        for left in lefts:
            part = x[:, :, top : top + rows, left : left + columns]
            part = part.contiguous(memory_format=torch.channels_last)
            places = stride, [0, 0], [1, 1]
            by_block = _gradients((gradient, part, block), places, (False, True))[1]
            by_weight[:, :, top : top + FAST_SIDE, left : left + FAST_SIDE] = by_block
    return by_weight


class DepthwiseGradients(TorchFunctionMode):
    """A context in which depthwise convolutions that autocast runs in bf16 on a CPU use `DepthwiseConvolution`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a torch function, replacing depthwise convolutions."""
        if func is F.conv2d and not kwargs and torch.is_grad_enabled():
            found = _convolve(*args)
            if found is not None:
                return found
        return func(*args, **(kwargs or {}))


def depthwise_gradients(module: nn.Module) -> AbstractContextManager[Any]:
    """Create the context for a module's forward passes. It has no effect if no depthwise convolution trains."""
    trains = any(
        isinstance(part, nn.Conv2d)
        and 1 < part.groups == part.in_channels == part.out_channels
        and part.weight.requires_grad
        for part in module.modules()
    )
    return DepthwiseGradients() if trains else nullcontext()


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    """Compute a depthwise convolution in bf16; return None for any other, which is left to torch."""
    if not (
        1 < groups == x.shape[1] == len(weight)
        and x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and not isinstance(padding, str)
    ):
        return None
    with torch.autocast("cpu", enabled=False):
        places = (list(nn.modules.utils._pair(each)) for each in (stride, padding, dilation))
        given = (x.bfloat16(), weight.bfloat16(), None if bias is None else bias.bfloat16())
        return torch.as_tensor(DepthwiseConvolution.apply(*given, *places))  # type: ignore[no-untyped-call]
