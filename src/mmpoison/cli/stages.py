"""The verb `train`, and options that several verbs share."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from mmpoison.cli.console import SEEDS, DeviceOption, console, monitor, say
from mmpoison.cli.filtering import filter_
from mmpoison.cli.output import hold_output
from mmpoison.errors import InputError

DataOption = Annotated[Path, typer.Option("--data", help="A pairs folder.")]
OutOption = Annotated[Path, typer.Option("--out", help="New folder.")]
SeedOption = Annotated[int, typer.Option(min=0, max=SEEDS, help="Random seed.")]
ModelOption = Annotated[
    str,
    typer.Option("--model", help="A model's name, folder or file (see `mmpoison models list`)."),
]
TrustOption = Annotated[
    bool,
    typer.Option("--trust", help="Open TorchScript archives (OpenAI's format); they can run code."),
]
MethodSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A parameter of the defence, or a training setting, e.g. epochs=2.",
    ),
]
TrackOption = Annotated[
    list[str] | None,
    typer.Option(
        "--track", help="Also log to tensorboard, mlflow or wandb; repeat it for several."
    ),
]
FreshOption = Annotated[
    bool,
    typer.Option(
        "--fresh", help="Start from the beginning instead of resuming a stopped training."
    ),
]
ImagesOption = Annotated[
    Literal["link", "copy", "none"],
    typer.Option("--images", help="Hard links (no copy), copies, or no images."),
]


def add_commands(app: typer.Typer) -> None:
    """Add the verbs to the application."""
    app.command()(train)
    app.command("filter")(filter_)


def train(
    context: typer.Context,
    data: DataOption,
    model: ModelOption,
    out: OutOption,
    seed: SeedOption = 0,
    defense: Annotated[
        str | None,
        typer.Option(
            help="An in-training defence by name (`mmpoison defenses`), in place of the ordinary training."
        ),
    ] = None,
    changes: MethodSetOption = None,
    device: DeviceOption = "auto",
    track: TrackOption = None,
    fresh: FreshOption = False,
    trust: TrustOption = False,
) -> None:
    """Fine-tune a model on the training pairs of a folder; the settings are the paper's unless changed.

    The same command resumes a stopped training and ends with the same weights as an uninterrupted one.

    Example: [bold]mmpoison train --data poisoned --model openmoji-small --out model --set learning_rate=3e-4[/bold]

    On two GPUs: [bold]torchrun --nproc-per-node 2 -m mmpoison train --data poisoned --model ViT-B-32 --out model[/bold]
    """
    from mmpoison.base.devices import find_device
    from mmpoison.base.processes import is_main_process
    from mmpoison.datasets.catalogue import load_pairs
    from mmpoison.defenses.catalogue import (
        RobustTraining,
        TrainingServices,
        build_defense,
        split_options,
        train_with,
    )
    from mmpoison.models.checkpoint import save_checkpoint
    from mmpoison.models.inputs import prepare_pixels
    from mmpoison.models.loading import load_encoder
    from mmpoison.runs.cards import model_card
    from mmpoison.runs.recipe import parse_changes, parse_training
    from mmpoison.training.log import LogOptions
    from mmpoison.training.loop import finetune
    from mmpoison.training.states import Checkpoints, copy_logs

    # next to the model's folder, which appears whole or not at all
    work = out.with_name(f"{out.name}.training")
    hold_output(context, out, work=work)
    where = find_device(device)
    checkpoints, log = Checkpoints(work), LogOptions(work, tuple(track or ()))
    log.check()
    if fresh and is_main_process():
        shutil.rmtree(work, ignore_errors=True)
    changed = parse_changes(changes or [])
    options: dict[str, object] = {}
    robust: RobustTraining | None = None
    if defense is not None:
        options, changed = split_options("in-training", defense, changed)
        robust = build_defense("in-training", defense, options, "--set ")
    settings = parse_training(changed)
    pairs = load_pairs(data)
    part = pairs.select(split="train")
    if not len(part):
        raise InputError(f"{data}: split 'train' has no pairs to train on")
    start = load_encoder(model, trust=trust).to(where)
    with monitor() as progress:
        inputs = prepare_pixels(start, part, progress=progress.progress)
        services: TrainingServices = {
            "name": out.name,
            "on_step": progress.training("training"),
            "checkpoints": checkpoints,
            "log": log,
            "progress": progress.progress,
        }
        if robust is None:
            result = finetune(start, part, inputs, settings, seed=seed, **services)
        else:
            given = (start, part, inputs, settings)
            result = train_with(robust, *given, seed=seed, services=services)
    if not is_main_process():
        return
    if result.resumed_from:
        console.print(f"resumed after step {result.resumed_from}")
    encoder = result.encoder
    poisoned = bool(part.poisoned.any())
    stage = "trained" if not poisoned else "robust" if defense else "poisoned"
    card = model_card(
        encoder,
        stage,
        started_from=start.name,
        data=part,
        settings=settings,
        result=result,
        facts=[f"defence: {defense} {options or ''}".rstrip()] if defense else [],
    )
    save_checkpoint(
        encoder,
        out,
        card=card,
        metadata={"training": result.summary(), "seed": seed, "poisoned": poisoned},
        # before the rename: a kill after it would leave the logs without their model
        also=lambda folder: copy_logs(work, folder / "logs"),
    )
    shutil.rmtree(work, ignore_errors=True)
    say(f"{out}: {result.headline()}")
