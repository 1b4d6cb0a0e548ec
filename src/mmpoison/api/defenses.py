"""`filter`, `sterilize` and `scan`: defend before and after training, and ask whether a model is poisoned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmpoison.api.inputs import Pairs, as_encoder, as_list, as_pairs, training_settings
from mmpoison.api.progress import shown
from mmpoison.attacks.goal import Goal
from mmpoison.defenses.catalogue import build_filter
from mmpoison.defenses.filters.filtered_folder import save_filtered
from mmpoison.defenses.filters.relevance_filter import FilterResult
from mmpoison.defenses.repairs.repair import branch_settings
from mmpoison.defenses.repairs.repair_watch import RepairRule
from mmpoison.defenses.scans.model_scan import ModelScan
from mmpoison.errors import InputError
from mmpoison.evaluation.goal_target import GoalTarget, goal_targets_of
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import prepare_pixels
from mmpoison.pairs.folder import ImagePolicy
from mmpoison.runs.progress import Monitor
from mmpoison.runs.scan_model import scan_model
from mmpoison.runs.sterilize_model import Sterilized, sterilize_model
from mmpoison.training.settings import TrainingSettings

MAX_UTILITY_LOSS = 0.02


def filter(
    pairs: Pairs,
    encoder: DualEncoder | str | Path,
    *,
    method: str = "relevance-filter",
    trusted: str | None = "val",
    seed: int = 0,
    out: str | Path | None = None,
    images: ImagePolicy = "link",
    device: str = "auto",
    trust: bool = False,
    progress: bool | Monitor = True,
    **options: Any,
) -> FilterResult:
    """Drop suspicious training pairs, before anything is trained on them.

    Args:
        pairs: The data set, or its name or path; its training pairs are judged.
        encoder: The judge, another model than the one to train: an encoder, or what `load_encoder` takes.
        method: A registered defence before training (`mmpoison defenses` shows them).
        trusted: The split of clean pairs on which `clean_loss` is measured; None: on the judged pairs.
        seed: Seed of everything random.
        out: New folder for the pairs that stay, with `verdicts.jsonl`.
        images: With `out`: hard links (`link`), copies (`copy`), or the table alone (`none`).
        device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`.
        trust: As for `load_encoder`.
        progress: False shows no progress; by default bars are shown on a terminal and in a notebook.
        **options: Options of the method, for example `clean_loss=0.02`, `threshold=0.8` or `automatic=True` of
            `relevance-filter`, `false_alarms=0.01` of `suspicious-groups`.

    Returns:
        The training pairs that stay (`kept`), and the verdict on each.

    Raises:
        InputError: If the method has no such option, an image cannot be read, or nothing would be left.

    Example:
        ```python
        result = mmpoison.filter(poisoned, "openmoji-mini", clean_loss=0.02)
        cleaned = mmpoison.finetune("openmoji-small", result.kept)
        ```
    """
    defense = build_filter(method, options)
    data = as_pairs(pairs)
    judged = data.in_split("train")
    clean = None
    if trusted is not None and "clean_loss" in options and data.in_split(trusted).any():
        clean = data.select(split=trusted)
    used = judged if clean is None else judged | data.in_split(str(trusted))
    judge = as_encoder(encoder, device=device, trust=trust)
    with shown(progress) as monitor:
        inputs = prepare_pixels(judge, data.where(used), progress=monitor.progress)
        result = defense.apply(
            data.where(judged), judge, inputs, trusted=clean, seed=seed, progress=monitor.progress
        )
    if out is not None:
        save_filtered(data, judged, result, Path(out), images=images)
    return result


def sterilize(
    model: DualEncoder | str | Path,
    pairs: Pairs,
    *,
    out: str | Path | None = None,
    split: str = "val",
    seed: int = 0,
    settings: TrainingSettings | None = None,
    learning_rate: float | Sequence[float] | None = None,
    held_out: float = 0.2,
    max_utility_loss: float | None = None,
    canary_goal: str | Sequence[str] = (),
    stop: bool = True,
    evaluate_every: int | None = None,
    goal: str | Sequence[str] = (),
    track: Sequence[str] = (),
    fresh: bool = False,
    device: str = "auto",
    trust: bool = False,
    progress: bool | Monitor = True,
    **changes: Any,
) -> Sterilized:
    """Repair a suspect model by fine-tuning it on pairs that are known to be clean.

    Args:
        model: The suspect: an encoder, or what `load_encoder` takes.
        pairs: The data set, or its name or path.
        out: New folder for the checkpoint and the curve of the repair.
        split: The clean split.
        seed: Seed of everything random.
        settings: How to fine-tune; the paper's settings by default.
        learning_rate: One or several; of several the best by the stated rule is chosen.
        held_out: Share of the clean images that judge the repair and are not trained on; 0: train on all, judge
            nothing.
        max_utility_loss: Refuse a model that lost more Hit@K on these images; 0.02 by default.
        canary_goal: `A2B` that is known to be in the suspect: stop when it is gone.
        stop: Stop when the canary is quiet.
        evaluate_every: Evaluate every so many steps too.
        goal: `A2B` to measure on the test part; those of the manifest by default.
        track: With `out`: `tensorboard`, `mlflow` or `wandb`, to log to as well.
        fresh: With `out`: start anew instead of resuming.
        device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`.
        trust: As for `load_encoder`.
        progress: False shows no progress; by default bars are shown on a terminal and in a notebook.
        **changes: Single settings, for example `epochs=1`.

    Returns:
        The repaired model (`result.encoder`) and what the repair did. Its `out` does not exist if none was given.

    Raises:
        InputError: If the input cannot be used, or a clean pair is poisoned.
        ResultError: If every branch lost too much utility, or diverged.

    Example:
        ```python
        repaired = mmpoison.sterilize(encoder, pairs, epochs=1).result.encoder
        ```
    """
    rates = [learning_rate] if isinstance(learning_rate, int | float) else learning_rate or ()
    branches = branch_settings(training_settings(settings, changes), list(rates))
    data = as_pairs(pairs)
    rule = None
    canaries = as_list(canary_goal)
    if max_utility_loss is not None or canaries or evaluate_every is not None or not stop:
        rule = RepairRule(
            MAX_UTILITY_LOSS if max_utility_loss is None else max_utility_loss,
            stop,
            tuple(Goal.parse(text, data.classes) for text in canaries),
            evaluate_every,
        )
    aims = [GoalTarget(Goal.parse(text, data.classes)) for text in as_list(goal)]
    if held_out and data.manifest is not None and data.select(split="test", poisoned=False):
        aims = aims or list(goal_targets_of(data.manifest, data))
    suspect = as_encoder(model, device=device, trust=trust)
    with shown(progress) as monitor, TemporaryDirectory() as scratch:
        done = sterilize_model(
            data,
            suspect,
            Path(scratch) / "sterilized" if out is None else Path(out),
            branches,
            monitor=monitor,
            split=split,
            seed=seed,
            held_out=held_out,
            rule=rule,
            aims=aims,
            trackers=track,
            fresh=fresh,
        )
    assert done is not None, "only the first of several processes gets a result"
    return done


def scan(
    model: DualEncoder | str | Path,
    pairs: Pairs,
    *,
    reference: DualEncoder | str | Path,
    clean: Sequence[str | Path] = (),
    clean_runs: int = 0,
    settings: TrainingSettings | None = None,
    false_alarms: float = 0.01,
    seed: int = 0,
    out: str | Path | None = None,
    device: str = "auto",
    trust: bool = False,
    progress: bool | Monitor = True,
    **changes: Any,
) -> ModelScan:
    """Ask whether a model is poisoned, towards a goal that nobody knows.

    Args:
        model: The suspect: an encoder, or what `load_encoder` takes.
        pairs: A clean data set, or its name or path; its test part is measured on.
        reference: A model without poison, from which the suspect was made.
        clean: Clean fine-tunes of the reference, to compare with; two at least say most.
        clean_runs: Make so many clean fine-tunes here, on split `val`.
        settings: How to make them; the more like the suspect's training, the better.
        false_alarms: For the file: how often a clean fine-tune may be flagged.
        seed: Seed of everything random.
        out: Folder for `model-scan.json` and the clean fine-tunes, which a second scan takes from there.
        device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`.
        trust: As for `load_encoder`.
        progress: False shows no progress; by default bars are shown on a terminal and in a notebook.
        **changes: Single settings of the clean fine-tunes, for example `epochs=2`.

    Returns:
        What came nearer than usual; `flagged(0.01)` gives what clean fine-tunes would show in at most 1% of cases.

    Raises:
        InputError: If the data have no test part or too few kinds, or the models do not fit.

    Example:
        ```python
        found = mmpoison.scan(encoder, pairs, reference="openmoji-small", clean_runs=3, epochs=2)
        found.flagged(0.01)
        ```
    """
    if (settings is not None or changes) and not clean_runs:
        raise InputError("training settings are for clean fine-tunes: say how many with clean_runs")
    chosen = training_settings(settings, changes)
    data = as_pairs(pairs)
    suspect = as_encoder(model, device=device, trust=trust)
    before = as_encoder(reference, device=device, trust=trust)
    with shown(progress) as monitor, TemporaryDirectory() as scratch:
        # clean fine-tunes are written somewhere in any case
        folder = Path(scratch) / "scan" if out is None and clean_runs else out
        return scan_model(
            data,
            suspect,
            before,
            clean=[str(one) for one in clean],
            clean_runs=clean_runs,
            settings=chosen,
            out=None if folder is None else Path(folder),
            seed=seed,
            false_alarms=false_alarms,
            trust=trust,
            monitor=monitor,
        )
