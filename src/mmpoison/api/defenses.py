"""`scan`, `check` and `sterilize`: look for poison in pairs or in a model, and repair a model.

Scanning precomputed embeddings needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mmpoison.api.inputs import as_encoder, as_list, as_pairs, training_settings
from mmpoison.api.progress import shown
from mmpoison.base.files import refuse_address, refuse_occupied
from mmpoison.base.registry import checked
from mmpoison.datasets.catalogue import NamedData
from mmpoison.errors import InputError

if TYPE_CHECKING:
    from mmpoison.api.inputs import Pairs
    from mmpoison.base.progress import RunProgress
    from mmpoison.datasets.catalogue import NamedData
    from mmpoison.defenses.scan.cut.judging import Trusted
    from mmpoison.defenses.scan.cut.score_filter import ScoreFilter
    from mmpoison.models.dual_encoder import DualEncoder
    from mmpoison.pairs.folder import ImagePolicy
    from mmpoison.pairs.table import PairDataset
    from mmpoison.reporting.scan_result import ScanResult
    from mmpoison.runs.check_model import CheckedModel
    from mmpoison.runs.sterilize_model import Sterilized
    from mmpoison.training.settings import TrainingSettings


@checked
def scan(
    source: str | Path | NamedData | PairDataset,
    *,
    out: str | Path,
    method: str | ScoreFilter = "suspicious-groups",
    kept: str | Path | None = None,
    images: ImagePolicy = "link",
    planted: bool = True,
    threshold: float | None = None,
    lose: float | None = None,
    labels: str | Path | None = None,
    false_alarms: float | None = None,
    encoder: str | Path | DualEncoder | None = None,
    trusted: Trusted = "val",
    force: bool = False,
    seed: int = 0,
    format: str | None = None,
    options: Mapping[str, Any] | None = None,
    workers: int = 1,
    ray: str | None = None,
    device: str = "auto",
    progress: bool | RunProgress = True,
    **parameters: Any,
) -> ScanResult:
    """Look for signs of poisoning in image-caption pairs, and list the pairs to drop.

    Args:
        source: Precomputed embeddings (clip-retrieval, DataComp, two `.npy` files, Parquet with
            list columns), also in an object store (`s3://...`); or pairs in any format, the name of
            a data set, or pairs in memory, which are embedded first. `NamedData` contains its own
            format and options.
        out: New folder for `drop.parquet` and `drop.csv`, `scores.parquet`, the list of kept pairs
            (`keep.npy` for uids, `keep/` for keys), `groups.json`, `scan.json` and `scan.html`.
        method: A registered pre-training defence (see `mmpoison defenses`), or a filter object.
        kept: New folder for the remaining pairs as a data set with images; not for precomputed embeddings.
        images: With `kept`: hard links (`link`), copies (`copy`), or the table alone (`none`).
        planted: Plant test goals in a copy of some pairs, to measure which goals the scan would find.
        threshold: Drop pairs with a larger score.
        lose: Acceptable loss, as a share of the clean pairs, measured on the split `val` if there
            is one and the method can use it. Otherwise this share of all pairs is dropped, those in
            likely groups first.
        labels: A CSV of verdicts, with the columns pair and verdict.
        false_alarms: Acceptable share of clean data sets with an alarm, for a method that finds
            groups; 0.01 by default.
        encoder: The model that embeds pairs; `efficientnet-minilm` by default. Precomputed
            embeddings need none.
        trusted: Pairs to measure `lose` on: split `val`, or `none` for the judged pairs.
        force: Use a model even if it cannot distinguish true from shuffled pairs. Otherwise a
            method that compares captions with images refuses it.
        seed: Seed for all random choices.
        format: Name of the format, if it is not recognised.
        options: Options of the format.
        workers: Number of processes, each with one shard at a time. The result does not depend on
            it.
        ray: Address of a Ray cluster whose workers scan the shards, or `local`.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.
        progress: False shows no progress; by default bars are shown on a terminal and in a notebook.
        **parameters: Parameters of the method.

    Returns:
        The verdict and everything the page shows, with `to_pandas()`. `failed` lists unreadable shards.

    Raises:
        InputError: If there is nothing to read, an option is out of range, or every pair would be
            dropped.
        ResultError: If the method compares captions with images, and the model cannot distinguish
            true from shuffled pairs.

    Example:
        ```python
        found = mmpoison.scan("laion/embeddings", out="scan", workers=8)
        print(found)  # a notebook shows the groups with pictures
        drop = found.to_pandas()
        ```
    """
    from mmpoison.datasets.catalogue import NamedData
    from mmpoison.defenses.scan.cut.labels import read_labels
    from mmpoison.defenses.scan.cut.score_filter import build_filter
    from mmpoison.defenses.scan.scan import PASSES, ScanSettings, scan_embedded
    from mmpoison.defenses.scan.sources import open_source
    from mmpoison.defenses.scan.write.files import KEPT_MARK, KeptFolder
    from mmpoison.reporting.scan_result import ScanResult

    cut = {
        "threshold": threshold,
        "clean_loss": lose,
        "labels": labels,
        "false_alarms": false_alarms,
    }
    given = {**parameters, **{name: value for name, value in cut.items() if value is not None}}
    chosen = build_filter(method, given) if isinstance(method, str) else method
    if given and chosen is method:
        raise InputError("the method is an object: set its parameters on the object")
    refuse_address(out)
    target = Path(out)
    refuse_occupied(target)
    if kept is not None and not (work_folder(target) / PASSES / KEPT_MARK).is_file():
        refuse_occupied(Path(kept))  # otherwise this scan wrote part of it and was killed
    if chosen.cut.labels is not None:
        read_labels(chosen.cut.labels)  # fail before loading the data
    work = work_folder(target)
    if isinstance(source, str | Path):
        source = NamedData(str(source), None, format, options or {})
    with shown(progress) as reporter:
        opened = open_source(
            source,
            work,
            chosen,
            encoder=encoder,
            trusted=trusted == "val",
            device=device,
            progress=reporter,
        )
        judged = scan_embedded(
            opened,
            target,
            work,
            ScanSettings(chosen, planted, force, seed),
            workers=workers,
            threads=1,
            ray=ray,
            progress=reporter,
            kept=None if kept is None else KeptFolder(Path(kept), images),
        )
    assert judged.scan is not None
    return ScanResult.made(judged.scan, target)


def work_folder(out: Path) -> Path:
    """Return the folder with a scan's unfinished work, from which the scan resumes."""
    return out.with_name(f"{out.name}.scanning")


@checked
def sterilize(
    model: DualEncoder | str | Path,
    pairs: Pairs,
    *,
    out: str | Path | None = None,
    split: str = "val",
    seed: int = 0,
    method: str = "clean-finetune",
    settings: TrainingSettings | None = None,
    learning_rate: float | Sequence[float] | None = None,
    held_out: float = 0.2,
    max_utility_loss: float | None = None,
    reference: DualEncoder | str | Path | None = None,
    canary_goal: str | Sequence[str] = (),
    evaluate_every: int | None = None,
    unlearn: str | Path | Sequence[str | Path] = (),
    goal: str | Sequence[str] = (),
    track: Sequence[str] = (),
    fresh: bool = False,
    device: str = "auto",
    progress: bool | RunProgress = True,
    **changes: Any,
) -> Sterilized:
    """Repair a suspect model with known clean pairs.

    Args:
        model: The suspect: an encoder, or what `load_encoder` takes.
        pairs: The data set, or its name or path.
        out: New folder for the checkpoint and the curve of the repair.
        split: Clean split to train on.
        seed: Seed for all random choices.
        method: Repair (see `mmpoison defenses`).
        settings: Training settings; the paper's by default.
        learning_rate: One or several; the best model by the rule is chosen. By default, if the
            settings have none, 1e-3, 1e-4 and 1e-5 are tried in turn until one keeps the utility.
        held_out: Share of the clean images that judge the repair and are not trained on; 0: train
            on all, judge nothing.
        max_utility_loss: Refuse a model that lost more Hit@K on the held-out images; 0.02 by
            default.
        reference: Clean model that the suspect was trained from, to check the model before and
            after the repair (`checks`).
        canary_goal: Known goal of the suspect. The learning rate that leaves least of it is chosen.
        evaluate_every: Also evaluate after every N steps.
        unlearn: Results of `scan` or `check --trace` on `split`, if the suspect was trained on it.
            The repair leaves out the pairs that they drop, and pushes pairs in groups called
            poisoning apart.
        goal: `A2B` to measure on the test part; the goals of the manifest by default.
        track: With `out`: also log to `tensorboard`, `mlflow` or `wandb`.
        fresh: With `out`: start from the beginning instead of resuming.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.
        progress: False shows no progress; by default bars are shown on a terminal and in a notebook.
        **changes: Single settings, for example `epochs=1`, and parameters of `method`.

    Returns:
        The repaired model (`result.encoder`) and a record of the repair. Without `out`, nothing is
        written. Of several processes, only the first judges and saves.

    Raises:
        InputError: If the input cannot be used, or a clean pair is poisoned.
        ResultError: If every branch loses too much utility or diverges.

    Example:
        ```python
        done = mmpoison.sterilize(encoder, pairs, reference="openmoji-small", epochs=1)
        done.checks["after"].flagged
        ```
    """
    from mmpoison.attacks.settings import Goal
    from mmpoison.defenses.catalogue import split_options
    from mmpoison.defenses.repairs.repair_meter import RepairRule
    from mmpoison.evaluation.test_set import GoalTarget, goal_targets_of
    from mmpoison.runs.sterilize_model import sterilize_model

    rates = [learning_rate] if isinstance(learning_rate, int | float) else learning_rate or ()
    options, changes = split_options("post-training", method, changes)
    chosen = training_settings(settings, changes) if settings or changes else None
    if rates and chosen is not None and "learning_rate" in chosen.model_fields_set:
        raise InputError(
            "learning rate given twice, as learning_rate and in settings: give only one"
        )
    data = as_pairs(pairs)
    rule = None
    canaries = as_list(canary_goal)
    if max_utility_loss is not None or canaries or evaluate_every is not None:
        rule = RepairRule(
            RepairRule.max_utility_loss if max_utility_loss is None else max_utility_loss,
            tuple(Goal.parse(text, data.classes) for text in canaries),
            evaluate_every,
        )
    goal_targets = [GoalTarget(Goal.parse(text, data.classes)) for text in as_list(goal)]
    if held_out and data.manifest is not None and data.select(split="test", poisoned=False):
        goal_targets = goal_targets or list(goal_targets_of(data.manifest, data))
    suspect = as_encoder(model, device=device)
    start = None if reference is None else as_encoder(reference, device=device)
    with shown(progress) as reporter, TemporaryDirectory() as scratch:
        return sterilize_model(
            data,
            suspect,
            Path(scratch) / "sterilized" if out is None else Path(out),
            chosen,
            method=method,
            options=options,
            learning_rates=list(rates),
            reference=start,
            progress=reporter,
            split=split,
            seed=seed,
            held_out=held_out,
            rule=rule,
            unlearn=[Path(result) for result in as_list(unlearn)],
            goal_targets=goal_targets,
            trackers=track,
            fresh=fresh,
        )


@checked
def check(
    model: DualEncoder | str | Path,
    pairs: Pairs,
    *,
    reference: DualEncoder | str | Path | None = None,
    method: str = "rank-gain",
    clean: Sequence[str | Path] = (),
    clean_runs: int = 0,
    settings: TrainingSettings | None = None,
    false_alarms: float = 0.01,
    seed: int = 0,
    out: str | Path | None = None,
    trace: str | Path | None = None,
    kept: str | Path | None = None,
    device: str = "auto",
    progress: bool | RunProgress = True,
    **changes: Any,
) -> CheckedModel:
    """Check whether a model is poisoned, without knowing the goal.

    Args:
        model: The suspect: an encoder, or what `load_encoder` takes.
        pairs: A clean data set, or its name or path; its test part is used for measurements.
        reference: Clean model that the suspect was trained from; the check rank-gain needs it.
        method: Check (see `mmpoison defenses`).
        clean: Clean fine-tunes of the reference, to compare with; give at least two.
        clean_runs: Train this many clean fine-tunes on split `val`.
        settings: Training settings of these fine-tunes. Match the suspect's settings closely.
        false_alarms: Acceptable share of clean models that are flagged.
        seed: Seed for all random choices.
        out: Folder for `model-check.json` and the clean fine-tunes, which a second check reuses.
        trace: New folder for a scan result with the training pairs of the data that the suspect has
            learned and the reference has not. The best reference was trained in the same way, on
            the pairs that a scan keeps.
        kept: With `trace`: new folder for the pairs that the trace keeps, as a data set with
            images. It includes pairs that the scan for the reference dropped.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.
        progress: False shows no progress; by default bars are shown on a terminal and in a notebook.
        **changes: Single settings of the clean fine-tunes, for example `epochs=2`, and parameters
            of `method`.

    Returns:
        The findings. `flagged` lists those that fewer than `false_alarms` of clean models show.

    Raises:
        InputError: If the data have no test part or too few classes, the models do not match, or an
            argument that another needs is missing.

    Example:
        ```python
        found = mmpoison.check(encoder, pairs, reference="openmoji-small", clean_runs=3, epochs=2)
        found.flagged
        ```
    """
    from mmpoison.defenses.catalogue import split_options
    from mmpoison.runs.check_model import check_model

    options, changes = split_options("check", method, changes, clean_runs)
    if kept is not None and trace is None:
        raise InputError(
            "kept (--kept) holds the pairs that a trace keeps: give trace (--trace) too"
        )
    if trace is not None and reference is None:
        raise InputError(
            "trace (--trace) needs reference (--reference): a model trained like the suspect, on the pairs that a "
            "scan keeps"
        )
    for place in (trace, kept):
        if place is not None:
            refuse_occupied(Path(place))
    if settings is not None and not clean_runs:
        raise InputError("training settings need clean fine-tunes: give their number, clean_runs")
    chosen = training_settings(settings, changes)
    data = as_pairs(pairs)
    suspect = as_encoder(model, device=device)
    before = None if reference is None else as_encoder(reference, device=device)
    with shown(progress) as reporter, TemporaryDirectory() as scratch:
        # clean fine-tunes always need a folder
        folder = Path(scratch) / "check" if out is None and clean_runs else out
        found = check_model(
            data,
            suspect,
            before,
            clean=[str(one) for one in clean],
            clean_runs=clean_runs,
            settings=chosen,
            out=None if folder is None else Path(folder),
            seed=seed,
            false_alarms=false_alarms,
            method=method,
            options=options,
            progress=reporter,
        )
        if trace is None:
            return found
        assert before is not None
        # scan a path as a path, so that the lists refer to its rows
        source = NamedData(str(pairs)) if isinstance(pairs, str | Path) else pairs
        if not isinstance(source, NamedData) or not Path(source.data).exists():
            source = data
        return replace(found, traced=_traced(source, suspect, before, trace, kept, seed, reporter))


def _traced(
    pairs: PairDataset | NamedData,
    suspect: DualEncoder,
    reference: DualEncoder,
    out: str | Path,
    kept: str | Path | None,
    seed: int,
    progress: RunProgress,
) -> ScanResult:
    """Find training pairs that the suspect has learned and the reference has not."""
    from mmpoison.defenses.scan.cut.trace import Trace
    from mmpoison.defenses.scan.read.embed import embed_source
    from mmpoison.defenses.scan.read.pass_runner import join_shards
    from mmpoison.defenses.scan.read.pieces import PairPieces
    from mmpoison.defenses.scan.read.vectors import images_at_once

    # same pieces as the scan, hence the same order
    pieces = PairPieces(pairs, images_at_once=images_at_once(suspect.image_size))
    with TemporaryDirectory() as folder:
        made = embed_source(
            *(pieces, suspect.name, suspect, Path(folder) / "suspect"),
            split="train",
            joint=True,
            progress=progress,
        )
        if made is None:
            raise InputError(f"{pieces.name}: has no training pairs (split 'train') to trace")
        method = Trace(join_shards(made.source.shards))
    return scan(
        pairs,
        out=out,
        method=method,
        kept=kept,
        planted=False,
        encoder=reference,
        seed=seed,
        progress=progress,
    )
