"""The repair of a suspect on a data set: hold out, fine-tune, look, choose, and hand over or refuse."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpoison.base.files import refuse_occupied, write_json
from mmpoison.base.processes import is_main_process
from mmpoison.defenses.repairs.clean_finetune import refuse_poisoned
from mmpoison.defenses.repairs.repair import (
    CHOSEN_BY_CANARY,
    CHOSEN_BY_RATE,
    LOOKS_FILE,
    Branch,
    refusal,
    repair,
)
from mmpoison.defenses.repairs.repair_watch import RepairMeter, RepairRule, hold_out
from mmpoison.defenses.scans.canary import Rise
from mmpoison.errors import InputError
from mmpoison.evaluation.goal_target import GoalTarget
from mmpoison.evaluation.test_set import TestSet
from mmpoison.models.checkpoint import save_checkpoint
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import prepare_pixels
from mmpoison.pairs.table import PairDataset
from mmpoison.reporting.repair import write_repair_figures
from mmpoison.runs.cards import model_card
from mmpoison.runs.progress import RunProgress
from mmpoison.training.log import LogOptions
from mmpoison.training.loop import TrainingResult
from mmpoison.training.settings import TrainingSettings
from mmpoison.training.states import copy_logs

CURVE = "sterilize-curve"
SHOWN = 3


@dataclass(frozen=True)
class Sterilized:
    """What a repair gave.

    Attributes:
        out: The new checkpoint.
        branches: The learning rates.
        curve: The content of `sterilize-curve.json`; None where nothing was held out.
        notes: What a user should know besides.
    """

    out: Path
    branches: list[Branch]
    curve: dict[str, Any] | None
    notes: tuple[str, ...]
    result: TrainingResult

    def let_go(self) -> list[str]:
        """What the chosen model no longer finds and the suspect did, a line each; poison is likely among it."""
        chosen = next(branch for branch in self.branches if branch.chosen)
        if not chosen.looks or "let_go" not in chosen.looks[-1].record:
            return []
        found = [str(Rise(**rise)) for rise in chosen.looks[-1].record["let_go"][:SHOWN]]
        return found or ["no kind of caption let go of any kind of image more than others did"]

    def summary(self) -> str:
        """One line: how many steps, and how fast."""
        result = self.result
        gone_on = f", went on after step {result.resumed_from}" if result.resumed_from else ""
        return f"{result.headline()}{gone_on}"


def sterilize_model(
    pairs: PairDataset,
    suspect: DualEncoder,
    out: Path,
    settings: Sequence[TrainingSettings],
    *,
    progress: RunProgress,
    split: str = "val",
    seed: int = 0,
    held_out: float = 0.2,
    rule: RepairRule | None = None,
    aims: Sequence[GoalTarget] = (),
    trackers: Sequence[str] = (),
    fresh: bool = False,
) -> Sterilized | None:
    """Repair a suspect with pairs known to be clean, and write the model that is chosen.

    Args:
        pairs: The data.
        suspect: The suspect.
        out: New folder of the checkpoint. Until it is there, states and logs are in `OUT.training` beside it; where a
            model is refused they stay, so that the same command with another rule does not train again.
        settings: Of each branch.
        progress: Reports the progress.
        split: The clean split.
        seed: Seed of everything random.
        held_out: Share of the clean images that is not trained on and decides; 0: all are trained on, nothing is
            decided.
        rule: What decides; given by the user, or None for the default where there are images enough.
        aims: Goals to show on the test part; without any it is not looked at.
        trackers: As in `LogOptions`.
        fresh: Drop what an earlier try has left.

    Returns:
        What was written; None in all processes but the first.

    Raises:
        InputError: If the input cannot be used.
        ResultError: If every branch lost too much utility, or diverged; nothing is written then.
    """
    refuse_occupied(out)
    work = work_folder(out)
    LogOptions(work, tuple(trackers)).check()
    if fresh and is_main_process():
        shutil.rmtree(work, ignore_errors=True)
    if not 0 <= held_out < 1:
        raise InputError(f"held-out share {held_out} is not between 0 and 1")
    clean = pairs.select(split=split)
    if not len(clean):
        raise InputError(f"split {split!r} has no pairs to train on")
    refuse_poisoned(clean)
    notes: list[str] = []
    held: TestSet | None = None
    train = clean
    if held_out:
        try:
            train, held = hold_out(clean, held_out, seed)
        except InputError as error:
            if rule is not None or len(settings) > 1:
                raise
            aims = ()
            notes.append(f"no utility guard and no curve: {error}")
    elif rule is not None or len(settings) > 1 or aims:
        raise InputError("without held-out pairs nothing can be guarded, chosen or shown")
    test = TestSet.of(pairs) if aims else None
    for aim in aims:
        assert test is not None
        test.check(aim)
    everything = clean if test is None else pairs.where(_either(pairs, split))
    inputs = prepare_pixels(
        suspect,
        everything,
        images=None if test is None else test.gallery,
        progress=progress.progress,
    )
    meter = None
    if held is not None and is_main_process():
        rule = rule or RepairRule()
        meter = RepairMeter(suspect, inputs, held, rule, seed=seed, test=test, aims=aims)
        if meter.note:
            notes.append(f"it does not stop by itself: {meter.note}")
    branches, result = repair(
        suspect,
        train,
        inputs,
        settings,
        seed=seed,
        meter=meter,
        work=work,
        trackers=trackers,
        shown=lambda one: progress.training(
            "sterilizing" + (f" at {one.learning_rate:g}" if len(settings) > 1 else "")
        ),
        progress=progress.progress,
    )
    if not is_main_process():
        return None
    curve = None if meter is None else _curve(meter, branches)
    if curve is not None:
        notes += _write_curve(work, curve)
    if result is None:
        assert meter is not None
        raise refusal(branches, meter, work)
    chosen = next(branch for branch in branches if branch.chosen)
    encoder = result.encoder
    card = model_card(
        encoder,
        "sterilized",
        started_from=suspect.name,
        data=clean,
        settings=chosen.settings,
        result=result,
        facts=_facts(chosen, meter),
    )
    save_checkpoint(
        encoder,
        out,
        card=card,
        metadata={"training": result.summary(), "seed": seed, "poisoned": False},
        also=lambda folder: _write_more(folder, work, curve),
    )
    shutil.rmtree(work, ignore_errors=True)
    return Sterilized(out, branches, curve, tuple(notes), result)


def work_folder(out: Path) -> Path:
    """Where states and logs are until the model is there: beside its folder, which appears whole or not at all."""
    return out.with_name(f"{out.name}.training")


def _either(pairs: PairDataset, split: str) -> Any:
    return pairs.in_split(split) | (pairs.in_split("test") & ~pairs.poisoned)


def _curve(meter: RepairMeter, branches: Sequence[Branch]) -> dict[str, Any]:
    rule, kinds = meter.rule, meter.kinds
    return {
        "rule": {
            "choice": CHOSEN_BY_CANARY if rule.canary_goals else CHOSEN_BY_RATE,
            "max_utility_loss": rule.max_utility_loss,
            "stop": rule.stop,
            "canary_goals": [str(goal) for goal in rule.canary_goals],
        },
        "held_out": {
            "images": len(meter.held_out.gallery),
            "pairs": len(meter.held_out.pairs),
            "hit_at": meter.k,
        },
        "kinds": None if kinds is None else kinds.of,
        "branches": [branch.to_json() for branch in branches],
    }


def _write_curve(folder: Path, curve: dict[str, Any]) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{CURVE}.json", curve)
    try:
        write_repair_figures(folder / CURVE, curve)
    except InputError as error:
        return [f"no figure: {error}"]
    return []


def _facts(chosen: Branch, meter: RepairMeter | None) -> tuple[str, ...]:
    if meter is None:
        return ()
    return (
        f"utility lost on {len(meter.held_out.gallery)} held-out images: {chosen.looks[-1].loss:.3f} of Hit@{meter.k}",
        f"ended: {chosen.ended}",
    )


def _write_more(folder: Path, work: Path, curve: dict[str, Any] | None) -> None:
    """Put the curve and the logs into the folder of the model before it appears."""
    if curve is not None:
        _write_curve(folder, curve)
    copy_logs(work, folder / "logs", without=(LOOKS_FILE, f"{CURVE}.*"))
