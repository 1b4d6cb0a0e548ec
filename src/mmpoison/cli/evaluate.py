"""The verb `evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmpoison.cli.console import DeviceOption, FormatOption, console, echo, monitor
from mmpoison.cli.output import hold_output
from mmpoison.cli.scanning import scan
from mmpoison.cli.stages import DataOption, MethodSetOption, SeedOption, TrustOption
from mmpoison.errors import InputError

if TYPE_CHECKING:
    from mmpoison.evaluation.goal_target import GoalTarget
    from mmpoison.pairs.manifest import PoisonManifest
    from mmpoison.pairs.table import PairDataset


def add_commands(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(evaluate)


def evaluate(
    context: typer.Context,
    data: DataOption,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="A model's name, folder or file (`mmpoison models list` shows how)."
        ),
    ] = None,
    goal: Annotated[
        list[str] | None,
        typer.Option(
            help="A2B, e.g. sheep2aeroplane; several times for several goals. Those of the manifest by default."
        ),
    ] = None,
    target_image: Annotated[
        str | None,
        typer.Option(
            help="One test image by its path in the data: the whole target set (attack I). The manifest's by default."
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="A manifest.json (of a poisoned folder or a run) that says what to measure, if not the data's own."
        ),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="A clean model, to compare with and to measure drift from.")
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="The model before any fine-tuning, as a third baseline.")
    ] = None,
    study: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure more: queries, query-length, collateral, distribution, tsne, or all; several times."
        ),
    ] = None,
    suspect: Annotated[
        str | None,
        typer.Option(
            help="Instead of --model: is this model poisoned, towards a goal that nobody knows? Needs --reference, the "
            "model it was made from."
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--scan",
            help="With --suspect: a scan by name (`mmpoison defenses`); rank-gain unless given.",
        ),
    ] = None,
    clean: Annotated[
        list[str] | None,
        typer.Option(
            help="With --suspect: a clean fine-tune of the reference; several times, two at least."
        ),
    ] = None,
    clean_runs: Annotated[
        int,
        typer.Option(
            min=0,
            max=1000,
            help="With --suspect: make so many clean fine-tunes here, on split val.",
        ),
    ] = 0,
    changes: MethodSetOption = None,
    false_alarms: Annotated[
        float,
        typer.Option(help="With --suspect: how often a clean fine-tune may be flagged."),
    ] = 0.01,
    seed: SeedOption = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write metrics.json (--suspect: model-scan.json) here."),
    ] = None,
    form: FormatOption = "table",
    device: DeviceOption = "auto",
    trust: TrustOption = False,
) -> None:
    """Measure what captions of A retrieve, and the model's usual quality.

    Example: [bold]mmpoison evaluate --data scenes --model model --goal sheep2aeroplane[/bold]

    [bold]mmpoison evaluate --data poisoned --model model --reference clean --study all[/bold]

    [bold]mmpoison evaluate --data scenes --model model --goal sheep2aeroplane --target-image aeroplane/0101.jpg[/bold]

    Is it poisoned? [bold]mmpoison evaluate --data scenes --suspect model --reference start --clean-runs 5
    --out scan[/bold]
    """
    if suspect is not None:
        given: dict[str, object] = {
            "--model": model,
            "--goal": goal,
            "--target-image": target_image,
        }
        given |= {"--study": study, "--manifest": manifest, "--pretrained": pretrained}
        if unused := [name for name, value in given.items() if value]:
            raise InputError(f"--suspect has no use for {unused[0]}: it finds goals itself")
        scan(
            data,
            suspect,
            reference,
            method,
            clean or [],
            clean_runs,
            changes or [],
            false_alarms,
            seed=seed,
            out=out,
            form=form,
            device=device,
            trust=trust,
        )
        return
    if clean or clean_runs or changes or method:
        raise InputError("--clean, --clean-runs, --scan and --set belong to --suspect")
    if model is None:
        raise InputError("which model? --model measures one, --suspect asks whether it is poisoned")
    from mmpoison.base.devices import find_device
    from mmpoison.base.files import atomic_folder, write_json
    from mmpoison.datasets.catalogue import load_pairs
    from mmpoison.evaluation.measure import Subject, measure
    from mmpoison.evaluation.names import parse_studies
    from mmpoison.evaluation.record import DataFacts, Metrics, RunFacts
    from mmpoison.evaluation.test_set import TestSet
    from mmpoison.models.inputs import prepare_pixels
    from mmpoison.models.loading import load_encoder
    from mmpoison.reporting.seeds import metrics_tables
    from mmpoison.reporting.table import markdown, terminal
    from mmpoison.reporting.terminal_view import terminal_table

    studies = parse_studies(study or [])
    if "epochs" in studies:
        raise InputError("--study epochs measures during a training: only `mmpoison run` has it")
    if out is not None:
        hold_output(context, out)
    where = find_device(device)
    pairs = load_pairs(data)
    poison = _manifest(pairs, manifest)
    test = TestSet.of(pairs)
    goal_targets = _goal_targets(pairs, poison, goal or [], target_image)
    for goal_target in goal_targets:
        test.check(goal_target)
    roles = {"pretrained": pretrained, "clean_model": reference, "poisoned": model}
    names = {role: name for role, name in roles.items() if name is not None}
    subjects: dict[str, Subject] = {}
    pixels = None
    with monitor(on_stderr=form != "table") as progress:
        for role, name in names.items():
            encoder = load_encoder(name, trust=trust).to(where)
            inputs = prepare_pixels(
                encoder, test.pairs, images=test.gallery, pixels=pixels, progress=progress.progress
            )
            pixels = inputs.pixels
            subjects[role] = Subject(encoder, inputs)
        measured = measure(
            subjects,
            test,
            goal_targets,
            seed=seed,
            study=studies,
            pairs=pairs,
            manifest=poison,
            progress=progress.progress,
        )
    run = RunFacts(
        goals=[str(target) for target in goal_targets],
        target_images={str(t): t.image for t in goal_targets if t.image is not None},
        seed=seed,
        flags=measured.flags,
        models=names,
        data=DataFacts(name=str(data), fingerprint=pairs.fingerprint),
    )
    metrics = Metrics.of({**measured.metrics.to_json(), "run": run}, "metrics.json")
    if out is not None:
        with atomic_folder(out) as folder:
            if measured.embedding_map is not None:
                write_json(folder / "embedding_map.json", measured.embedding_map.to_json())
            write_json(folder / "metrics.json", metrics.to_json())
    if form == "json":
        echo(json.dumps(metrics.to_json(), indent=2))
    elif form == "markdown":
        echo(markdown(metrics_tables(metrics)))
    else:
        console.print(terminal_table(metrics))
        if more := [table for table in metrics_tables(metrics) if not table.of_models]:
            console.print(terminal(more))


def _manifest(pairs: PairDataset, file: Path | None) -> PoisonManifest | None:
    from mmpoison.pairs.manifest import PoisonManifest

    return pairs.manifest if file is None else PoisonManifest.read(file)


def _goal_targets(
    pairs: PairDataset,
    manifest: PoisonManifest | None,
    goals: list[str],
    target_image: str | None,
) -> list[GoalTarget]:
    """Choose what to measure: the named goals, else those of the manifest, with the target images of either."""
    from mmpoison.attacks.goal import Goal
    from mmpoison.evaluation.goal_target import GoalTarget, goal_targets_of

    listed = goal_targets_of(manifest, pairs) if manifest else ()
    of_manifest = {str(goal_target): goal_target for goal_target in listed}
    if not goals and not of_manifest:
        raise InputError(
            "which goal? the data carry no manifest: give --goal A2B, e.g. --goal sheep2aeroplane"
        )
    goal_targets = [
        of_manifest.get(goal, GoalTarget(Goal.parse(goal, pairs.classes)))
        for goal in dict.fromkeys(goals or of_manifest)
    ]
    if target_image is None:
        return goal_targets
    if len(goal_targets) > 1:
        raise InputError(
            f"--target-image is for one goal, not for {len(goal_targets)}: name it with --goal"
        )
    return [GoalTarget(goal_targets[0].goal, target_image)]
