"""Computes the transformer blocks of CLIP: the same numbers as open_clip's, faster (decision 0016).

Four things besides matrix multiplication cost time in a training step on a CPU: the copies with which
`nn.MultiheadAttention` reorders queries, keys and values; the zeros that their gradients start from; QuickGELU as three
operations that each store a tensor; and the last block, of which only one token is read. Here queries, keys and values
are one view, QuickGELU is one operation in each direction, and the last block computes only the token that is read.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

QUICK = 1.702
"""QuickGELU is `x * sigmoid(1.702 x)`, which is `silu(1.702 x) / 1.702`."""


class _QuickGelu(torch.autograd.Function):
    """QuickGELU through SiLU, for which torch has one operation forward and one backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        scaled = x * QUICK
        ctx.save_for_backward(scaled)
        return F.silu(scaled).mul_(1 / QUICK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (scaled,) = ctx.saved_tensors
        # the two factors of 1.702 cancel
        return torch.as_tensor(torch.ops.aten.silu_backward(gradient, scaled))


def runs_blocks(transformer: Any) -> bool:
    """Return whether `run_blocks` can replace a transformer: plain blocks without hooks."""
    from open_clip.transformer import (
        Transformer,
    )  # takes seconds to import; loaded wherever a model is

    return (
        type(transformer) is Transformer
        and not transformer.grad_checkpointing
        and not _hooked(transformer)
        and all(_plain(block) for block in transformer.resblocks)
    )


def run_blocks(
    transformer: nn.Module, x: Tensor, mask: Tensor | None = None, read: Tensor | None = None
) -> Tensor:
    """Run the blocks of an open_clip transformer over tokens.

    Args:
        transformer: One that `runs_blocks` accepts.
        x: Tokens, shape `(n, l, w)`.
        mask: Added to the attention, shape `(l, l)`.
        read: The token to read in each row, shape `(n,)`; the last block computes no other.

    Returns:
        Tokens, shape `(n, l, w)`, or the tokens to read, shape `(n, w)`.
    """
    blocks: Any = transformer.resblocks
    for block in blocks if read is None else blocks[:-1]:
        x = _mlp(block, x + block.ls_1(_attention(block.attn, block.ln_1(x), mask)))
    if read is None:
        return x
    last = blocks[-1]
    rows = torch.arange(len(x), device=x.device)
    attended = _attention_of_one(last.attn, last.ln_1(x), mask, rows, read)
    return _mlp(last, x[rows, read] + last.ls_1(attended))


def _attention(attention: Any, x: Tensor, mask: Tensor | None) -> Tensor:
    n, length, width = x.shape
    heads = attention.num_heads
    packed = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = packed.view(n, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4).unbind(0)
    seen = None if mask is None else mask.to(q.dtype)
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    return _project(attention, attended.transpose(1, 2).reshape(n, length, width))


def _attention_of_one(
    attention: Any, x: Tensor, mask: Tensor | None, rows: Tensor, read: Tensor
) -> Tensor:
    """Compute attention of one token to all; shape `(n, w)`."""
    n, length, width = x.shape
    heads, size = attention.num_heads, width // attention.num_heads
    weight_q, weight_kv = attention.in_proj_weight.split([width, 2 * width])
    bias_q, bias_kv = attention.in_proj_bias.split([width, 2 * width])
    q = F.linear(x[rows, read], weight_q, bias_q).view(n, 1, heads, size).transpose(1, 2)
    packed = F.linear(x, weight_kv, bias_kv)
    k, v = packed.view(n, length, 2, heads, size).permute(2, 0, 3, 1, 4).unbind(0)
    seen = None if mask is None else mask[read][:, None, None].to(q.dtype)
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    return _project(attention, attended.reshape(n, width))


def _project(attention: Any, x: Tensor) -> Tensor:
    return F.linear(x, attention.out_proj.weight, attention.out_proj.bias)


def _mlp(block: Any, x: Tensor) -> Tensor:
    from open_clip.transformer import QuickGELU

    mlp = block.mlp
    hidden = mlp.c_fc(block.ln_2(x))
    quick = type(mlp.gelu) is QuickGELU
    hidden = _QuickGelu.apply(hidden) if quick else mlp.gelu(hidden)  # type: ignore[no-untyped-call]
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


def _hooked(module: nn.Module) -> bool:
    """Return whether a part has hooks, which `run_blocks` would skip."""
    return any(
        part._forward_hooks
        or part._forward_pre_hooks
        or part._backward_hooks
        or part._backward_pre_hooks
        for part in module.modules()
    )
