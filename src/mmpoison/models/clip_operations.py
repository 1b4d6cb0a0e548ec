"""Operations of CLIP's transformers with gradients of their own, for what torch computes slowly on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

QUICK = 1.702
"""QuickGELU is `x * sigmoid(1.702 x)`, which is `silu(1.702 x) / 1.702`."""


class QuickGelu(torch.autograd.Function):
    """QuickGELU through SiLU, for which torch has one operation forward and one backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Compute it for any shape."""
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
    """Attention whose probabilities are kept for the gradient; sums and exponentials are 32-bit.

    For sequences of a few hundred tokens at most: it stores `n * heads * l * l` probabilities.
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


class PickRows(torch.autograd.Function):
    """Some rows of a matrix, each at most once; torch's own gradient adds rows up, one at a time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        """Pick rows, shape `(r,)`, of a matrix, shape `(t, w)`."""
        ctx.save_for_backward(rows)
        ctx.count = len(x)
        return x.index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Compute the gradient of the matrix."""
        (rows,) = ctx.saved_tensors
        whole = gradient.new_zeros(ctx.count, gradient.shape[1])
        return whole.index_copy_(0, rows, gradient), None


class PlaceRows(torch.autograd.Function):
    """A matrix of `count` rows that holds some rows at given places, and zeros elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, count: int) -> Tensor:
        """Place the rows of a matrix, shape `(r, w)`."""
        ctx.save_for_backward(rows)
        return x.new_zeros(count, x.shape[1]).index_copy_(0, rows, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Compute the gradient of the matrix."""
        (rows,) = ctx.saved_tensors
        return gradient.index_select(0, rows), None, None
