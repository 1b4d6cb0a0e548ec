"""Shares training between processes with accelerate: splits the pairs, and computes one loss over the whole batch.

All processes share each batch. Each process embeds its share, the embeddings are gathered with their gradients, each
process computes the loss of its rows against all rows, and DDP averages the gradients. The result equals the loss and
gradients of a single process with the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mmpoison.base.processes import process_count
from mmpoison.models.inputs import Rows

if TYPE_CHECKING:
    from accelerate import Accelerator


class Processes:
    """This process and the others in the training.

    Args:
        device: Device of the encoder to train.
    """

    def __init__(self, device: torch.device) -> None:
        self.accelerator: Accelerator | None = None
        self.rank, self.count, self.device = 0, 1, device
        if process_count() > 1:
            # accelerate takes a second to import, and a single process does not need it
            from accelerate import Accelerator
            from accelerate.utils import DistributedDataParallelKwargs

            self.accelerator = Accelerator(
                cpu=device.type == "cpu",
                # `precision` handles autocast and gradient scaling: accelerate has no fp16 on CPUs
                mixed_precision="no",
                # statistics of batch normalisation differ between processes, but do not affect training
                kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
            )
            self.rank, self.count = self.accelerator.process_index, self.accelerator.num_processes
            self.device = self.accelerator.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def shares(self, batch: int) -> list[int]:
        """Return the number of pairs of a batch for each process.

        >>> two = Processes(torch.device("cpu"))
        >>> two.count = 2
        >>> two.shares(7)
        [4, 3]
        """
        return [len(part) for part in np.array_split(np.arange(batch), self.count)]

    def share(self, batch: Rows) -> Rows:
        """Return this process's pairs of a batch."""
        return np.array_split(batch, self.count)[self.rank]

    def wrap(self, module: nn.Module) -> nn.Module:
        """Wrap a module in DDP if there are several processes."""
        if self.accelerator is None:
            return module
        wrapped: nn.Module = self.accelerator.prepare_model(module)
        return wrapped

    def loss(self, text: Tensor, image: Tensor, scale: Tensor, batch: int) -> Tensor:
        """Compute the contrastive loss of a whole batch from this process's share.

        The mean over processes is the batch's loss, and the mean of the gradients is its gradient.

        Args:
            text: Unit embeddings of this process's captions, shape `(n, d)`.
            image: Unit embeddings of their images, shape `(n, d)`.
            scale: exp(tau).
            batch: Pairs in the whole batch.
        """
        shares = self.shares(batch)
        start = sum(shares[: self.rank])
        own = torch.arange(start, start + shares[self.rank], device=text.device)
        all_text, all_image = (_gather(part, shares, self.rank) for part in (text, image))
        rows = F.cross_entropy(scale * text @ all_image.T, own, reduction="sum")
        columns = F.cross_entropy(scale * image @ all_text.T, own, reduction="sum")
        return (rows + columns) / 2 * (self.count / batch)

    def mean(self, loss: Tensor) -> float:
        """Average a number over the processes."""
        value = loss.detach()
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.count
        return float(value)

    def agree(self, flag: bool) -> bool:
        """Return the first process's decision, for decisions that depend on clock or disk."""
        if self.count == 1:
            return flag
        value = torch.tensor([flag], dtype=torch.int32, device=self.device)
        dist.broadcast(value, 0)
        return bool(value.item())

    def wait(self) -> None:
        """Wait for the other processes."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()


def no_sync(module: nn.Module) -> Callable[[], AbstractContextManager[Any]]:
    """Create contexts in which DDP does not average gradients yet."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return module.no_sync
    return nullcontext


class _Gather(torch.autograd.Function):
    """Concatenated rows of all processes. The gradient of a process's rows is the sum over all processes."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, shares: list[int], rank: int) -> Tensor:
        ctx.shares, ctx.rank = shares, rank
        # gather requires equal sizes
        padded = F.pad(own, (0, 0, 0, max(shares) - len(own))).contiguous()
        parts = [torch.empty_like(padded) for _ in shares]
        dist.all_gather(parts, padded)
        parts[rank] = padded
        return torch.cat([part[:count] for part, count in zip(parts, shares, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return torch.split(total, ctx.shares)[ctx.rank], None, None


def _gather(own: Tensor, shares: list[int], rank: int) -> Tensor:
    return torch.as_tensor(_Gather.apply(own, shares, rank))  # type: ignore[no-untyped-call]
