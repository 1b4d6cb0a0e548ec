"""The verb `train`."""

from __future__ import annotations

from pathlib import Path

import typer

from mmpoison.cli.console import console, hold_output, live_progress, say
from mmpoison.cli.options import Changes, Seed, named_data, split_changes


def train(
    context: typer.Context,
    data: str,
    model: str,
    out: Path,
    seed: Seed = 0,
    defense: str | None = None,
    changes: Changes = None,
    device: str = "auto",
    track: list[str] | None = None,
    fresh: bool = False,
    format: str | None = None,
    data_root: Path | None = None,
    option: list[str] | None = None,
) -> None:
    """Fine-tune a model on the training pairs of a folder; the settings are the paper's unless changed.

    The same command resumes a stopped training and ends with the same weights as an uninterrupted one.

    Example: [bold]mmpoison train --data poisoned --model openmoji-small --out model --set learning_rate=3e-4[/bold]

    On two GPUs: [bold]torchrun --nproc-per-node 2 -m mmpoison train --data poisoned --model ViT-B-32 --out model[/bold]

    Options:
        defense: An in-training defence by name (`mmpoison defenses`), in place of the ordinary training.
    """
    from mmpoison.api.training import finetune
    from mmpoison.base.processes import is_main_process

    # next to the folder of the model, which appears whole or not at all
    hold_output(context, out, work=out.with_name(f"{out.name}.training"))
    options, settings = split_changes("in-training", defense, changes)
    with live_progress() as progress:
        result = finetune(
            model,
            named_data(data, format, data_root, option),
            out=out,
            seed=seed,
            defense=defense,
            settings=settings,
            track=track or (),
            fresh=fresh,
            device=device,
            progress=progress,
            **options,
        )
    if not is_main_process():
        return
    if result.resumed_from:
        console.print(f"resumed after step {result.resumed_from}")
    say(f"{out}: {result.headline()}")
