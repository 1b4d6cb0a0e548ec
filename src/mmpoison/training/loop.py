"""Fine-tunes a dual encoder on a table of pairs."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmpoison.base.files import cache_folder
from mmpoison.base.processes import fast_gradients
from mmpoison.base.progress import ProgressFor
from mmpoison.base.seeding import torch_seed
from mmpoison.errors import InputError, MmpoisonWarning
from mmpoison.models.checkpoint import save_checkpoint
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, Rows
from mmpoison.pairs.table import BoolArray, PairDataset
from mmpoison.records.run_files import TrainingRecord
from mmpoison.training.feed import Feed, Loaded, Request, set_trainable
from mmpoison.training.log import DivergedError, LogOptions, LossGuard, StepLog
from mmpoison.training.objective import (
    Embedded,
    EpochStart,
    Objective,
    cached_backward,
    normalises_batches,
    still_statistics,
)
from mmpoison.training.processes import Processes, no_sync
from mmpoison.training.settings import Plan, TrainingSettings, autocast, learning_rate
from mmpoison.training.states import (
    Checkpoints,
    StateFolder,
    TrainingState,
    all_finite,
    collect,
    restore,
)

LAST_GOOD = "last-good"
OBJECTIVE = "objective/"
"""Prefix for the names of an objective's tensors in a stored state."""

OnStep = Callable[["Step", DualEncoder], bool | None]
"""Called after a step; returning True stops the training."""


@dataclass(frozen=True)
class Step:
    """One step of training, as given to a callback.

    Attributes:
        step: Steps done, including this one.
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
    """A fine-tuned encoder and the record of its training.

    Attributes:
        encoder: The new encoder; the given one is unchanged.
        epochs: Mean loss, last learning rate and seconds of each epoch.
        steps: Steps done.
        pairs_per_second: Mean rate; for a resumed training, over this process's own time.
        precision: Numeric precision.
        processes: Number of processes that shared each batch.
        resumed_from: Step from which it resumed; 0 if it was not interrupted.
        objective: The loss, if it is not the contrastive loss.
        notes: Notes of a defence, one line each.
    """

    encoder: DualEncoder
    epochs: list[dict[str, float]]
    steps: int
    pairs_per_second: float
    precision: str = field(default="fp32")
    processes: int = 1
    resumed_from: int = 0
    objective: str | None = None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"TrainingResult({self.encoder.name!r}, {self.headline()})"

    def summary(self) -> TrainingRecord:
        """Summarise the training for a checkpoint, a model card and `metrics.json`."""
        return TrainingRecord.of(
            {
                "steps": self.steps,
                "pairs_per_second": round(self.pairs_per_second, 1),
                "precision": self.precision,
                **({"processes": self.processes} if self.processes > 1 else {}),
                **({"objective": self.objective} if self.objective is not None else {}),
                **({"notes": list(self.notes)} if self.notes else {}),
                "epochs": self.epochs,
            }
        )

    def headline(self) -> str:
        """Return steps, speed and the last epoch's mean loss in one line."""
        loss = f", mean loss {self.epochs[-1]['loss']:.3f} in the last epoch" if self.epochs else ""
        return f"{self.steps} steps, {self.pairs_per_second:,.0f} pairs/s{loss}"


def finetune(
    encoder: DualEncoder,
    pairs: PairDataset,
    inputs: PairInputs,
    settings: TrainingSettings,
    *,
    seed: int,
    name: str | None = None,
    on_step: OnStep | None = None,
    checkpoints: Checkpoints | None = None,
    log: LogOptions | None = None,
    progress: ProgressFor | None = None,
    cache: Path | None = None,
    objective: Objective | None = None,
    skip: BoolArray | None = None,
) -> TrainingResult:
    """Fine-tune a copy of an encoder with AdamW and the contrastive loss (section 5.1).

    Trains on the encoder's device. Under `torchrun` or `accelerate launch`, all processes make the same call, share
    each batch, and receive the same encoder.

    Args:
        encoder: The initial encoder.
        pairs: The training pairs, all of them.
        inputs: Preprocessed inputs of the pairs' images and captions.
        settings: Optimiser, schedule and trained parts.
        seed: Seed of the run: order of the pairs, dropout.
        name: Name of the new encoder.
        on_step: Called in the first process after every step, with the step and the encoder, which it must not change.
            Returning True stops the training after that step.
        checkpoints: Where to store the training state. If a state exists, the training resumes from it, with
            bit-identical weights to an uninterrupted run.
        log: Where to log every step.
        progress: Returns a progress callback for computing the outputs of frozen encoders.
        cache: Folder for these outputs; `frozen` in the cache folder by default.
        objective: Loss to minimise instead of the contrastive loss.
        skip: Mask of pairs to skip, shape `(N,)`. The others keep their order among all pairs.

    Returns:
        The new encoder and a log.

    Raises:
        InputError: If there are fewer than two pairs, the model lacks the part to train, the objective does not support
            the settings, the stored state belongs to another training, or the disk is full.
        DivergedError: If the loss becomes NaN or explodes. The message names the last good model, stored next to the
            states.
    """
    processes = Processes(encoder.device)
    plan = Plan(len(pairs), settings, seed, processes.count, skip)
    if len(plan.kept) < 2:
        raise InputError(f"{len(plan.kept)} training pairs: a contrastive batch needs at least 2")
    if settings.batch_size < 2 * processes.count:
        raise InputError(
            f"batch size {settings.batch_size} is too small for {processes.count} processes: each needs 2 pairs"
        )
    chosen = objective or Objective()
    if processes.count > 1 and type(chosen) is not Objective:
        raise InputError(
            f"{chosen.name} trains in one process, not in {processes.count}: omit torchrun, and set chunk_size if a "
            "batch does not fit into memory"
        )
    student = encoder.copy(name).to(processes.device)
    part = set_trainable(student, settings.trainable)
    feed = Feed(student, inputs, part, inputs.image_rows(pairs.image), pairs.captions, chosen)
    training = _Training(
        plan=plan,
        student=student,
        feed=feed,
        objective=chosen,
        processes=processes,
        optimizer=_optimizer(list(part.parameters.values()), student.logit_scale, settings),
        states=_states(checkpoints, encoder, pairs, plan, chosen),
        log=log if processes.is_main else None,
        on_step=on_step if processes.is_main else None,
    )
    devices = [processes.device.index or 0] if processes.device.type == "cuda" else []
    with torch.random.fork_rng(devices), fast_gradients():
        if plan.steps:
            # the first process fills the cache, and the others read from it
            for mine in (True, False):
                if processes.is_main == mine:
                    # other objectives may embed all pairs
                    seen = plan.seen() if type(chosen) is Objective else np.arange(len(pairs))
                    feed.compute_frozen(seen, cache or cache_folder(), progress)
                processes.wait()
        training.run()
    student.module.eval()
    student.module.requires_grad_(True)
    return training.result()


def _states(
    checkpoints: Checkpoints | None,
    encoder: DualEncoder,
    pairs: PairDataset,
    plan: Plan,
    objective: Objective,
) -> StateFolder | None:
    if checkpoints is None:
        return None
    job: dict[str, Any] = {
        **plan.settings.model_dump(mode="json"),
        "seed": plan.seed,
        "processes": plan.processes,
        "pairs": pairs.fingerprint,
        "model": encoder.digest(),
    }
    if type(objective) is not Objective:
        job["objective"] = {"name": objective.name, **objective.settings()}
    if plan.skip is not None:
        job["skip"] = hashlib.sha256(plan.skip.tobytes()).hexdigest()
    return StateFolder(checkpoints, job)


@dataclass
class _Training:
    """A running training: the objects prepared by `finetune`, and the state."""

    plan: Plan
    student: DualEncoder
    feed: Feed
    objective: Objective
    processes: Processes
    optimizer: torch.optim.AdamW
    states: StateFolder | None
    log: LogOptions | None
    on_step: OnStep | None

    def __post_init__(self) -> None:
        settings = self.plan.settings
        self.context, self.precision = autocast(self.processes.device, settings.precision)
        self.scaler = torch.amp.GradScaler(
            self.processes.device.type, enabled=self.precision == "fp16"
        )
        self.guard = LossGuard(settings.batch_size, settings.divergence)
        self.model: nn.Module = self.feed
        self.epochs: list[dict[str, float]] = []
        self.step = self.resumed_from = 0
        # of the current epoch
        self.loss_sum, self.loss_count, self.seconds_before = 0.0, 0, 0.0
        self.seen, self.speed = 0, 0.0

    def run(self) -> None:
        """Run the remaining steps."""
        settings = self.plan.settings
        if self.states is not None:
            self._resume(self.states)
        with ExitStack() as stack:
            log: StepLog | None = None
            if self.log is not None:
                config = {**settings.model_dump(), "seed": self.plan.seed}
                log = StepLog(self.log, self.step, config)
                stack.callback(log.close)
            if self.step == self.plan.steps:
                return
            if (part := self._part_of_a_batch()) and normalises_batches(self.student.module):
                warnings.warn(
                    f"{self.student.name} has batch normalisation, which sees {part} and not the whole batch: its "
                    "gradient only approximates that of the whole batch",
                    MmpoisonWarning,
                    stacklevel=3,
                )
            self.model = self.processes.wrap(self.feed)
            try:
                self._epochs(log)
            except DivergedError as error:
                raise DivergedError(f"{error}: {self._advice()}") from None

    def _part_of_a_batch(self) -> str | None:
        """Describe the input of a forward pass if it is smaller than a batch."""
        chunk, count = self.plan.settings.chunk_size, self.processes.count
        if chunk is not None:
            return f"a chunk of {chunk} pairs"
        return f"the share of one of {count} processes" if count > 1 else None

    def _epochs(self, log: StepLog | None) -> None:
        plan = self.plan
        begun = time.perf_counter()
        while self.step < plan.steps:
            epoch_begun = time.perf_counter()
            epoch, within = divmod(self.step, plan.steps_per_epoch)
            if not within:
                start = EpochStart(epoch, plan.pairs, plan.seed, self.feed.embed_all)
                self.objective.begin_epoch(start)
            end = min(plan.steps, (epoch + 1) * plan.steps_per_epoch)
            # one epoch at a time: the next one's input may depend on this one's last step
            with closing(self.feed.loaded(self._requests(end))) as loaded:
                if self._steps(epoch, end, loaded, log, begun, epoch_begun):
                    return

    def _steps(
        self,
        epoch: int,
        end: int,
        loaded: Iterator[Loaded],
        log: StepLog | None,
        begun: float,
        epoch_begun: float,
    ) -> bool:
        """Run the remaining steps of an epoch; return whether a callback stopped the training."""
        settings, plan = self.plan.settings, self.plan
        factor = self.objective.rate(epoch)
        while self.step < end:
            rate = factor * learning_rate(settings, self.step, plan.steps_per_epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            batch = plan.batch(self.step)
            self.optimizer.zero_grad(set_to_none=True)
            loss = self._backward(self.step, batch, loaded)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            with torch.no_grad():
                self.student.logit_scale.clamp_(max=math.log(settings.max_logit_scale))
            self.step += 1
            self.seen += len(batch)
            value = self.processes.mean(loss)
            self.guard.check(value, self.step)
            self.loss_sum += value
            self.loss_count += 1
            now = time.perf_counter()
            self.speed = self.seen / (now - begun)
            last = self.step == plan.steps
            end_of_epoch = self.step == end
            if end_of_epoch:
                self._end_epoch(rate, now - epoch_begun)
                epoch_begun = now
            done = Step(self.step, plan.steps, epoch, value, rate, self.speed)
            if log is not None:
                scale = float(self.student.logit_scale.detach().exp())
                log.write({**dataclasses.asdict(done), "logit_scale": scale}, last=last)
            enough = self.on_step is not None and self.on_step(done, self.student) is True
            if self.processes.agree(enough):
                if not end_of_epoch:
                    self._end_epoch(rate, now - epoch_begun)
                return True
            if (
                self.states is not None
                and self.processes.is_main
                and self.states.due(self.step, end_of_epoch=end_of_epoch)
            ):
                self._keep(self.states, self.seconds_before + now - epoch_begun)
        return False

    def _end_epoch(self, rate: float, seconds: float) -> None:
        self.epochs.append(
            {
                "loss": self.loss_sum / self.loss_count,
                "learning_rate": rate,
                "seconds": round(self.seconds_before + seconds, 2),
            }
        )
        self.loss_sum, self.loss_count, self.seconds_before = 0.0, 0, 0.0

    # -- one step -------------------------------------------------------------------------------------------------

    def _chunks(self, plan: Plan, step: int) -> list[Rows]:
        batch = plan.batch(step)
        return plan.chunks(self.processes.share(batch), self.processes.shares(len(batch)))

    def _requests(self, end: int) -> Iterator[Request]:
        """Yield the input of every remaining forward pass of an epoch, in order. `end` is the step after the last."""
        plan = dataclasses.replace(self.plan)  # the feeding thread is ahead by a batch
        for step in range(self.step, end):
            requests = [
                Request(pairs, plan.seed, f"training/views/{step}/{self.processes.rank}/{chunk}")
                for chunk, pairs in enumerate(self._chunks(plan, step))
            ]
            yield from requests if len(requests) == 1 else [*requests, *requests]

    def _backward(self, step: int, batch: Rows, loaded: Iterator[Loaded]) -> Tensor:
        """Accumulate a batch's gradient into the parameters; return the loss of this process's share."""

        def embed(chunk: int, module: nn.Module, *, reference: bool) -> Embedded:
            # use the same dropout whenever and wherever this chunk is embedded
            stream = f"training/step/{step}/{self.processes.rank}/{chunk}"
            _seed_torch(self.processes.device, torch_seed(self.plan.seed, stream))
            images, texts = next(loaded)
            with self.context():
                embedded = module(images, texts)
                other = self.feed.embed_reference(images, texts) if reference else ()
            return Embedded(*embedded, *other)

        def backward(scalar: Tensor) -> None:
            torch.autograd.backward(self.scaler.scale(scalar))

        def embed_twice(chunk: int, again: bool) -> Embedded:
            with nullcontext() if again else still_statistics(self.feed):
                return embed(chunk, self.model if again else self.feed, reference=not again)

        def loss_of(embedded: Embedded) -> Tensor:
            if self.processes.count > 1:
                (image,), (text,) = embedded.image, embedded.text
                return self.processes.loss(text, image, embedded.scale, len(batch))
            return self.objective.loss(batch, embedded)

        chunks = len(self._chunks(self.plan, step))
        if chunks == 1:
            loss = loss_of(embed(0, self.model, reference=True))
            backward(loss)
            return loss
        return cached_backward(embed_twice, chunks, loss_of, backward, no_sync(self.model))

    # -- resuming -------------------------------------------------------------------------------------------------

    def _keep(self, states: StateFolder, seconds: float) -> None:
        tensors = collect(self.student.module, self.optimizer)
        for name, tensor in self.objective.state().items():
            tensors[f"{OBJECTIVE}{name}"] = tensor
        if not all_finite(tensors):
            return  # the next loss will show it
        values = {
            "epochs": self.epochs,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "seconds": seconds,
            "guard": {"first": self.guard.first, "last": self.guard.last},
            "scaler": self.scaler.state_dict(),
        }
        states.save(TrainingState(self.step, tensors, values))

    def _resume(self, states: StateFolder) -> None:
        if self.processes.is_main:
            states.checkpoints.tidy()
        state = states.latest()
        if state is None:
            return
        restore(self.student.module, self.optimizer, state.tensors)
        self.objective.restore(
            {
                name.removeprefix(OBJECTIVE): tensor
                for name, tensor in state.tensors.items()
                if name.startswith(OBJECTIVE)
            }
        )
        values = state.values
        self.epochs = values["epochs"]
        self.loss_sum, self.loss_count = values["loss_sum"], values["loss_count"]
        self.seconds_before = values["seconds"]
        self.guard.first, self.guard.last = values["guard"]["first"], values["guard"]["last"]
        if values["scaler"]:
            self.scaler.load_state_dict(values["scaler"])
        self.step = self.resumed_from = state.step

    def _advice(self) -> str:
        rate = self.plan.settings.learning_rate
        advice = f"lower the learning rate ({rate:g})"
        state = self.states.latest() if self.states is not None else None
        if self.states is None or state is None:
            return f"{advice}; no earlier state was saved"
        out = self.states.folder / LAST_GOOD
        if self.processes.is_main:
            restore(self.student.module, self.optimizer, state.tensors)
            shutil.rmtree(out, ignore_errors=True)
            card = f"# {self.student.name}\n\nState of step {state.step} of a training that diverged later.\n"
            save_checkpoint(self.student, out, card=card)
        return f"{advice}; the last good model, of step {state.step}, is in {out}"

    def result(self) -> TrainingResult:
        """Return the trained encoder and its log."""
        return TrainingResult(
            self.student,
            self.epochs,
            self.step,
            self.speed,
            self.precision,
            self.processes.count,
            self.resumed_from,
            self._described(),
        )

    def _described(self) -> str | None:
        """Describe the loss, if it is not the contrastive loss."""
        if type(self.objective) is Objective:
            return None
        views = "; views by feature noise" if self.feed.feature_noise else ""
        return f"{self.objective.name}{views}"


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


def _seed_torch(device: torch.device, seed: int) -> None:
    """Seed the generators of one device, like `torch.manual_seed`.

    The original also records a stack trace for every unused kind of device, which takes longer than a small model's
    step.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def chain_callbacks(*callbacks: OnStep | None) -> OnStep:
    """Combine callbacks into one that calls them in order, and stops the training if any of them does.

    Args:
        callbacks: The callbacks; None is skipped.
    """
    present = [callback for callback in callbacks if callback is not None]

    def on_step(step: Step, encoder: DualEncoder) -> bool:
        # call all of them, even after one has stopped the training
        ends = [callback(step, encoder) is True for callback in present]
        return any(ends)

    return on_step
