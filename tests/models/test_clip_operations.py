"""Operations with gradients of their own: those of torch, and where torch rounds, no worse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmpoison.models.clip_blocks import PickRows, PlaceRows, ShortAttention

# torch gives the results of these no types
attend: Any = ShortAttention.apply
pick: Any = PickRows.apply
place: Any = PlaceRows.apply


def parts(kind: torch.dtype, queries: int = 7) -> list[Tensor]:
    made = torch.Generator().manual_seed(0)
    return [torch.randn(3, 2, length, 8, generator=made).to(kind) for length in (queries, 7, 7)]


def attended(compute: Any, given: list[Tensor]) -> list[Tensor]:
    """The output, and the gradients of queries, keys and values, in 64-bit."""
    leaves = [tensor.clone().requires_grad_() for tensor in given]
    output = compute(*leaves)
    weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape)
    torch.autograd.backward(output, weights.to(output.dtype))
    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    return [tensor.detach().double() for tensor in (output, *gradients)]


def mask_of(queries: int, masked: bool) -> Tensor | None:
    return torch.full((7, 7), float("-inf")).triu(1)[:queries] if masked else None


@pytest.mark.parametrize("queries", [7, 1])
@pytest.mark.parametrize("masked", [True, False])
def test_short_attention_is_attention(masked: bool, queries: int) -> None:
    mask = mask_of(queries, masked)
    given = parts(torch.float32, queries)
    expected = attended(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask), given
    )
    got = attended(lambda *qkv: attend(*qkv, mask), given)
    assert len(got) == 4
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("autocast", [True, False])
def test_in_bf16_it_rounds_no_more_than_torch(autocast: bool) -> None:
    given = [tensor * 2 for tensor in parts(torch.bfloat16)]
    exact = attended(F.scaled_dot_product_attention, [tensor.double() for tensor in given])

    def errors(compute: Any) -> list[float]:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            got = attended(compute, given)
        return [
            float((one - other).norm() / other.norm())
            for one, other in zip(got, exact, strict=True)
        ]

    theirs = errors(F.scaled_dot_product_attention)
    ours = errors(lambda *qkv: attend(*qkv, None))
    assert max(theirs) > 1e-4  # bf16 indeed
    for own, other in zip(ours, theirs, strict=True):
        assert own < 1.5 * other


def test_rows_are_picked_and_placed() -> None:
    x = torch.arange(12.0, dtype=torch.float64).view(4, 3).requires_grad_()
    rows = torch.tensor([0, 3])
    assert pick(x, rows).tolist() == [[0, 1, 2], [9, 10, 11]]
    placed = place(x, torch.tensor([5, 0, 2, 1]), 6)
    assert placed[:, 0].tolist() == [3, 9, 6, 0, 0, 0]
    assert torch.autograd.gradcheck(lambda one: pick(one, rows), (x,))
    assert torch.autograd.gradcheck(lambda one: place(one, torch.tensor([5, 0, 2, 1]), 6), (x,))
