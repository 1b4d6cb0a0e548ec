"""`train`: trains a model on the training pairs of a data set."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpoison.api.inputs import as_encoder, as_pairs, training_settings
from mmpoison.api.progress import shown
from mmpoison.base.files import refuse_occupied
from mmpoison.base.processes import is_main_process
from mmpoison.base.registry import checked
from mmpoison.errors import InputError

if TYPE_CHECKING:
    from mmpoison.api.inputs import Pairs
    from mmpoison.base.progress import RunProgress
    from mmpoison.defenses.catalogue import RobustTraining, TrainingServices
    from mmpoison.models.dual_encoder import DualEncoder
    from mmpoison.training.loop import TrainingResult
    from mmpoison.training.settings import TrainingSettings


@checked
def train(
    model: DualEncoder | str | Path,
    pairs: Pairs,
    *,
    out: str | Path | None = None,
    seed: int = 0,
    split: str = "train",
    name: str | None = None,
    defense: str | None = None,
    settings: TrainingSettings | None = None,
    track: Sequence[str] = (),
    fresh: bool = False,
    device: str = "auto",
    progress: bool | RunProgress = True,
    **changes: Any,
) -> TrainingResult:
    """Fine-tune a copy of a model on the training pairs of a data set.

    Args:
        model: The model to start from: an encoder, or what `load_encoder` takes.
        pairs: The data set, or its name or path.
        out: New folder for the checkpoint with its model card and logs. An interrupted training
            resumes from `OUT.training` and ends with the same weights.
        seed: Seed for all random choices.
        split: Split to train on.
        name: Name of the new model (default: that of `out`).
        defense: In-training defence (see `mmpoison defenses`).
        settings: Training settings; the paper's by default.
        track: With `out`: also log to `tensorboard`, `mlflow` or `wandb`.
        fresh: With `out`: start from the beginning instead of resuming.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.
        progress: False shows no progress; by default bars are shown on a terminal and in a notebook.
        **changes: Single settings, for example `epochs=2`, `learning_rate=1e-4`, and parameters of
            `defense`.

    Returns:
        The new `encoder` and a record of the training. The given model is unchanged.

    Raises:
        InputError: If a setting is unknown, there are too few pairs, or `out` holds something.
        DivergedError: If the loss stops being a number or explodes.

    Example:
        ```python
        result = mmpoison.train("openmoji-small", poisoned, epochs=2, seed=0)
        encoder = result.encoder
        ```
    """
    from mmpoison.defenses.catalogue import build_defense, split_options, train_with
    from mmpoison.models.checkpoint import save_checkpoint
    from mmpoison.models.inputs import prepare_pixels
    from mmpoison.runs.cards import model_card
    from mmpoison.training import loop
    from mmpoison.training.log import LogOptions
    from mmpoison.training.states import Checkpoints, copy_logs

    options: dict[str, Any] = {}
    robust: RobustTraining | None = None
    if defense is not None:
        options, changes = split_options("in-training", defense, changes)
        robust = build_defense("in-training", defense, options)
    chosen = training_settings(settings, changes)
    folder = None if out is None else Path(out)
    log = checkpoints = None
    if folder is not None:
        refuse_occupied(folder)
        # next to the model's folder, which appears only when it is complete
        work = folder.with_name(f"{folder.name}.training")
        checkpoints, log = Checkpoints(work), LogOptions(work, tuple(track))
        log.check()
        if fresh and is_main_process():
            shutil.rmtree(work, ignore_errors=True)
    data = as_pairs(pairs)
    part = data.select(split=split)
    if not len(part):
        raise InputError(f"{data.root}: split {split!r} has no pairs to train on")
    start = as_encoder(model, device=device)
    with shown(progress) as reporter:
        inputs = prepare_pixels(start, part, progress=reporter.progress)
        services: TrainingServices = {
            "name": name or (folder.name if folder is not None else None),
            "on_step": reporter.training("training"),
            "checkpoints": checkpoints,
            "log": log,
            "progress": reporter.progress,
        }
        if robust is None:
            result = loop.finetune(start, part, inputs, chosen, seed=seed, **services)
        else:
            given = (start, part, inputs, chosen)
            result = train_with(robust, *given, seed=seed, services=services)
    if folder is None or not is_main_process():
        return result
    poisoned = bool(part.poisoned.any())
    card = model_card(
        result.encoder,
        "trained" if not poisoned else "robust" if defense else "poisoned",
        started_from=start.name,
        data=part,
        settings=chosen,
        result=result,
        facts=[f"defence: {defense} {options or ''}".rstrip()] if defense else [],
    )
    save_checkpoint(
        result.encoder,
        folder,
        card=card,
        metadata={"training": result.summary(), "seed": seed, "poisoned": poisoned},
        # write into the folder before it appears, so that a kill cannot separate the logs from their model
        also=lambda new: copy_logs(work, new / "logs"),
    )
    shutil.rmtree(work, ignore_errors=True)
    return result


finetune = train
"""The older name of `train`."""
