"""The one loop that runs an encoder over rows without gradients, batch by batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from mmpoison.models.dual_encoder import DualEncoder

A = TypeVar("A")
B = TypeVar("B")

Precision = Literal["fp32", "bf16"]
"""What the encoders compute in. Embeddings of 16-bit arithmetic tie, and change ranks, where the model's own do not:
32-bit is the default wherever ranks are measured, bf16 is for scans of large data by a threshold."""


@contextmanager
def evaluation_mode(encoder: DualEncoder) -> Iterator[None]:
    """Set the encoder to evaluation mode while the block runs; its modes are as before afterwards."""
    # one by one: an encoder in training may be partly frozen
    modes = [(module, module.training) for module in encoder.module.modules()]
    encoder.module.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def ahead(items: Iterable[A], prepare: Callable[[A], B]) -> Generator[B, None, None]:
    """Prepare items in order, each while the one before is in use.

    >>> list(ahead([1, 2, 3], str))
    ['1', '2', '3']
    """
    pending: deque[Future[B]] = deque()
    with ThreadPoolExecutor(1, "feed") as pool:
        try:
            for item in items:
                pending.append(pool.submit(prepare, item))
                if len(pending) > 1:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def pinned_for(device: torch.device, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the CPU from which a copy to the device does not make the CPU wait: pinned for a GPU."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def run_in_batches(
    encoder: DualEncoder,
    rows: npt.NDArray[np.int64],
    batch_size: int,
    load: Callable[[npt.NDArray[np.int64]], torch.Tensor],
    encode: Callable[[torch.Tensor], torch.Tensor],
    *,
    precision: Precision = "fp32",
    progress: Callable[[int, int], None] | None = None,
) -> npt.NDArray[np.float32]:
    """Run an encoder in evaluation mode; nothing but a batch, on a GPU its neighbours, and the result is in memory.

    On a GPU a thread loads the next batch into pinned memory, and outputs are copied back while the next batch is
    computed. On a CPU one thing is done after the other.

    Args:
        encoder: The model; its modes are as before afterwards.
        rows: What `load` takes a part of, shape `(n,)`.
        batch_size: Rows at a time.
        load: Loads the input of some rows, on the CPU; no model runs there.
        encode: Gives the outputs of what was loaded, shape `(len(rows), d)`.
        precision: What to compute in.
        progress: Called with (done, total).

    Returns:
        The outputs in the order of the rows, shape `(n, d)`.
    """
    outputs = np.empty((0, 0), dtype=np.float32)
    mixed = torch.autocast(encoder.device.type, torch.bfloat16, enabled=precision == "bf16")
    on_gpu = encoder.device.type == "cuda"
    done = 0
    # no_grad, not inference_mode: the latter is 2.5 times slower under bf16 autocast on a CPU
    with (
        evaluation_mode(encoder),
        torch.no_grad(),
        mixed,
        closing(_loaded(rows, batch_size, load, encoder.device)) as loaded,
    ):
        for part in _copied((encode(one).float() for one in loaded), on_gpu=on_gpu):
            if not done:
                outputs = np.empty((len(rows), part.shape[1]), dtype=np.float32)
            outputs[done : done + len(part)] = part
            done += len(part)
            if progress is not None:
                progress(done, len(rows))
    return outputs


def _loaded(
    rows: npt.NDArray[np.int64],
    batch_size: int,
    load: Callable[[npt.NDArray[np.int64]], torch.Tensor],
    device: torch.device,
) -> Generator[torch.Tensor, None, None]:
    """Load batches, for a GPU each while the one before is in use."""
    parts = (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
    if device.type == "cuda":
        yield from ahead(parts, lambda part: pinned_for(device, load(part)))
    else:
        yield from map(load, parts)


def _copied(outputs: Iterable[torch.Tensor], *, on_gpu: bool) -> Iterator[npt.NDArray[Any]]:
    """Copy outputs to the CPU; from a GPU each after the next has been started, so that the GPU does not wait."""
    if not on_gpu:
        yield from (output.cpu().numpy() for output in outputs)
        return
    waiting: tuple[torch.Tensor, torch.cuda.Event] | None = None
    for output in outputs:
        # torch pins what such a copy writes to
        copy = output.to("cpu", non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        # of the GPU of the model, which need not be torch's current one
        copied.record(torch.cuda.current_stream(output.device))
        if waiting is not None:
            waiting[1].synchronize()
            yield waiting[0].numpy()
        waiting = copy, copied
    if waiting is not None:
        waiting[1].synchronize()
        yield waiting[0].numpy()
