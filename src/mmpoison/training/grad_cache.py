"""Gradient caching: the gradient of a large contrastive batch in the memory of a small one (decision 0015).

The loss needs the embeddings of the whole batch, but not their graphs. Pass one embeds the batch chunk by chunk
without graphs; the loss and its gradient by each embedding follow; pass two embeds each chunk again, with its graph,
and hands that gradient on. Dropout draws the same numbers in both passes, since they come from the chunk's seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Embed = Callable[[int, bool], tuple[Tensor, Tensor, Tensor]]
"""Embeds a chunk by its number, the second time with gradients: image, text, exp(tau)."""


def cached_backward(
    embed: Embed,
    chunks: int,
    loss_of: Callable[[Tensor, Tensor, Tensor], Tensor],
    backward: Callable[[Tensor], None],
    apart: Callable[[], AbstractContextManager[Any]],
) -> Tensor:
    """Add the gradient of the loss of a whole batch to the parameters, holding one chunk's graph at a time.

    Args:
        embed: Embeds chunks; called for each of them twice, in order.
        chunks: How many there are.
        loss_of: The loss of image embeddings, text embeddings and exp(tau).
        backward: Runs backwards from a scalar.
        apart: Context of all but the last chunk: DDP waits with its averaging.

    Returns:
        The loss, without a graph.
    """
    with torch.no_grad():
        first = [embed(chunk, False) for chunk in range(chunks)]
    image = torch.cat([part[0] for part in first]).requires_grad_()
    text = torch.cat([part[1] for part in first]).requires_grad_()
    scale = first[0][2].detach().clone().requires_grad_()
    sizes = [len(part[0]) for part in first]
    del first
    loss = loss_of(image, text, scale)
    torch.autograd.backward(loss)
    assert image.grad is not None
    assert text.grad is not None
    assert scale.grad is not None
    image_parts, text_parts = torch.split(image.grad, sizes), torch.split(text.grad, sizes)
    for chunk in range(chunks - 1):
        with apart():
            backward(_surrogate(embed(chunk, True), image_parts[chunk], text_parts[chunk]))
    last = embed(chunks - 1, True)
    # the temperature belongs to the whole batch, so it is counted once
    backward(_surrogate(last, image_parts[-1], text_parts[-1]) + (last[2] * scale.grad).sum())
    return loss.detach()


def _surrogate(embedded: tuple[Tensor, Tensor, Tensor], image: Tensor, text: Tensor) -> Tensor:
    """Build a scalar whose gradient for each embedding is the given one."""
    return (embedded[0] * image).sum() + (embedded[1] * text).sum()


@contextmanager
def still_statistics(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch normalisation as they are: the first pass must not count them twice."""
    tracking = [
        part
        for part in module.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
        and part.training
        and part.track_running_stats
    ]
    for part in tracking:
        part.track_running_stats = False
    try:
        yield
    finally:
        for part in tracking:
            part.track_running_stats = True


def normalises_batches(module: nn.Module) -> bool:
    """Return whether a trained module has batch normalisation, which sees a chunk and not the batch."""
    return any(
        isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training
        for part in module.modules()
    )
