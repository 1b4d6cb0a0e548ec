"""Computes the patches of CLIP's image encoder as one matrix product.

Torch has no fast gradient for the convolution that cuts an image into patches; a matrix product has one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmpoison.models.clip_blocks import hooked


def embed_patches(visual: Any, inputs: Tensor) -> Tensor:
    """Compute the tokens that the blocks of an image encoder get, as open_clip's `_embeds` does.

    Args:
        visual: An open_clip `VisionTransformer`.
        inputs: Normalised images, shape `(n, 3, h, w)`, best channels last in memory.

    Returns:
        Tokens, shape `(n, 1 + patches, width)`, the class token first.
    """
    conv = visual.conv1
    if not (torch.is_grad_enabled() and conv.weight.requires_grad and _cuts_patches(conv, inputs)):
        return torch.as_tensor(visual._embeds(inputs))
    n, channels, *sides = inputs.shape
    side = conv.stride[0]
    rows, columns = (length // side for length in sides)
    # rows of pixels stay together: a patch is a few long pieces of memory
    patches = inputs.permute(0, 2, 3, 1).reshape(n, rows, side, columns, side * channels)
    patches = patches.transpose(2, 3).reshape(n, rows * columns, side * side * channels)
    weight = conv.weight.permute(0, 2, 3, 1).reshape(len(conv.weight), -1)
    x = F.linear(patches, weight, conv.bias)
    first = visual.class_embedding.to(x.dtype).expand(n, 1, -1)
    x = torch.cat([first, x], dim=1) + visual.positional_embedding.to(x.dtype)
    return torch.as_tensor(visual.ln_pre(visual.patch_dropout(x)))


def _cuts_patches(conv: Any, inputs: Tensor) -> bool:
    """Return whether a convolution is a matrix product of square patches that cover the images."""
    side = conv.kernel_size[0]
    return (
        type(conv) is nn.Conv2d
        and conv.kernel_size == conv.stride == (side, side)
        and conv.padding in ((0, 0), "valid")
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and all(length % side == 0 for length in inputs.shape[2:])
        and not hooked(conv)
    )
