"""The verb `sterilize`: repair a suspect checkpoint, and save it if it keeps its utility."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mmpoison.cli.console import console, hold_output, live_progress, say
from mmpoison.cli.options import Changes, Seed, named_data, split_changes
from mmpoison.errors import InputError


def sterilize(
    context: typer.Context,
    data: str,
    model: str,
    out: Path,
    split: str = "val",
    seed: Seed = 0,
    method: str | None = None,
    changes: Changes = None,
    learning_rate: list[float] | None = None,
    held_out: float = 0.2,
    max_utility_loss: float | None = None,
    reference: str | None = None,
    canary_goal: list[str] | None = None,
    evaluate_every: Annotated[int | None, typer.Option(min=1, max=10**9)] = None,
    goal: list[str] | None = None,
    device: str = "auto",
    track: list[str] | None = None,
    fresh: bool = False,
    format: str | None = None,
    data_root: Path | None = None,
    option: list[str] | None = None,
) -> None:
    """Repair a suspect checkpoint with pairs that you know to be clean; by default by fine-tuning on them.

    Example: [bold]mmpoison sterilize --data scenes --model model --out candidate --reference start[/bold]

    Other learning rates: [bold]mmpoison sterilize --data scenes --model model --out candidate
    --learning-rate 3e-6 --learning-rate 3e-5[/bold]

    The utility on the way is in OUT/sterilize-curve.json. No model is saved (exit code 1)
    if all of them lost more than --max-utility-loss.

    Options:
        split: The clean split to train on.
        method: A repair by name (`mmpoison defenses`); clean-finetune unless given.
        learning_rate: Try this one; several times: each, and save the best by the stated rule. Unless given 1e-3,
            1e-4 and 1e-5 in turn, until one keeps the utility.

    How the repair is judged:
        held_out: Share of the clean images to judge by, never trained on; 0: train on all, judge nothing.
        max_utility_loss: Save no model that lost more Hit@K on the held-out images; 0.02 unless given.
        reference: The clean model that the suspect was made from: the model check runs before and after.
        canary_goal: A2B that is known to be in the suspect: take the learning rate that leaves least of it.
        evaluate_every: Measure after so many steps too, not only at 1, 2, 5, 10, ... and each epoch.
        goal: A2B to show on the test part; those of the manifest by default.
    """
    from mmpoison.api import defenses as api
    from mmpoison.reporting.repair import repair_table
    from mmpoison.reporting.terminal_tables import terminal
    from mmpoison.runs.sterilize_model import DEFAULT_REPAIR, work_folder

    hold_output(context, out, work=work_folder(out))
    method = method or DEFAULT_REPAIR
    options, settings = split_changes("post-training", method, changes)
    if learning_rate and settings is not None and "learning_rate" in settings.model_fields_set:
        raise InputError("--learning-rate and --set learning_rate are two ways to say one thing")
    with live_progress() as progress:
        done = api.sterilize(
            model,
            named_data(data, format, data_root, option),
            out=out,
            split=split,
            seed=seed,
            method=method,
            settings=settings,
            learning_rate=learning_rate,
            held_out=held_out,
            max_utility_loss=max_utility_loss,
            reference=reference,
            canary_goal=canary_goal or (),
            evaluate_every=evaluate_every,
            goal=goal or (),
            track=track or (),
            fresh=fresh,
            device=device,
            progress=progress,
            **options,
        )
    if done.curve is not None:
        console.print(terminal([repair_table(done.curve)]))
    lines = [f"{b.label}: {b.ended}" for b in done.branches if b.chosen or not b.probes]
    lines += [*done.notes, *done.checked()]
    if not done.checks:
        check = shlex.join(["mmpoison", "check", str(out), "--data", data])
        lines.append(
            f"Next, check it: {check} --reference MODEL (the clean model that the suspect was made from)"
        )
    elif done.checks["after"].flagged:
        lines.append(
            "Next, repair the suspect again: a higher --learning-rate, or more clean pairs of these kinds"
        )
    for line in (*lines, f"{out}: {done.summary()}"):
        say(line)
