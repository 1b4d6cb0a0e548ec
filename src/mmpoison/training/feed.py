"""Feeds the steps of a training: loads pairs in a thread while the step before computes, and embeds them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, ProgressFor, Rows
from mmpoison.training.frozen import Side, frozen_outputs
from mmpoison.training.parts import Role, TrainedPart

A = TypeVar("A")
B = TypeVar("B")

Loaded = tuple[Tensor, Tensor]
"""Images and captions of some pairs, on the CPU."""


def ahead(items: Iterable[A], prepare: Callable[[A], B]) -> Iterator[B]:
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


class _FeedSide:
    """One side of the pairs: computed by the model in every step, or read from a table."""

    def __init__(self, student: DualEncoder, inputs: PairInputs, side: Side, role: Role) -> None:
        self.student, self.inputs, self.side, self.role = student, inputs, side, role
        self.table: Tensor | None = None
        self.place: Rows | None = None

    def compute_table(self, used: Rows, cache: Path | None, progress: ProgressFor | None) -> None:
        if self.role == "trained":
            return
        self.table = frozen_outputs(
            self.student,
            self.inputs,
            used,
            self.side,
            head=self.role == "frozen",
            cache=cache,
            progress=progress(f"frozen {self.side} encoder") if progress else None,
        )
        self.place = np.full(int(used.max()) + 1, -1, dtype=np.int64)
        self.place[used] = np.arange(len(used))

    def load(self, rows: Rows) -> Tensor:
        if self.table is not None:
            assert self.place is not None
            loaded = self.table[torch.from_numpy(self.place[rows])]
        elif self.side == "image":
            loaded = self.inputs.load_images(rows)
        else:
            loaded = self.inputs.load_texts(rows)
        # from pinned memory a copy to the GPU does not wait
        return loaded.pin_memory() if self.student.device.type == "cuda" else loaded

    def encode(self, loaded: Tensor) -> Tensor:
        if self.table is not None:
            features = loaded.to(self.student.device, non_blocking=True)
            if self.role == "frozen":
                return features
        elif self.side == "image":
            features = self.inputs.image_trunk(self.student, loaded)
        else:
            features = self.inputs.text_trunk(self.student, loaded)
        head = self.student.image_head if self.side == "image" else self.student.text_head
        return head(features)


class Feed(nn.Module):
    """Loads pairs and embeds them; a module, so that DDP can wrap it.

    Args:
        student: The encoder in training.
        inputs: Prepared inputs.
        part: What trains.
        image_rows: Row of the image of each pair, shape `(N,)`.
        text_rows: Row of the caption of each pair, shape `(N,)`.
    """

    def __init__(
        self,
        student: DualEncoder,
        inputs: PairInputs,
        part: TrainedPart,
        image_rows: Rows,
        text_rows: Rows,
    ) -> None:
        super().__init__()
        self.module = student.module
        self.student = student
        self._image = _FeedSide(student, inputs, "image", part.image)
        self._text = _FeedSide(student, inputs, "text", part.text)
        self._image_rows, self._text_rows = image_rows, text_rows

    def compute_frozen(
        self, pairs: Rows, cache: Path | None, progress: ProgressFor | None = None
    ) -> None:
        """Compute, or read from the cache, outputs of frozen encoders for the pairs of the training."""
        self._image.compute_table(np.unique(self._image_rows[pairs]), cache, progress)
        self._text.compute_table(np.unique(self._text_rows[pairs]), cache, progress)

    def load(self, pairs: Rows) -> Loaded:
        """Load what the encoders need for some pairs; runs in the feeding thread."""
        return self._image.load(self._image_rows[pairs]), self._text.load(self._text_rows[pairs])

    def loaded(self, steps: Iterable[Rows]) -> Generator[Loaded, None, None]:
        """Load each of some lists of pairs in order, ahead of its use where loading takes time."""
        looked_up = self._image.table is not None and self._text.table is not None
        if looked_up and self.student.device.type == "cpu":
            # reading rows of a table is faster than passing them between threads
            yield from map(self.load, steps)
        else:
            yield from ahead(steps, self.load)

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute unit embeddings of images and captions, shape `(n, d)`, and exp(tau)."""
        image = self._image.encode(images).float()
        text = self._text.encode(texts).float()
        return image, text, self.student.logit_scale.exp()
