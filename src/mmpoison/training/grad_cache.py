"""Gradient caching: the gradient of a large contrastive batch in the memory of a small one (decision 0015).

The loss needs the embeddings of the whole batch, but not their graphs. Pass one embeds the batch chunk by chunk
without graphs; the loss and its gradient by each embedding follow; pass two embeds each chunk again, with its graph,
and hands that gradient on. Dropout draws the same numbers in both passes, since they come from the chunk's seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from mmpoison.training.objective import Embedded

Embed = Callable[[int, bool], Embedded]
"""Embeds a chunk by its number, the second time with gradients and without the reference."""


def cached_backward(
    embed: Embed,
    chunks: int,
    loss_of: Callable[[Embedded], Tensor],
    backward: Callable[[Tensor], None],
    apart: Callable[[], AbstractContextManager[Any]],
) -> Tensor:
    """Add the gradient of the loss of a whole batch to the parameters, holding one chunk's graph at a time.

    Args:
        embed: Embeds chunks; called for each of them twice, in order.
        chunks: How many there are.
        loss_of: The loss of the embeddings of the batch.
        backward: Runs backwards from a scalar.
        apart: Context of all but the last chunk: DDP waits with its averaging.

    Returns:
        The loss, without a graph.
    """
    with torch.no_grad():
        first = [embed(chunk, False) for chunk in range(chunks)]
    image, text = _joined([part.image for part in first]), _joined([part.text for part in first])
    scale = first[0].scale.detach().clone().requires_grad_()
    whole = Embedded(
        tuple(one.requires_grad_() for one in image),
        tuple(one.requires_grad_() for one in text),
        scale,
        _joined([part.reference_image for part in first]),
        _joined([part.reference_text for part in first]),
    )
    sizes = [len(part.image[0]) for part in first]
    del first
    loss = loss_of(whole)
    torch.autograd.backward(loss)
    # an objective may use no gradient of one side
    gradients = [
        None if one.grad is None else torch.split(one.grad, sizes)
        for one in (*whole.image, *whole.text)
    ]

    def surrogate(chunk: int, embedded: Embedded) -> Tensor:
        """Build a scalar whose gradient for each embedding is the given one."""
        terms = [
            (one * parts[chunk]).sum()
            for one, parts in zip((*embedded.image, *embedded.text), gradients, strict=True)
            if parts is not None
        ]
        return reduce(torch.add, terms, embedded.scale * 0)

    for chunk in range(chunks - 1):
        with apart():
            backward(surrogate(chunk, embed(chunk, True)))
    last = embed(chunks - 1, True)
    final = surrogate(chunks - 1, last)
    if scale.grad is not None:
        # the temperature belongs to the whole batch, so it is counted once
        final = final + (last.scale * scale.grad).sum()
    backward(final)
    return loss.detach()


def _joined(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Join the chunks of each view."""
    return tuple(torch.cat(of_view) for of_view in zip(*parts, strict=True))


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
