"""Sterilizes suspect models: holds out clean pairs, repairs, and saves or refuses the result."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.base.files import refuse_occupied, write_json
from mmpoison.base.processes import is_main_process
from mmpoison.base.progress import RunProgress, SilentProgress
from mmpoison.base.text import count_of, decimal, one_line
from mmpoison.defenses.catalogue import Finding, defense_parameters, require_clean
from mmpoison.defenses.repairs.repair import (
    PROBES_FILE,
    Branch,
    Unlearn,
    choice,
    refusal,
    repair_branches,
    run_repair,
)
from mmpoison.defenses.repairs.repair_meter import RepairMeter, RepairRule, hold_out
from mmpoison.defenses.scan.cut.result import NO_GROUP
from mmpoison.defenses.scan.write.tables import ScoreTable
from mmpoison.errors import InputError
from mmpoison.evaluation.test_set import GoalTarget, TestSet
from mmpoison.models.checkpoint import save_checkpoint
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import prepare_pixels
from mmpoison.pairs.table import BoolArray, PairDataset
from mmpoison.records.data_scan import read_scan
from mmpoison.reporting.repair import no_loss_shown, write_repair_figures
from mmpoison.runs.cards import model_card
from mmpoison.runs.check_model import CHECK_FILE, CheckedModel, check_model
from mmpoison.training.log import LogOptions
from mmpoison.training.loop import TrainingResult
from mmpoison.training.settings import TrainingSettings
from mmpoison.training.states import copy_logs

DEFAULT_REPAIR = "clean-finetune"
CURVE = "sterilize-curve"
SHOWN = 3


@dataclass(frozen=True)
class Sterilized:
    """A saved repaired model, with the records of the repair and of the checks.

    Attributes:
        out: The new checkpoint.
        result: The result of the chosen branch, with the model.
        branches: All branches, one per learning rate.
        curve: The content of `sterilize-curve.json`; None if no pairs were held out.
        notes: Notes for the user.
        checks: The model checks `before` and `after`; empty without a reference.
        goals: Goals to measure: the known ones, else those suggested by the check or the unlearned
            groups.
        known: Whether the goals are known.
        classes: The classes of the test part, which goals can use; empty without labels.
    """

    out: Path
    result: TrainingResult
    branches: list[Branch]
    curve: dict[str, Any] | None
    notes: tuple[str, ...]
    checks: Mapping[str, CheckedModel] = field(default_factory=dict)
    goals: tuple[str, ...] = ()
    known: bool = False
    classes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Sterilized({self.result.encoder.name!r}, {self.summary()})"

    def checked(self) -> list[str]:
        """Describe the findings of the checks before and after; empty without a reference."""
        return [
            f"Model check {when}: {line}"
            for when, one in self.checks.items()
            for line in one.verdict()[:SHOWN]
        ]

    def goal_ranks(self) -> list[str]:
        """Describe the ranks of each goal before and after; empty if they were not measured."""
        chosen = next((branch for branch in self.branches if branch.chosen and branch.probes), None)
        if chosen is None:
            return []
        before, after = (probe.test.goal for probe in (chosen.probes[0], chosen.probes[-1]))
        return [
            f"{goal} on the test part: MinRank {decimal(row.min_rank, 1)} before, "
            f"{decimal(after[goal].min_rank, 1)} after (0: a target image comes first); Hit@10 "
            f"{decimal(row.hit_10)} before, {decimal(after[goal].hit_10)} after"
            for goal, row in before.items()
        ]

    def to_pandas(self) -> Any:
        """Return the measurements as a `pandas.DataFrame`, a row per learning rate and step."""
        import pandas  # importing it takes half a second

        rows = [
            {"learning_rate": one.learning_rate, "chosen": one.chosen, **probe.to_json()}
            for one in self.branches
            for probe in one.probes
        ]
        return pandas.json_normalize(rows)

    def summary(self) -> str:
        """Return the number of steps and the speed in one line."""
        result = self.result
        resumed = f", resumed after step {result.resumed_from}" if result.resumed_from else ""
        return f"{result.headline()}{resumed}"


def sterilize_model(
    pairs: PairDataset,
    suspect: DualEncoder,
    out: Path,
    settings: TrainingSettings | None = None,
    *,
    method: str = DEFAULT_REPAIR,
    options: Mapping[str, Any] | None = None,
    learning_rates: Sequence[float] = (),
    reference: DualEncoder | None = None,
    progress: RunProgress | None = None,
    split: str = "val",
    seed: int = 0,
    held_out: float = 0.2,
    rule: RepairRule | None = None,
    unlearn: Sequence[Path] = (),
    goal_targets: Sequence[GoalTarget] = (),
    trackers: Sequence[str] = (),
    fresh: bool = False,
) -> Sterilized:
    """Repair a suspect with known clean pairs, and save the chosen model.

    Args:
        pairs: The data.
        suspect: The suspect.
        out: New folder for the checkpoint. Until it exists, states and logs are in `OUT.training`
            next to it. They stay if the model is refused, so that the same command with another
            rule need not train again.
        settings: Training settings, for a repair that takes settings; the paper's by default.
        method: A registered repair.
        options: Options of the repair.
        learning_rates: Rates to try; the best model by the rule is saved. If neither this nor the
            settings give a rate and images are held out, `LEARNING_RATES` are tried in turn until
            one keeps the utility.
        reference: The clean model that the suspect was fine-tuned from. `check_model` compares the
            model with it before and after the repair.
        progress: Reports progress.
        split: The clean split.
        seed: Seed for all random choices.
        held_out: Share of the clean images that judge the repair instead of training it. With 0,
            all images are trained on, and nothing is judged.
        rule: The rule that accepts or refuses a model. None applies the default rule, if there are
            enough images to hold out.
        unlearn: Results of scans or traces of the split. Pairs that they drop are not taken as
            clean; pairs in groups called poisoning are pushed apart (`Unlearn`).
        goal_targets: Goals to measure on the test part; without any it is not measured.
        trackers: As in `LogOptions`.
        fresh: Delete the files of an earlier attempt.

    Returns:
        The saved model and its records. Of several processes, only the first judges and saves.

    Raises:
        InputError: If the input cannot be used.
        ResultError: If every branch lost too much utility or diverged. Nothing is saved then.
    """
    progress = progress or SilentProgress()
    refuse_occupied(out)
    work = work_folder(out)
    LogOptions(work, tuple(trackers)).check()
    if fresh and is_main_process():
        shutil.rmtree(work, ignore_errors=True)
    if "settings" in defense_parameters("post-training", method):
        settings = settings or TrainingSettings()
    given = pairs.select(split=split)
    if not len(given):
        raise InputError(f"split {split!r} has no pairs to train on")
    listed = _listed(given, unlearn, method)
    clean = given if listed is None else given.where(~listed.drop)
    judged = rule is not None or len(learning_rates) > 1
    if not held_out and (judged or goal_targets):
        raise InputError("max_utility_loss, several rates and goals need held-out pairs")
    known = [str(goal) for goal in (*goal_targets, *(rule.canary_goals if rule else ()))]
    train, held, notes = _hold_out(clean, held_out, seed, needed=judged)
    if held is None:
        goal_targets = ()
    branches = repair_branches(
        method, options or {}, settings, learning_rates, several=held is not None
    )
    if listed is not None:
        train = _unlearning(branches, given, listed, held)
    test = _test_set(pairs, goal_targets)
    in_test = pairs.in_split("test") & ~pairs.poisoned
    checks: dict[str, CheckedModel] = {}

    def check(when: str, encoder: DualEncoder) -> None:
        if reference is not None and is_main_process():
            checks[when] = check_model(pairs, encoder, reference, seed=seed, progress=progress)

    check("before", suspect)
    inputs = prepare_pixels(
        suspect,
        given if test is None else pairs.where(pairs.in_split(split) | in_test),
        images=None if test is None else test.gallery,
        progress=progress.progress,
    )
    meter = None
    if held is not None and is_main_process():
        rule = rule or RepairRule()
        meter = RepairMeter(suspect, inputs, held, rule, test=test, goal_targets=goal_targets)
    result = run_repair(
        suspect,
        train,
        inputs,
        branches,
        seed=seed,
        meter=meter,
        work=work,
        trackers=trackers,
        shown=lambda branch: progress.training(
            "sterilizing" + (f" at {branch.label}" if len(branches) > 1 else "")
        ),
        progress=progress.progress,
        first=not (learning_rates or (rule and rule.canary_goals)),
    )
    if not is_main_process():
        assert result is not None, "without a meter no branch is refused"
        return Sterilized(out, result, branches, None, tuple(notes))
    curve = None if meter is None else _curve(meter, branches)
    if curve is not None:
        notes += [*filter(None, [no_loss_shown(curve)]), *_write_curve(work, curve)]
    if result is None:
        assert meter is not None
        raise refusal(branches, meter, work)
    chosen = next(branch for branch in branches if branch.chosen)
    check("after", result.encoder)
    done = Sterilized(
        out,
        result,
        branches,
        curve,
        tuple(notes),
        checks,
        **_goals(pairs, known, checks, unlearn),
    )

    def add_curve_and_logs(folder: Path) -> None:
        if curve is not None:
            _write_curve(folder, curve)
        if checks:
            write_json(folder / CHECK_FILE, {when: one.to_json() for when, one in checks.items()})
        copy_logs(work, folder / "logs", without=(PROBES_FILE, f"{CURVE}.*"))

    card = model_card(
        result.encoder,
        "sterilized",
        started_from=suspect.name,
        data=clean,
        settings=chosen.settings,
        result=result,
        facts=(*_facts(method, chosen, curve, listed), *done.checked()),
    )
    save_checkpoint(
        result.encoder,
        out,
        card=card,
        # the suspect's own training stays in its record
        metadata={"training": result.summary(), "seed": seed},
        # before the folder appears, so that a kill cannot separate the logs from their model
        also=add_curve_and_logs,
    )
    shutil.rmtree(work, ignore_errors=True)
    return done


def _goals(
    pairs: PairDataset,
    known: Sequence[str],
    checks: Mapping[str, CheckedModel],
    unlearn: Sequence[Path],
) -> dict[str, Any]:
    """Choose the goals of `Sterilized`: the known ones, else those suggested by the findings."""
    test = pairs.select(split="test", poisoned=False)
    codes = np.unique(pairs.images.class_codes[test.image])
    classes = tuple(pairs.classes[code] for code in codes if code >= 0)
    goals = [*known] or list(pairs.manifest.goals if pairs.manifest else ())
    if not classes or goals:
        return {"goals": tuple(dict.fromkeys(goals)), "known": True, "classes": classes}
    found: list[tuple[list[str], list[str]]] = [
        ([row["captions"]], [row["images"]])
        for one in _flagged_or_strongest(checks.get("before"))
        if "captions" in (row := one.to_json())
    ]
    found += [
        (group.captions_about, group.images_about)
        for result in unlearn
        for group in read_scan(result).groups
        if group.grade == "poisoning likely"
    ]
    for words in found:
        original, target = (next((w for w in side if w in classes), None) for side in words)
        if original and target and original != target:
            goals.append(f"{original}2{target}")
    return {"goals": tuple(dict.fromkeys(goals)), "classes": classes}


def _flagged_or_strongest(before: CheckedModel | None) -> Sequence[Finding]:
    return () if before is None else before.flagged or before.result.findings[:1]


def _test_set(pairs: PairDataset, goal_targets: Sequence[GoalTarget]) -> TestSet | None:
    """Return the test part, or None without goals; refuse goals that it cannot measure."""
    test = TestSet.of(pairs) if goal_targets else None
    for goal_target in goal_targets:
        assert test is not None
        test.check(goal_target)
    return test


@dataclass(frozen=True)
class ListedPairs:
    """The combined results of scans on `N` pairs.

    Attributes:
        drop: Mask of the dropped pairs, shape `(N,)`.
        group: Index of each dropped pair's group if the group is called poisoning, numbered across
            all results; `NO_GROUP` for all other pairs. Shape `(N,)`.
    """

    drop: BoolArray
    group: npt.NDArray[np.int64]


def listed_pairs(pairs: PairDataset, results: Sequence[Path]) -> ListedPairs:
    """Combine the results of scans: dropped pairs, and those in groups called poisoning.

    Args:
        pairs: The pairs that were scanned.
        results: Result folders of `mmpoison scan` or `check --trace`.

    Raises:
        InputError: If a folder is not such a result, a dropped pair is not among the pairs, or no
            group is called poisoning.
    """
    said = ", ".join(map(str, results))
    listed: dict[tuple[str, str], int] = {}
    first = 0
    for result in results:
        groups, table = read_scan(result).groups, ScoreTable(result)
        likely = [number for number, one in enumerate(groups) if one.grade == "poisoning likely"]
        rows = np.flatnonzero(table.drop)
        of_rows = np.where(np.isin(table.group[rows], likely), first + table.group[rows], NO_GROUP)
        for (name, caption), group in zip(table.texts(rows), of_rows.tolist(), strict=True):
            key = name.rpartition("#")[0], caption
            if listed.get(key, NO_GROUP) == NO_GROUP:  # the first result with a group counts
                listed[key] = group
        first += len(groups)
    keys = list(zip(pairs.images.ids[pairs.image].tolist(), pairs.captions.tolist(), strict=True))
    if lost := listed.keys() - set(keys):
        image, caption = min(lost)
        raise InputError(
            f"{said}: {count_of(len(lost), 'dropped pair')} not among the pairs, the first: {one_line(caption)[:60]!r} "
            f"with {image!r:.80}: give the data and the split that were scanned (--split train)"
        )
    group = np.array([listed.get(key, NO_GROUP) for key in keys])
    if (group == NO_GROUP).all():
        raise InputError(
            f"{said}: no group is called poisoning, so there is nothing to unlearn: repair without --unlearn"
        )
    return ListedPairs(np.array([key in listed for key in keys]), group)


def _listed(given: PairDataset, unlearn: Sequence[Path], method: str) -> ListedPairs | None:
    """Read the pairs to unlearn; without any, require that the given pairs are clean."""
    if not unlearn:
        require_clean(given)
        return None
    if method != DEFAULT_REPAIR:
        raise InputError(f"method {method!r}: only {DEFAULT_REPAIR} can unlearn pairs")
    return listed_pairs(given, unlearn)


def _unlearning(
    branches: Sequence[Branch], given: PairDataset, listed: ListedPairs, held: TestSet | None
) -> PairDataset:
    """Make the branches unlearn, and return their training pairs: kept pairs and group members."""
    stays = ~listed.drop
    if held is not None:
        stays &= ~np.isin(given.image, held.gallery)
    used = stays | (listed.group != NO_GROUP)
    for branch in branches:
        assert branch.settings is not None
        branch.repair = Unlearn(branch.settings, listed.group[used])
    return given.where(used)


def work_folder(out: Path) -> Path:
    """Return the folder for states and logs of a repair, next to that of the finished model."""
    return out.with_name(f"{out.name}.training")


def _hold_out(
    clean: PairDataset, share: float, seed: int, *, needed: bool
) -> tuple[PairDataset, TestSet | None, list[str]]:
    """Hold images out if there are enough; otherwise return a note with the reason."""
    if not 0 <= share < 1:
        raise InputError(f"held-out share {share} is not between 0 and 1")
    if not share:
        return clean, None, []
    try:
        return *hold_out(clean, share, seed), []
    except InputError as error:
        if needed:
            raise
        return clean, None, [f"no utility guard and no curve: {error}"]


def _curve(meter: RepairMeter, branches: Sequence[Branch]) -> dict[str, Any]:
    rule = meter.rule
    return {
        "rule": {
            "choice": choice(branches, meter),
            "max_utility_loss": rule.max_utility_loss,
            "canary_goals": [str(goal) for goal in rule.canary_goals],
        },
        "held_out": {
            "images": len(meter.held_out.gallery),
            "pairs": len(meter.held_out.pairs),
            "hit_at": meter.k,
        },
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


def _facts(
    method: str, chosen: Branch, curve: dict[str, Any] | None, listed: ListedPairs | None
) -> tuple[str, ...]:
    facts = [] if method == DEFAULT_REPAIR else [f"repair: {method}"]
    if listed is not None:
        unlearned = count_of(int((listed.group != NO_GROUP).sum()), "pair")
        facts.append(f"unlearned: {unlearned} of groups called poisoning")
    if curve is not None:
        held = curve["held_out"]
        facts.append(
            no_loss_shown(curve)
            or f"utility lost on {held['images']} held-out images: {chosen.utility_loss:.3f} of Hit@{held['hit_at']}"
        )
    return (*facts, f"ended: {chosen.ended}")
