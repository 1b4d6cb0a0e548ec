"""Computes CLIP's transformer blocks: the same numbers as open_clip, faster (decision 0014).

Besides matrix multiplication, a training step on a CPU spends time on several things: copies with which
`nn.MultiheadAttention` reorders queries, keys and values; zeros that initialise their gradients; the gradient of
attention in bf16, for which torch has no fast operation; QuickGELU as three operations that each store a tensor; tokens
after the end of a caption; and the last block, although only one of its tokens is read. In this module, queries, keys
and values are one view, attention and QuickGELU have their own gradients, tokens after the end are left out, and the
last block computes only the token that is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# -- Operations of CLIP's transformers with custom gradients, because torch computes them slowly on a CPU.


QUICK = 1.702
"""QuickGELU is `x * sigmoid(1.702 x)`, which is `silu(1.702 x) / 1.702`."""


class QuickGelu(torch.autograd.Function):
    """QuickGELU through SiLU, for which torch has one forward and one backward operation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Compute QuickGELU for any shape."""
        scaled = x * QUICK
        ctx.save_for_backward(scaled)
        return F.silu(scaled).mul_(1 / QUICK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Compute the gradient of the input."""
        (scaled,) = ctx.saved_tensors
        # the two factors of 1.702 cancel
        return torch.as_tensor(torch.ops.aten.silu_backward(gradient, scaled))


class ShortAttention(torch.autograd.Function):
    """Attention that stores its probabilities for the gradient. Sums and exponentials are 32-bit.

    Suitable for sequences of at most a few hundred tokens: it stores `n * heads * l * l` probabilities.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from `q`, shape `(n, heads, l, size)`, to `k` and `v`; the mask is added to the scores."""
        factor = q.shape[-1] ** -0.5
        with torch.autocast(q.device.type, enabled=False):
            scores = torch.matmul(q.float(), k.float().transpose(-1, -2)).mul_(factor)
            if mask is not None:
                scores += mask
            seen = torch.softmax(scores, -1).to(v.dtype)
            ctx.save_for_backward(q, k, v, seen)
            return torch.matmul(seen, v)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Compute the gradients of `q`, `k` and `v`."""
        q, k, v, seen = ctx.saved_tensors
        by_v = torch.matmul(seen.transpose(-1, -2), gradient)
        by_seen = torch.matmul(gradient, v.transpose(-1, -2))
        by_scores = torch.ops.aten._softmax_backward_data(by_seen, seen, -1, seen.dtype)
        by_scores.mul_(q.shape[-1] ** -0.5)
        by_q, by_k = torch.matmul(by_scores, k), torch.matmul(by_scores.transpose(-1, -2), q)
        return by_q, by_k, by_v, None


WORTH_LEAVING_OUT = 0.05
"""Minimum share of tokens after the end of their captions at which a training step leaves them out."""


def runs_blocks(transformer: Any) -> bool:
    """Check whether `run_blocks` can replace a transformer: plain blocks without hooks."""
    from open_clip.transformer import (
        Transformer,
    )  # takes seconds to import; already loaded if there is a model

    return (
        type(transformer) is Transformer
        and not transformer.grad_checkpointing
        and not hooked(transformer)
        and all(_plain(block) for block in transformer.resblocks)
    )


def run_blocks(
    transformer: nn.Module, x: Tensor, mask: Tensor | None = None, read: Tensor | None = None
) -> Tensor:
    """Run the blocks of an open_clip transformer over tokens.

    Args:
        transformer: One that `runs_blocks` accepts.
        x: Tokens, shape `(n, l, w)`.
        mask: Added to the attention, shape `(l, l)`. With `read`, it must hide later tokens from earlier ones.
        read: The token to read in each row, shape `(n,)`; the last block computes no other.

    Returns:
        Tokens, shape `(n, l, w)`, or the tokens to read, shape `(n, w)`.
    """
    blocks: Any = transformer.resblocks
    n, length, width = x.shape
    tokens = _Tokens.of(n, length, None if mask is None else read)
    x = tokens.take(x.reshape(n * length, width))
    for block in blocks if read is None else blocks[:-1]:
        x = _mlp(block, x + block.ls_1(_attention(block.attn, block.ln_1(x), mask, tokens)))
    if read is None:
        return x.view(n, length, width)
    last = blocks[-1]
    rows = tokens.rows_of(read)
    attended = _attention_of_one(last.attn, last.ln_1(x), mask, tokens, read)
    return _mlp(last, _pick(x, rows) + last.ls_1(attended))


@dataclass(frozen=True)
class _Tokens:
    """The computed tokens of a batch, as rows of one matrix.

    Attributes:
        n: Number of sequences.
        length: Length of the longest.
        kept: Positions of the computed tokens among all `n * length`, ascending; None for all of them.
    """

    n: int
    length: int
    kept: Tensor | None

    @classmethod
    def of(cls, n: int, length: int, last: Tensor | None) -> _Tokens:
        """Leave out the tokens after each sequence's last needed token, shape `(n,)`."""
        # without gradients, captions of equal length are batched anyway
        # not on a GPU, which would have to wait for the number of tokens
        if last is None or last.device.type != "cpu" or not torch.is_grad_enabled():
            return cls(n, length, None)
        needed = torch.arange(length, device=last.device) <= last[:, None]
        kept = needed.flatten().nonzero()[:, 0]
        return cls(n, length, kept if len(kept) <= (1 - WORTH_LEAVING_OUT) * n * length else None)

    def take(self, x: Tensor) -> Tensor:
        """Select the computed tokens from all tokens, shape `(n * length, w)`."""
        return x if self.kept is None else _pick(x, self.kept)

    def spread(self, x: Tensor) -> Tensor:
        """Scatter the computed tokens to all positions, shape `(n * length, w)`; the others are zeros."""
        if self.kept is None:
            return x
        return x.new_zeros(self.n * self.length, x.shape[1]).index_copy(0, self.kept, x)

    def rows_of(self, read: Tensor) -> Tensor:
        """Return the rows of one token per sequence among the computed tokens, shape `(n,)`."""
        if self.kept is None:
            return torch.arange(self.n, device=read.device) * self.length + read
        # the token to read is the last computed one of its sequence
        return (read + 1).cumsum(0) - 1


def _pick(x: Tensor, rows: Tensor) -> Tensor:
    # the gradient of an embedding is faster than that of `index_select`, which adds row by row
    return F.embedding(rows, x)


def _attention(attention: Any, x: Tensor, mask: Tensor | None, tokens: _Tokens) -> Tensor:
    """Compute attention from all tokens to all tokens, as rows of one matrix, shape `(t, w)`."""
    n, length, width, heads = tokens.n, tokens.length, x.shape[1], attention.num_heads
    packed = tokens.spread(F.linear(x, attention.in_proj_weight, attention.in_proj_bias))
    q, k, v = packed.view(n, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4).unbind(0)
    attended = _attend(q, k, v, mask).transpose(1, 2).reshape(n * length, width)
    return _project(attention, tokens.take(attended))


def _attention_of_one(
    attention: Any, x: Tensor, mask: Tensor | None, tokens: _Tokens, read: Tensor
) -> Tensor:
    """Compute attention from one token per sequence to all; shape `(n, w)`."""
    n, length, width, heads = tokens.n, tokens.length, x.shape[1], attention.num_heads
    weight_q, weight_kv = attention.in_proj_weight.split([width, 2 * width])
    bias_q, bias_kv = attention.in_proj_bias.split([width, 2 * width])
    q = F.linear(_pick(x, tokens.rows_of(read)), weight_q, bias_q)
    packed = tokens.spread(F.linear(x, weight_kv, bias_kv))
    k, v = packed.view(n, length, 2, heads, width // heads).permute(2, 0, 3, 1, 4).unbind(0)
    q = q.view(n, 1, heads, width // heads).transpose(1, 2)
    attended = _attend(q, k, v, None if mask is None else mask[read][:, None, None])
    return _project(attention, attended.reshape(n, width))


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Compute attention, each of shape `(n, heads, l, size)`. The mask is added to the scores."""
    if q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.requires_grad:
        # torch has a fast forward but a slow backward pass for these
        return torch.as_tensor(ShortAttention.apply(q, k, v, mask))  # type: ignore[no-untyped-call]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=None if mask is None else mask.to(q.dtype)
    )


def _project(attention: Any, x: Tensor) -> Tensor:
    return F.linear(x, attention.out_proj.weight, attention.out_proj.bias)


def _mlp(block: Any, x: Tensor) -> Tensor:
    from open_clip.transformer import QuickGELU

    mlp = block.mlp
    hidden = mlp.c_fc(block.ln_2(x))
    quick = type(mlp.gelu) is QuickGELU
    hidden = QuickGelu.apply(hidden) if quick else mlp.gelu(hidden)  # type: ignore[no-untyped-call]
    return torch.as_tensor(x + block.ls_2(mlp.c_proj(hidden)))


def _plain(block: Any) -> bool:
    from open_clip.transformer import ResidualAttentionBlock

    if type(block) is not ResidualAttentionBlock or hasattr(block, "ln_1_kv"):
        return False
    attention = block.attn
    return (
        type(attention) is nn.MultiheadAttention
        and attention.in_proj_weight is not None
        and attention.in_proj_bias is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
        and attention.dropout == 0
    )


def hooked(module: nn.Module) -> bool:
    """Check whether a part has hooks, which `run_blocks` would skip."""
    return any(
        part._forward_hooks
        or part._forward_pre_hooks
        or part._backward_hooks
        or part._backward_pre_hooks
        for part in module.modules()
    )


# -- Computes the patches of CLIP's image encoder as one matrix product.


def embed_patches(visual: Any, inputs: Tensor) -> Tensor:
    """Compute the input tokens of an image encoder's blocks, like open_clip's `_embeds`.

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
    # keep rows of pixels together, so that a patch is a few long pieces of memory
    patches = inputs.permute(0, 2, 3, 1).reshape(n, rows, side, columns, side * channels)
    patches = patches.transpose(2, 3).reshape(n, rows * columns, side * side * channels)
    weight = conv.weight.permute(0, 2, 3, 1).reshape(len(conv.weight), -1)
    x = F.linear(patches, weight, conv.bias)
    first = visual.class_embedding.to(x.dtype).expand(n, 1, -1)
    x = torch.cat([first, x], dim=1) + visual.positional_embedding.to(x.dtype)
    return torch.as_tensor(visual.ln_pre(visual.patch_dropout(x)))


def _cuts_patches(conv: Any, inputs: Tensor) -> bool:
    """Check whether a convolution is a matrix product of square patches that cover the images."""
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
