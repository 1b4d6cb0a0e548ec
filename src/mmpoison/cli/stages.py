"""The verb `train`, and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mmpoison.cli.console import SEEDS, DeviceOption, console, live_progress, say
from mmpoison.cli.filtering import filter_
from mmpoison.cli.output import hold_output

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
    """Add the verb to the application."""
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
    from mmpoison.api.training import finetune
    from mmpoison.base.processes import is_main_process
    from mmpoison.defenses.catalogue import split_options
    from mmpoison.runs.recipe import parse_changes, parse_training

    # next to the folder of the model, which appears whole or not at all
    hold_output(context, out, work=out.with_name(f"{out.name}.training"))
    changed = parse_changes(changes or [])
    options: dict[str, Any] = {}
    if defense is not None:
        options, changed = split_options("in-training", defense, changed)
    settings = parse_training(changed)
    with live_progress() as progress:
        result = finetune(
            model,
            data,
            out=out,
            seed=seed,
            defense=defense,
            settings=settings,
            track=track or (),
            fresh=fresh,
            device=device,
            trust=trust,
            progress=progress,
            **options,
        )
    if not is_main_process():
        return
    if result.resumed_from:
        console.print(f"resumed after step {result.resumed_from}")
    say(f"{out}: {result.headline()}")
