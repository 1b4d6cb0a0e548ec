"""A clean fine-tune at several learning rates side by side, and the one that is handed over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mmpoison.base.processes import process_count
from mmpoison.defenses.repairs.clean_finetune import CleanFinetune
from mmpoison.defenses.repairs.repair_watch import Look, RepairMeter, RepairWatch
from mmpoison.errors import InputError, ResultError
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, ProgressFor
from mmpoison.pairs.table import PairDataset
from mmpoison.training.callbacks import chain_callbacks
from mmpoison.training.divergence import DivergedError
from mmpoison.training.log import LogOptions
from mmpoison.training.loop import OnStep, TrainingResult
from mmpoison.training.plan import Plan
from mmpoison.training.settings import TrainingSettings
from mmpoison.training.states import Checkpoints

CHOSEN_BY_RATE = "the highest learning rate that keeps the utility: it lets go of most, and no goal has to be known"
CHOSEN_BY_CANARY = "of those that keep the utility, the one whose known goals find least"
LOOKS_FILE = "looks.jsonl"


@dataclass
class Branch:
    """One learning rate.

    Attributes:
        settings: How it was fine-tuned.
        result: What came of it; None where it diverged or its model is not the best one so far.
        looks: What was seen on the way; empty where nothing is held out.
        ended: Why it ended.
        keeps_utility: Whether it lost no more than the rule allows.
        chosen: Whether it is the one.
    """

    settings: TrainingSettings
    result: TrainingResult | None
    looks: list[Look] = field(default_factory=list)
    ended: str = "all steps done"
    keeps_utility: bool = True
    chosen: bool = False

    @property
    def learning_rate(self) -> float:
        """Highest learning rate of the branch."""
        return self.settings.learning_rate

    def to_json(self) -> dict[str, Any]:
        """Plain values for the curve file."""
        return {
            "learning_rate": self.learning_rate,
            "ended": self.ended,
            "keeps_utility": self.keeps_utility,
            "chosen": self.chosen,
            "looks": [look.record for look in self.looks],
        }


def branch_settings(settings: TrainingSettings, rates: Sequence[float]) -> list[TrainingSettings]:
    """Settings of each branch; the learning rate alone differs.

    Raises:
        InputError: If a rate is given twice, or does not fit the other settings.
    """
    if len(set(rates)) < len(rates):
        raise InputError("the same learning rate is given twice")
    try:
        return [
            TrainingSettings.model_validate({**settings.model_dump(), "learning_rate": rate})
            for rate in rates
        ] or [settings]
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(f"--learning-rate: {said}") from None


def repair(
    suspect: DualEncoder,
    clean_pairs: PairDataset,
    inputs: PairInputs,
    settings: Sequence[TrainingSettings],
    *,
    seed: int,
    meter: RepairMeter | None,
    work: Path,
    name: str | None = None,
    trackers: Sequence[str] = (),
    shown: Callable[[TrainingSettings], OnStep] | None = None,
    progress: ProgressFor | None = None,
) -> tuple[list[Branch], TrainingResult | None]:
    """Fine-tune a suspect with each of some settings, and choose.

    Args:
        suspect: The suspect; unchanged.
        clean_pairs: Pairs known to be clean, without those held out.
        inputs: Prepared inputs that hold them.
        settings: Of each branch.
        seed: Seed of the run.
        meter: Measures on held-out pairs; without one, the utility is not guarded and only one branch is possible.
        work: Folder for states, logs and looks; a repair that was stopped goes on from there.
        name: Name of the repaired encoder.
        trackers: As in `LogOptions`.
        shown: Gives a callback that shows the steps of a branch.
        progress: As in `finetune`.

    Returns:
        The branches, and the result of the chosen one; None where all lost too much utility.

    Raises:
        InputError: If a pair is marked as poisoned, or what `finetune` refuses.
        DivergedError: If every branch diverged.
    """
    branches: list[Branch] = []
    best: Branch | None = None
    for chosen in settings:
        folder = branch_folder(work, chosen, settings)
        watch = None
        if meter is not None:
            plan = Plan(len(clean_pairs), chosen, seed, process_count())
            watch = RepairWatch(meter, plan.steps_per_epoch, folder / LOOKS_FILE)
        branch = Branch(chosen, None)
        branches.append(branch)
        try:
            result = CleanFinetune(chosen).apply(
                suspect,
                clean_pairs,
                inputs,
                seed=seed,
                name=name,
                on_step=chain_callbacks(shown(chosen) if shown else None, watch),
                checkpoints=Checkpoints(folder),
                log=LogOptions(folder, tuple(trackers)),
                progress=progress,
            )
        except DivergedError as error:
            if len(settings) == 1:
                raise
            branch.ended, branch.keeps_utility = f"diverged: {error}", False
            continue
        branch.result = result
        if watch is not None and meter is not None:
            branch.looks = watch.finish()
            branch.ended = watch.stopped or branch.ended
            branch.keeps_utility = branch.looks[-1].loss <= meter.rule.max_utility_loss
        # only the best model is kept in memory
        if branch.keeps_utility and (best is None or _merit(branch) > _merit(best)):
            best, before = branch, best
            if before is not None:
                before.result = None
        else:
            branch.result = None
    if best is None:
        if all(branch.ended.startswith("diverged") for branch in branches):
            raise DivergedError(branches[0].ended)
        return branches, None
    best.chosen = True
    return branches, best.result


def branch_folder(
    work: Path, chosen: TrainingSettings, settings: Sequence[TrainingSettings]
) -> Path:
    """Where a branch keeps its states and logs: the work folder itself where there is only one."""
    return work if len(settings) == 1 else work / f"learning-rate-{chosen.learning_rate:g}"


def refusal(branches: Sequence[Branch], meter: RepairMeter, work: Path) -> ResultError:
    """Why nothing is handed over; `work` holds what is left of it."""
    lost = "; ".join(
        f"at learning rate {branch.learning_rate:g} "
        + (f"{branch.looks[-1].loss:.3f}" if branch.looks else "it diverged")
        for branch in branches
    )
    return ResultError(
        f"no model is handed over: all lost more than {meter.rule.max_utility_loss:g} of their Hit@{meter.k} on "
        f"{len(meter.held_out.gallery)} held-out images ({lost}): lower the learning rate, or allow more with "
        f"--max-utility-loss, which goes on from {work}"
    )


def _merit(branch: Branch) -> tuple[float, ...]:
    """The larger, the better; needs no goal, and takes known ones where they are given."""
    goals = branch.looks[-1].record.get("canary_goals", {}) if branch.looks else {}
    if goals:
        found = [value for row in goals.values() for key, value in row.items() if "hit@" in key]
        return (-sum(found) / len(found), -branch.looks[-1].loss)
    return (branch.learning_rate,)
