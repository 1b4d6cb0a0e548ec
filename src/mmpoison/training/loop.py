"""Fine-tune a dual encoder on a table of pairs."""

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
from mmpoison.training.plan import Plan, autocast, learning_rate
from mmpoison.training.processes import Processes, no_sync
from mmpoison.training.settings import TrainingSettings
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
"""Names of an objective's tensors in a stored state begin so."""

OnStep = Callable[["Step", DualEncoder], bool | None]
"""Called after a step; if it returns True, the training ends there."""


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
    """A fine-tuned encoder and the record of its training.

    Attributes:
        encoder: The new encoder; the one given is unchanged.
        epochs: For each epoch its mean loss, last learning rate and seconds.
        steps: Steps done.
        pairs_per_second: Mean rate; of this process's own time if the training was resumed.
        precision: What was computed in.
        processes: How many shared each batch.
        resumed_from: Step that it resumed from, 0 if it was not stopped.
        objective: What it minimised, where that is not the contrastive loss.
        notes: What a defence says of it, a line each.
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
        """Say steps, speed and the mean loss of the last epoch in a line."""
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

    It trains on the encoder's device; under `torchrun` or `accelerate launch` all processes call it alike, each batch
    is shared by them, and each gets the same encoder back.

    Args:
        encoder: Where to start.
        pairs: The training pairs, all of them.
        inputs: Prepared inputs that hold the pairs' images and captions.
        settings: Optimiser, schedule, what trains.
        seed: Seed of the run: order of the pairs, dropout.
        name: Name of the new encoder.
        on_step: Called after every step, in the first process, with the step and the encoder in training; must leave it
            as it was. If it returns True, the training ends with that step.
        checkpoints: Where to store the state of the training. If there is one already, the training resumes from it and
            gives the same weights to the last bit as without the stop.
        log: Where to log every step.
        progress: Gives a progress callback for what is computed once, the outputs of frozen encoders.
        cache: Folder for those outputs; `frozen` in the cache folder by default.
        objective: What to minimise in place of the contrastive loss.
        skip: Pairs that no step sees, shape `(N,)`; the others keep the order that they have among all pairs.

    Returns:
        The new encoder and a log.

    Raises:
        InputError: If there are fewer than two pairs, what is to train does not exist in the model, the objective
            cannot be trained so, the stored state is of another training, or the disk is full.
        DivergedError: If the loss stops being a number or explodes; the message names the last good model, stored
            next to the states.
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
            # the first process computes what is missing in the cache, the others find it there
            for mine in (True, False):
                if processes.is_main == mine:
                    # another objective may embed all pairs
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
    """A training in progress: what `finetune` prepared, and its state."""

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
        # of the epoch under way
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
        """Describe what a forward pass sees if that is less than a batch."""
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
            # an epoch at a time: what the next one sees may depend on the last step of this one
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
        """Run the remaining steps of an epoch; returns whether a callback ended the training."""
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
        """Yield what every remaining forward pass of an epoch sees, in order; `end` is the step after its last."""
        plan = dataclasses.replace(self.plan)  # the feeding thread is ahead by a batch
        for step in range(self.step, end):
            requests = [
                Request(pairs, plan.seed, f"training/views/{step}/{self.processes.rank}/{chunk}")
                for chunk, pairs in enumerate(self._chunks(plan, step))
            ]
            yield from requests if len(requests) == 1 else [*requests, *requests]

    def _backward(self, step: int, batch: Rows, loaded: Iterator[Loaded]) -> Tensor:
        """Put the gradient of a step's batch into the parameters; returns the loss of this process's share."""

        def embed(chunk: int, module: nn.Module, *, reference: bool) -> Embedded:
            # the same dropout whenever and wherever this chunk is embedded
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
            return  # the next loss will say so
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
        """Say what was minimised, where that is not the contrastive loss."""
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
    """`torch.manual_seed` for what runs on one device.

    The original also files a stack trace for each kind of device that is not in use yet, which takes longer than a
    small model's step.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def chain_callbacks(*callbacks: OnStep | None) -> OnStep:
    """Make one callback that calls each of some in their order; it ends the training if any of them would.

    Args:
        callbacks: The callbacks; None is skipped.
    """
    present = [callback for callback in callbacks if callback is not None]

    def on_step(step: Step, encoder: DualEncoder) -> bool:
        # all are called, also after one that ends the training
        ends = [callback(step, encoder) is True for callback in present]
        return any(ends)

    return on_step
