"""The verb `sterilize`: repair a suspect checkpoint, and save it if it keeps its utility."""

from __future__ import annotations

from typing import Annotated

import typer

from mmpoison.cli.console import DeviceOption, console, live_progress, say
from mmpoison.cli.output import hold_output
from mmpoison.cli.stages import (
    DataOption,
    FreshOption,
    MethodSetOption,
    ModelOption,
    OutOption,
    SeedOption,
    TrackOption,
    TrustOption,
)
from mmpoison.errors import InputError


def add_commands(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(sterilize)


def sterilize(
    context: typer.Context,
    data: DataOption,
    model: ModelOption,
    out: OutOption,
    split: Annotated[str, typer.Option(help="The clean split to train on.")] = "val",
    seed: SeedOption = 0,
    method: Annotated[
        str | None,
        typer.Option(help="A repair by name (`mmpoison defenses`); clean-finetune unless given."),
    ] = None,
    changes: MethodSetOption = None,
    learning_rate: Annotated[
        list[float] | None,
        typer.Option(help="Several times: try each, and save the best by the stated rule."),
    ] = None,
    held_out: Annotated[
        float,
        typer.Option(
            help="Share of the clean images to judge by, never trained on; 0: train on all, judge nothing."
        ),
    ] = 0.2,
    max_utility_loss: Annotated[
        float | None,
        typer.Option(
            help="Save no model that lost more Hit@K on the held-out images; 0.02 unless given."
        ),
    ] = None,
    canary_goal: Annotated[
        list[str] | None,
        typer.Option(help="A2B that is known to be in the suspect: stop when it is gone."),
    ] = None,
    stop: Annotated[
        bool, typer.Option("--stop/--no-stop", help="Stop when the canary is quiet.")
    ] = True,
    evaluate_every: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10**9,
            help="Measure after so many steps too, not only at 1, 2, 5, 10, ... and each epoch.",
        ),
    ] = None,
    goal: Annotated[
        list[str] | None,
        typer.Option(help="A2B to show on the test part; those of the manifest by default."),
    ] = None,
    device: DeviceOption = "auto",
    track: TrackOption = None,
    fresh: FreshOption = False,
    trust: TrustOption = False,
) -> None:
    """Repair a suspect checkpoint with pairs that you know to be clean; by default by fine-tuning on them.

    Example: [bold]mmpoison sterilize --data scenes --model model --out repaired --set epochs=1[/bold]

    Learning rates side by side: [bold]mmpoison sterilize --data scenes --model model --out repaired
    --learning-rate 1e-6 --learning-rate 1e-5 --learning-rate 1e-4[/bold]

    The associations that weakened, and the utility, are in OUT/sterilize-curve.json. No model is saved (exit code 1)
    if all of them lost more than --max-utility-loss.
    """
    from mmpoison.attacks.goal import Goal
    from mmpoison.base.devices import find_device
    from mmpoison.datasets.catalogue import load_pairs
    from mmpoison.defenses.catalogue import split_options
    from mmpoison.defenses.repairs.repair_watch import RepairRule
    from mmpoison.evaluation.goal_target import GoalTarget, goal_targets_of
    from mmpoison.models.loading import load_encoder
    from mmpoison.reporting.repair import repair_table
    from mmpoison.reporting.table import terminal
    from mmpoison.runs.recipe import parse_changes, parse_training
    from mmpoison.runs.sterilize_model import DEFAULT_REPAIR, sterilize_model, work_folder

    hold_output(context, out, work=work_folder(out))
    where = find_device(device)
    method = method or DEFAULT_REPAIR
    options, changed = split_options("post-training", method, parse_changes(changes or []))
    if learning_rate and "learning_rate" in changed:
        raise InputError("--learning-rate and --set learning_rate are two ways to say one thing")
    settings = parse_training(changed) if changed else None
    pairs = load_pairs(data)
    rule = None
    if max_utility_loss is not None or canary_goal or evaluate_every is not None or not stop:
        rule = RepairRule(
            0.02 if max_utility_loss is None else max_utility_loss,
            stop,
            tuple(Goal.parse(text, pairs.classes) for text in canary_goal or ()),
            evaluate_every,
        )
    known: list[GoalTarget] = []
    if pairs.manifest is not None and held_out and pairs.select(split="test", poisoned=False):
        known = list(goal_targets_of(pairs.manifest, pairs))
    goal_targets = [
        GoalTarget(Goal.parse(text, pairs.classes)) for text in dict.fromkeys(goal or ())
    ] or known
    suspect = load_encoder(model, trust=trust).to(where)
    with live_progress() as progress:
        done = sterilize_model(
            pairs,
            suspect,
            out,
            settings,
            method=method,
            options=options,
            learning_rates=learning_rate or (),
            progress=progress,
            split=split,
            seed=seed,
            held_out=held_out,
            rule=rule,
            goal_targets=goal_targets,
            trackers=track or (),
            fresh=fresh,
        )
    if done is None:
        return
    if done.curve is not None:
        console.print(terminal([repair_table(done.curve)]))
    for branch in done.branches:
        if len(done.branches) > 1 or branch.ended != "all steps done":
            say(f"{branch.label}: {branch.ended}")
    for line in (*done.weakened(), *done.notes, f"{out}: {done.summary()}"):
        say(line)
