"""Repairs that continue training, on clean pairs or on those that a trace keeps, and the choice of a learning rate."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field, ValidationError
from torch import Tensor

from mmpoison.base.options import options
from mmpoison.base.processes import process_count
from mmpoison.base.progress import ProgressFor
from mmpoison.defenses.catalogue import (
    DEFENSES,
    DefenseKind,
    ModelRepair,
    TrainingServices,
    build_defense,
    require_clean,
    services_of,
    train_with,
)
from mmpoison.defenses.repairs.repair_meter import NOT_SHOWN, RepairMeter
from mmpoison.errors import InputError, ResultError
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, Rows
from mmpoison.pairs.table import PairDataset
from mmpoison.records.run_files import ProbeRecord
from mmpoison.training.log import DivergedError, LogOptions
from mmpoison.training.loop import OnStep, TrainingResult, chain_callbacks, finetune
from mmpoison.training.objective import Embedded, Objective, contrastive_loss
from mmpoison.training.probes import Probes
from mmpoison.training.processes import Processes
from mmpoison.training.settings import Plan, TrainingSettings
from mmpoison.training.states import Checkpoints

# -- Post-training defence: fine-tune the checkpoint on clean pairs.


@DEFENSES.register("clean-finetune")
@options
class CleanFinetune:
    """Fine-tune a poisoned checkpoint on pairs known to be clean (section 6.2, "post-training defense").

    Subclasses minimise a different loss on the same clean pairs by overriding `objective`.
    """

    name: ClassVar[str] = "clean-finetune"
    kind: ClassVar[DefenseKind] = "post-training"
    source: ClassVar[str] = "Yang et al., ICML 2023, section 6.2"
    summary: ClassVar[str] = "fine-tunes a suspect checkpoint on clean pairs"
    parameters: ClassVar[Mapping[str, str]]
    cost: ClassVar[str] = (
        "needs clean pairs and some training steps; loses utility where the clean pairs differ from the data"
    )

    settings: TrainingSettings = Field(
        kw_only=False,
        description="training settings; a larger learning rate removes more of the poison and more of the "
        "utility",
    )

    def objective(self) -> Objective | None:
        """Return the loss to minimise; None for the contrastive loss."""
        return None

    def refuse(self, pairs: PairDataset) -> None:
        """Raise InputError for pairs that must not be trained on."""
        require_clean(pairs)

    def apply(
        self,
        encoder: DualEncoder,
        clean_pairs: PairDataset,
        inputs: PairInputs,
        *,
        seed: int,
        **services: Unpack[TrainingServices],
    ) -> TrainingResult:
        """Return a fine-tuned copy of an encoder; see `ModelRepair`."""
        self.refuse(clean_pairs)
        services["name"] = services.get("name") or f"{encoder.name}-sterilized"
        return finetune(
            *(encoder, clean_pairs, inputs, self.settings),
            seed=seed,
            objective=self.objective(),
            **services,
        )


# -- Fine-tuning if the poisoned pairs are known: also unlearns their associations.


class UnlearnLoss(Objective):
    """Contrastive loss of the remaining pairs + exp(tau) x the mean excess of cosine within groups of false pairs.

    Within a group, every caption is compared with every image: the group taught an association between a topic and a
    kind of images, and so did similar pairs that were not found. The excess is the part above the mean cosine of
    captions and images of the kept pairs in the same batch; below that mean there is no gradient.

    Args:
        group: Group index of each training pair, from 0, or -1 for kept pairs; shape `(N,)`.
    """

    name: ClassVar[str] = "unlearn"

    def __init__(self, group: npt.NDArray[np.int64]) -> None:
        self._group = torch.from_numpy(group)

    def settings(self) -> dict[str, Any]:
        """Return a digest of the group of each pair."""
        return {"groups": hashlib.sha256(self._group.numpy().tobytes()).hexdigest()}

    def loss(self, pairs: Rows, batch: Embedded) -> Tensor:
        """Compute the loss of a batch; see the class."""
        group = self._group[pairs]
        (image,), (text,) = batch.image, batch.text
        stays, false = group < 0, group >= 0
        fit = usual = batch.scale.new_zeros(())  # the batch contains only false pairs
        if stays.any():
            fit = contrastive_loss(text[stays], image[stays], batch.scale)
            usual = (text[stays] @ image[stays].T).mean().detach()
        if not false.any():
            return fit
        excess = F.relu(text[false] @ image[false].T - usual)
        group = group[false].to(excess.device)
        return fit + batch.scale.detach() * excess[group[:, None] == group].mean()


class Unlearn(CleanFinetune):
    """Fine-tune a suspect on the pairs that a trace keeps, and push apart the groups it found (`UnlearnLoss`).

    Args:
        settings: How to fine-tune.
        group: Group index of each pair given to `apply`, as for `UnlearnLoss`.
    """

    def __init__(self, settings: TrainingSettings, group: npt.NDArray[np.int64]) -> None:
        super().__init__(settings)
        self._group = group

    def objective(self) -> Objective:
        """Return the loss to minimise."""
        return UnlearnLoss(self._group)

    def refuse(self, pairs: PairDataset) -> None:
        """Accept any pairs: the kept pairs are not known to be clean."""


CHOSEN_BY_RATE = (
    "the highest learning rate that keeps the utility: it removes most, and needs no known goal"
)
CHOSEN_BY_CANARY = (
    "the learning rate that leaves least of the known goals, among those that keep the utility"
)
PROBES_FILE = "probes.json"

LEARNING_RATES = (1e-3, 1e-4, 1e-5)
"""Learning rates to try by default: from small models' rates down to the paper's rate for CLIP."""


@dataclass
class Branch:
    """A repair with one learning rate.

    Attributes:
        repair: The repair.
        settings: Its training settings; None if it takes none.
        result: Its result; None if it diverged or its model is not the best so far.
        probes: Measurements during training; empty if nothing is held out.
        ended: Why it stopped, or why it was not tried.
        keeps_utility: Whether it lost no more utility than the rule allows; None if it was not tried.
        chosen: Whether its model is saved.
    """

    repair: ModelRepair
    settings: TrainingSettings | None
    result: TrainingResult | None = None
    probes: list[ProbeRecord] = field(default_factory=list)
    ended: str = "not needed, because a higher learning rate keeps the utility"
    keeps_utility: bool | None = None
    chosen: bool = False

    @property
    def learning_rate(self) -> float | None:
        """Peak learning rate."""
        return None if self.settings is None else self.settings.learning_rate

    @property
    def label(self) -> str:
        """Its name in messages and tables."""
        return (
            self.repair.name
            if self.settings is None
            else f"learning rate {self.settings.learning_rate:g}"
        )

    @property
    def utility_loss(self) -> float:
        """Utility lost by its model; 0 if nothing is held out."""
        lost = self.probes[-1].utility_loss if self.probes else 0.0
        return math.inf if lost is None else lost

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the curve file."""
        return {
            "learning_rate": self.learning_rate,
            "ended": self.ended,
            "keeps_utility": self.keeps_utility,
            "chosen": self.chosen,
            "looks": [probe.to_json() for probe in self.probes],
        }


def repair_branches(
    method: str,
    options: Mapping[str, Any],
    settings: TrainingSettings | None,
    rates: Sequence[float] = (),
    *,
    several: bool = False,
) -> list[Branch]:
    """Build a repair for each learning rate; all other settings and options are the same.

    Args:
        method: A registered repair.
        options: Constructor options.
        settings: Training settings; None for a repair without settings.
        rates: Learning rates to try; empty uses the rate of the settings.
        several: Without `rates`, try `LEARNING_RATES` if the settings do not set a learning rate.

    Raises:
        InputError: If an option is unknown, or a rate is repeated or conflicts with other settings.
    """
    if several and settings is not None and "learning_rate" not in settings.model_fields_set:
        rates = rates or LEARNING_RATES
    if len(set(rates)) < len(rates):
        raise InputError("the same learning rate is given twice")
    chosen: list[TrainingSettings | None] = [settings]
    if rates:
        if settings is None:
            raise InputError(f"--learning-rate: defence {method!r} has no training settings")
        try:
            chosen = [
                TrainingSettings.model_validate({**settings.model_dump(), "learning_rate": rate})
                for rate in rates
            ]
        except ValidationError as error:
            said = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise InputError(f"--learning-rate: {said}") from None
    return [
        Branch(build_defense("post-training", method, options, settings=each), each)
        for each in chosen
    ]


def run_repair(
    suspect: DualEncoder,
    clean_pairs: PairDataset,
    inputs: PairInputs,
    branches: Sequence[Branch],
    *,
    seed: int,
    meter: RepairMeter | None,
    work: Path,
    trackers: Sequence[str] = (),
    shown: Callable[[Branch], OnStep] | None = None,
    progress: ProgressFor | None = None,
    first: bool = False,
) -> TrainingResult | None:
    """Run each branch from the suspect, store its results in the branch, and choose one branch.

    A repair that takes `on_step` is probed during training; others are measured at the end. The utility guard judges
    both. A repair that takes `checkpoints` resumes after a kill.

    Args:
        suspect: The suspect; unchanged.
        clean_pairs: Known clean pairs, without those held out.
        inputs: Preprocessed inputs of these pairs.
        branches: Branches from `repair_branches`.
        seed: Seed of the run.
        meter: Measures on held-out pairs. Without one, utility is not guarded and only one branch is possible.
        work: Folder for states, logs and probes, from which an interrupted repair resumes.
        trackers: As in `LogOptions`.
        shown: Returns a callback that displays the steps of a branch.
        progress: As in `finetune`.
        first: Choose the first branch that keeps the utility, and skip the rest.

    Returns:
        The result of the chosen branch; None if all lost too much utility.

    Raises:
        InputError: If a pair is marked as poisoned, or `finetune` refuses the input.
        DivergedError: If every branch diverged.
    """
    best: Branch | None = None
    for branch in branches:
        if first and Processes(suspect.device).agree(best is not None):
            break
        # a single branch uses the work folder itself
        folder = work if len(branches) == 1 else work / branch.label.replace(" ", "-")
        probes = None
        if meter is not None:
            steps = None
            if branch.settings is not None:
                plan = Plan(len(clean_pairs), branch.settings, seed, process_count())
                steps = plan.steps_per_epoch
            # probes on disk belong to a training that resumes
            resumes = {"checkpoints", "on_step"} <= services_of(branch.repair)
            probes = Probes(
                meter.measure,
                meter.start,
                steps,
                folder / PROBES_FILE if resumes else None,
                within=True,
                every=meter.rule.every,
            )
        try:
            result = train_with(
                branch.repair,
                *(suspect, clean_pairs, inputs),
                seed=seed,
                services={
                    "on_step": chain_callbacks(shown(branch) if shown else None, probes),
                    "checkpoints": Checkpoints(folder),
                    "log": LogOptions(folder, tuple(trackers)),
                    "progress": progress,
                },
            )
            if probes is not None:
                branch.probes = probes.finish(result.encoder, result.steps)
        except DivergedError as error:
            if len(branches) == 1:
                raise
            branch.ended, branch.keeps_utility = f"diverged: {error}", False
            continue
        branch.ended = f"All steps are done. {NOT_SHOWN}"
        branch.keeps_utility = meter is None or branch.utility_loss <= meter.rule.max_utility_loss
        # only the best model stays in memory
        if branch.keeps_utility and (best is None or _merit(branch) > _merit(best)):
            if best is not None:
                best.result = None
            best, branch.result = branch, result
    if best is None:
        if all(branch.ended.startswith("diverged") for branch in branches):
            raise DivergedError(branches[0].ended)
        return None
    best.chosen = True
    return best.result


def refusal(branches: Sequence[Branch], meter: RepairMeter, work: Path) -> ResultError:
    """Explain why no model is saved. `work` is the folder with states and logs."""
    lost = "; ".join(
        f"at {branch.label} " + (f"{branch.utility_loss:.3f}" if branch.probes else "it diverged")
        for branch in branches
    )
    most, images = meter.rule.max_utility_loss, len(meter.held_out.gallery)
    remedy = "lower the learning rate" if images * most >= 1 else "give more clean pairs"
    one = "" if images * most >= 1 else f"; one image is {1 / images:.3f}"
    return ResultError(
        f"no model is saved: all lost more than {most:g} of their Hit@{meter.k} on {images} held-out images "
        f"({lost}{one}): {remedy}, or allow more with --max-utility-loss, which resumes from {work}"
    )


def choice(branches: Sequence[Branch], meter: RepairMeter) -> str:
    """Say which learning rate was chosen and why; if none was, state only the rule."""
    rule = CHOSEN_BY_CANARY if meter.rule.canary_goals else CHOSEN_BY_RATE
    taken = "".join(f"{branch.label}, " for branch in branches if branch.chosen)
    return f"{taken}{rule} (at most {meter.rule.max_utility_loss:g} of Hit@{meter.k} lost)"


def _merit(branch: Branch) -> tuple[float, ...]:
    """Rank a branch; larger is better. Uses canary goals if given."""
    goals = branch.probes[-1].to_json().get("canary_goals", {}) if branch.probes else {}
    if goals:
        found = [value for row in goals.values() for key, value in row.items() if "hit@" in key]
        return (-sum(found) / len(found), -branch.utility_loss)
    return (branch.learning_rate or 0.0,)
