"""Fine-tune a dual encoder on a table of pairs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from mmpoison.datasets.pairs import PairDataset
from mmpoison.errors import InputError, ResultError
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs
from mmpoison.seeding import generator, torch_seed
from mmpoison.training.loss import contrastive_loss
from mmpoison.training.precision import autocast
from mmpoison.training.schedule import learning_rate
from mmpoison.training.settings import TrainingSettings


@dataclass(frozen=True)
class Step:
    """One step of training, as given to a callback.

    Attributes:
        step: Steps done, this one included.
        steps: Steps in all.
        epoch: Epoch of this step, from 0.
        loss: Loss of the batch.
        learning_rate: Learning rate of the step.
        pairs_per_second: Mean rate since the start.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    learning_rate: float
    pairs_per_second: float


@dataclass(frozen=True)
class TrainingResult:
    """A fine-tuned encoder and what happened on the way.

    Attributes:
        encoder: The new encoder; the one given is unchanged.
        epochs: For each epoch its mean loss, last learning rate and seconds.
        steps: Steps done.
        pairs_per_second: Mean rate.
        precision: What was computed in.
    """

    encoder: DualEncoder
    epochs: list[dict[str, float]]
    steps: int
    pairs_per_second: float
    precision: str = field(default="fp32")

    def summary(self) -> dict[str, Any]:
        """Plain values for a log or a model card."""
        return {
            "steps": self.steps,
            "pairs_per_second": round(self.pairs_per_second, 1),
            "precision": self.precision,
            "epochs": self.epochs,
        }


def finetune(
    encoder: DualEncoder,
    pairs: PairDataset,
    inputs: PairInputs,
    settings: TrainingSettings,
    *,
    seed: int,
    name: str | None = None,
    on_step: Callable[[Step, DualEncoder], None] | None = None,
) -> TrainingResult:
    """Fine-tune a copy of an encoder with AdamW and the contrastive loss (section 5.1).

    Args:
        encoder: Where to start.
        pairs: The training pairs, all of them.
        inputs: Prepared inputs that hold the pairs' images and captions.
        settings: Optimiser, schedule, what trains.
        seed: Seed of the run: order of the pairs, dropout.
        name: Name of the new encoder.
        on_step: Called after every step with the step and the encoder in training; must leave it as it was.

    Returns:
        The new encoder and a log.

    Raises:
        InputError: If there are fewer than two pairs.
        ResultError: If the loss stops being a number.
    """
    if len(pairs) < 2:
        raise InputError(f"{len(pairs)} training pairs: a contrastive batch needs at least 2")
    student = encoder.copy(name)
    parameters = _unfreeze(student, settings)
    optimizer = _optimizer(parameters, student.logit_scale, settings)
    image_rows = inputs.image_rows(pairs.image)
    text_rows = inputs.text_rows(pairs.captions)
    starts = range(0, len(pairs), settings.batch_size)
    # one pair has nothing to be contrasted with
    steps_per_epoch = len(starts) - (len(pairs) % settings.batch_size == 1)
    total = settings.epochs * steps_per_epoch
    if settings.max_steps is not None:
        total = min(total, settings.max_steps)
    context, precision = autocast(student.device, settings.precision)

    epochs: list[dict[str, float]] = []
    step = 0
    seen = 0
    begun = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed(seed, "training"))
        for epoch in range(math.ceil(total / steps_per_epoch) if total else 0):
            epoch_begun = time.perf_counter()
            order = generator(seed, f"training/order/{epoch}").permutation(len(pairs))
            losses: list[float] = []
            for start in starts[:steps_per_epoch]:
                if step == total:
                    break
                batch = order[start : start + settings.batch_size]
                rate = learning_rate(settings, step, steps_per_epoch)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                with context():
                    image = inputs.encode_images(student, image_rows[batch])
                    text = inputs.encode_texts(student, text_rows[batch])
                loss = contrastive_loss(text.float(), image.float(), student.logit_scale.exp())
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                optimizer.step()
                with torch.no_grad():
                    student.logit_scale.clamp_(max=math.log(settings.max_logit_scale))
                step += 1
                seen += len(batch)
                losses.append(loss.item())
                if not math.isfinite(losses[-1]):
                    raise ResultError(
                        f"the loss is {losses[-1]} at step {step}: lower the learning rate "
                        f"({settings.learning_rate:g})"
                    )
                if on_step is not None:
                    speed = seen / (time.perf_counter() - begun)
                    on_step(Step(step, total, epoch, losses[-1], rate, speed), student)
            epochs.append(
                {
                    "loss": float(np.mean(losses)),
                    "learning_rate": rate,
                    "seconds": round(time.perf_counter() - epoch_begun, 2),
                }
            )
    student.module.eval()
    for parameter in student.module.parameters():
        parameter.requires_grad_(True)
    speed = seen / max(time.perf_counter() - begun, 1e-9)
    return TrainingResult(student, epochs, step, speed, precision)


def _unfreeze(student: DualEncoder, settings: TrainingSettings) -> list[nn.Parameter]:
    """Set what trains; frozen parts stay in evaluation mode. Returns the trainable encoder parameters."""
    module = student.module
    module.eval()
    module.requires_grad_(False)
    visual: Any = module.visual
    if settings.trainable == "heads":
        heads = student.head_modules()
        for head in heads:
            head.train()
        trained = [parameter for head in heads for parameter in head.parameters()]
    elif settings.trainable == "image":
        visual.train()
        trained = student.image_parameters()
    else:
        module.train()
        if settings.trainable == "text":
            visual.eval()
        trained = student.text_parameters()
        if settings.trainable == "both":
            trained = student.image_parameters() + trained
    for parameter in trained:
        parameter.requires_grad_(True)
    student.logit_scale.requires_grad_(True)
    return trained


def _optimizer(
    parameters: list[nn.Parameter], logit_scale: nn.Parameter, settings: TrainingSettings
) -> torch.optim.AdamW:
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2] + [logit_scale]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        fused=True,
    )
