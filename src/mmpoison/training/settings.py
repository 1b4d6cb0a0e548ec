"""Fine-tuning settings, with the paper's defaults (section 5.1), and the plan of which pairs each step sees."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmpoison.base.seeding import generator
from mmpoison.models.inputs import Rows
from mmpoison.pairs.table import BoolArray

Trainable = Literal[
    "both",
    "image",
    "text",
    "heads",
    "image-head",
    "text-head",
    "text-transformer-frozen",
    "none",
]

Role = Literal["trained", "head", "frozen"]
"""What runs in every step: the whole encoder, only its projection, or nothing."""

ROLES: dict[Trainable, tuple[Role, Role]] = {
    "both": ("trained", "trained"),
    "image": ("trained", "frozen"),
    "text": ("frozen", "trained"),
    "heads": ("head", "head"),
    "image-head": ("head", "frozen"),
    "text-head": ("frozen", "head"),
    "text-transformer-frozen": ("trained", "trained"),
    "none": ("frozen", "frozen"),
}
"""Roles of the image and the text encoder."""

MOST_EPOCHS = 100_000
MOST_PAIRS = 1 << 24
"""Maximum number of pairs in one batch, 512 times the largest published batch."""
MOST_STEPS = 10**9

Precision = Literal["auto", "fp32", "bf16", "fp16"]


class TrainingSettings(BaseModel):
    """The settings of a fine-tune.

    Attributes:
        epochs: Passes over the training pairs; 0, in a recipe, trains nothing.
        batch_size: Pairs in one contrastive batch, over all processes together (the paper's prose: 128, its released
            configuration: 256).
        chunk_size: Pairs of a process whose activations are in memory at a time. The contrastive batch stays whole and
            its gradient the same; the encoders run forward twice. All of the batch by default.
        learning_rate: Highest learning rate of AdamW.
        min_learning_rate: What the cosine ends at.
        warmup_epochs: Epochs before the cosine; may be a fraction when `schedule` is `step`.
        warmup_learning_rate: Where the warm-up starts; the learning rate itself by default, as in the paper.
        schedule: The learning rate changes every `epoch` (the paper) or every `step`.
        weight_decay: Of parameters with two or more dimensions (matrices, convolutions, tables of embeddings); gains,
            biases, class embedding and temperature are not decayed.
        betas: AdamW's.
        eps: AdamW's.
        max_logit_scale: exp(tau) is clamped here.
        trainable: What trains: `both` encoders, `image`, `text`, the two projections (`heads`) or one of them
            (`image-head`, `text-head`), nothing (`none`), or everything but the blocks of the text transformer
            (`text-transformer-frozen`: what the paper's released code did for a frozen text encoder). A frozen encoder
            is frozen whole, and its normalisation statistics and dropout are still.
        precision: `bf16` if the processor supports it, else `fp32`; `auto` chooses. `fp16` scales its gradients.
        divergence: The training stops when the mean loss of 20 steps is more than `divergence` times
            max(log(batch size), mean of the first 20 steps).
        max_steps: The largest number of steps, whatever the epochs are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: int = Field(10, ge=0, le=MOST_EPOCHS)
    batch_size: int = Field(128, ge=2, le=MOST_PAIRS)
    chunk_size: int | None = Field(None, ge=1, le=MOST_PAIRS)
    learning_rate: float = Field(1e-5, gt=0, le=1e30)
    min_learning_rate: float = Field(1e-6, ge=0, le=1e30)
    warmup_epochs: float = Field(1, ge=0, le=MOST_EPOCHS)
    warmup_learning_rate: float | None = Field(None, ge=0, le=1e30)
    schedule: Literal["epoch", "step"] = "epoch"
    weight_decay: float = Field(0.2, ge=0, le=1000)
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = Field(1e-6, gt=0, le=1)
    max_logit_scale: float = Field(100.0, gt=0, le=1e6)
    trainable: Trainable = "both"
    precision: Precision = "auto"
    divergence: float = Field(3.0, gt=1, le=1e6)
    max_steps: int | None = Field(None, ge=1, le=MOST_STEPS)

    @property
    def heads_only(self) -> bool:
        """Whether nothing but projections trains: features of the trunks, computed once, serve all of it.

        >>> TrainingSettings(trainable="image-head").heads_only, TrainingSettings().heads_only
        (True, False)
        """
        roles = ROLES[self.trainable]
        return "head" in roles and "trained" not in roles

    @model_validator(mode="after")
    def _consistent(self) -> TrainingSettings:
        if self.min_learning_rate > self.learning_rate:
            raise ValueError("min_learning_rate is above learning_rate")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas must lie in [0, 1)")
        return self


# -- Learning rate over time.


def learning_rate(settings: TrainingSettings, step: int, steps_per_epoch: int) -> float:
    """Compute the learning rate of one step (0-based): warm-up, then a cosine to the minimum (section 5.1).

    Args:
        settings: The fine-tune's settings.
        step: Steps done before this one.
        steps_per_epoch: Steps of one epoch.

    >>> paper = TrainingSettings()
    >>> [f"{learning_rate(paper, epoch * 7, 7):.2e}" for epoch in (0, 1, 9)]
    ['1.00e-05', '1.00e-05', '1.27e-06']
    """
    done = step / steps_per_epoch if settings.schedule == "step" else float(step // steps_per_epoch)
    high, low = settings.learning_rate, settings.min_learning_rate
    if done < settings.warmup_epochs:
        start = high if settings.warmup_learning_rate is None else settings.warmup_learning_rate
        return start + (high - start) * done / settings.warmup_epochs
    length = max(settings.epochs - settings.warmup_epochs, 1e-9)
    part = min((done - settings.warmup_epochs) / length, 1.0)
    return low + (high - low) * (1 + math.cos(math.pi * part)) / 2


# -- Selects the numeric precision.


FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(
    device: torch.device, precision: Precision
) -> tuple[Callable[[], AbstractContextManager[Any]], str]:
    """Create a factory of autocast contexts; return it with its precision.

    `auto` means bf16 on GPUs and on CPUs with bf16 instructions; elsewhere bf16 would be emulated and slow.
    """
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
    if precision == "fp32":
        return nullcontext, "fp32"
    return lambda: torch.autocast(device.type, FORMATS[precision]), precision


def has_bf16(device: torch.device) -> bool:
    """Check whether the device multiplies bf16 matrices in hardware."""
    if device.type == "cuda":
        # older GPUs emulate it, which is slow
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # private in torch, so some releases lack it; fp32 is then the safe choice
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(device.type == "cpu" and check is not None and check())


@dataclass
class Plan:
    """The steps of a training.

    Args:
        pairs: Number of pairs.
        settings: Batch size and length.
        seed: Seed of the run.
        processes: Number of processes. Smaller batches are left out, and so are single pairs, which have no contrast.
        skip: Mask of pairs to skip, shape `(pairs,)`. The others keep their order among all pairs.
    """

    pairs: int
    settings: TrainingSettings
    seed: int
    processes: int = 1
    skip: BoolArray | None = None
    _epoch: int = -1
    _order: Rows = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @cached_property
    def kept(self) -> Rows:
        """The pairs that are not skipped, sorted. Cached, because every step needs their number."""
        rows = np.arange(self.pairs, dtype=np.int64)
        return rows if self.skip is None else rows[~self.skip]

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one pass."""
        whole, rest = divmod(len(self.kept), self.settings.batch_size)
        return whole + (rest >= max(2, self.processes))

    @property
    def steps(self) -> int:
        """Steps in all."""
        if self.settings.trainable == "none":
            return 0
        total = self.settings.epochs * self.steps_per_epoch
        return total if self.settings.max_steps is None else min(total, self.settings.max_steps)

    def batch(self, step: int) -> Rows:
        """Return the pairs of a step (0-based), shape `(n,)`."""
        epoch, number = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            stream = generator(self.seed, f"training/order/{epoch}")
            order = stream.permutation(self.pairs)
            self._order = order if self.skip is None else order[~self.skip[order]]
            self._epoch = epoch
        start = number * self.settings.batch_size
        return self._order[start : start + self.settings.batch_size]

    def seen(self) -> Rows:
        """List all pairs that any step sees, sorted, including those that the last batch of a full epoch leaves out.

        The latter differ between runs, and runs on the same pairs are meant to share outputs of frozen encoders.
        """
        if self.steps >= self.steps_per_epoch > 0:
            return self.kept
        batches = [self.batch(step) for step in range(self.steps)]
        return np.unique(np.concatenate(batches)) if batches else np.empty(0, dtype=np.int64)

    def chunks(self, share: Rows, shares: list[int]) -> list[Rows]:
        """Split this process's share of a batch into chunks. Every process has the same number of chunks."""
        size = self.settings.chunk_size or max(shares)
        count = min(math.ceil(max(shares) / size), min(shares))
        return list(np.array_split(share, count))


def epochs_of(pairs: int, settings: TrainingSettings) -> int:
    """Count the epochs of a training on a given number of pairs. The last one may be incomplete."""
    plan = Plan(pairs, settings, seed=0)
    return -(-plan.steps // max(plan.steps_per_epoch, 1))
