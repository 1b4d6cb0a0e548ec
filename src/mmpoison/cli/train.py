"""The verb `train`: fine-tunes a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mmpoison.api.training import train as train_model
from mmpoison.base.processes import is_main_process
from mmpoison.cli.console import console, hold_output, say
from mmpoison.cli.verb import verb

if TYPE_CHECKING:
    from mmpoison.training.loop import TrainingResult


@verb(train_model)
def train(call: Callable[[], TrainingResult], context: typer.Context, out: Path) -> None:
    """Fine-tune a model on the training pairs of a data set, with the paper's settings by default.

    The same command resumes a stopped training and ends with the same weights as an uninterrupted one.

    Example: [bold]mmpoison train --data poisoned --model openmoji-small --out model --set learning_rate=3e-4[/bold]

    On two GPUs: [bold]torchrun --nproc-per-node 2 -m mmpoison train --data poisoned --model ViT-B-32 --out model[/bold]
    """
    # next to the model's folder, which is written atomically
    hold_output(context, out, work=out.with_name(f"{out.name}.training"))
    result = call()
    if not is_main_process():
        return
    if result.resumed_from:
        console.print(f"resumed after step {result.resumed_from}")
    for note in result.notes:
        say(note)
    say(f"{out}: {result.headline()}")
