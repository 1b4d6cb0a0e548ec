"""The verb `sterilize`: repairs a suspect checkpoint, and saves it if it keeps its utility."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mmpoison.api.defenses import sterilize as sterilize_model
from mmpoison.cli.console import console, hold_output, say
from mmpoison.cli.verb import verb

if TYPE_CHECKING:
    from mmpoison.datasets.catalogue import NamedData
    from mmpoison.runs.sterilize_model import Sterilized

SHOWN = 6
"""Number of classes named if no goal is known."""


@verb(sterilize_model)
def sterilize(
    call: Callable[[], Sterilized], context: typer.Context, data: NamedData, out: Path
) -> None:
    """Repair a suspect model with clean pairs, by default by fine-tuning on them.

    Example: [bold]mmpoison sterilize --data scenes --model model --out candidate --reference start[/bold]

    Other learning rates: [bold]mmpoison sterilize --data scenes --model model --out candidate
    --learning-rate 3e-6 --learning-rate 3e-5[/bold]

    With the suspect's training pairs: [bold]mmpoison sterilize --data pairs --split train
    --model suspect --out candidate --unlearn scan --unlearn traced[/bold]

    OUT/sterilize-curve.json has the utility during the repair. No model is saved (exit code 1) if every learning rate
    loses more than --max-utility-loss.

    Options:
        learning_rate: Learning rate to try; repeatable (default: 1e-3, 1e-4 and 1e-5, until one keeps the utility).

    Training pairs:
        unlearn: Result of scan or check --trace: omit the pairs it drops and unlearn its poisoning groups; repeatable.

    How the repair is judged:
        held_out: Share of the clean images held out to measure the utility; 0: train on all.
        max_utility_loss: Acceptable loss of Hit@K on the held-out images (default: 0.02).
        reference: Clean model that the suspect was trained from; runs the model check before and after.
        canary_goal: ...
        evaluate_every: Also measure every N steps, besides steps 1, 2, 5, 10, ... and each epoch.
        goal: Goal A2B to measure on the test part (default: those of the manifest); repeatable.
    """
    from mmpoison.reporting.repair import repair_table
    from mmpoison.reporting.terminal_tables import terminal

    hold_output(context, out, work=out.with_name(f"{out.name}.training"))
    done = call()
    if done.curve is not None:
        console.print(terminal([repair_table(done.curve)]))
    lines = [f"{b.label}: {b.ended}" for b in done.branches if b.chosen or not b.probes]
    lines += [*done.notes, *done.goal_ranks(), *done.checked()]
    measure = _evaluate(done, data, context.params["reference"])
    if not done.checks:
        check = shlex.join(["mmpoison", "check", str(out), *data.words(), "--reference", "MODEL"])
        steps = [
            f"check the new model (MODEL is the clean one that the suspect was made from): {check}"
        ]
    elif (after := done.checks["after"]).flagged:
        steps = [
            "repair the suspect again with a higher --learning-rate, or with more clean pairs of these kinds"
        ]
    else:
        steps = [] if measure else after.next_steps(str(out), data.words(), None)
    lines += [f"next: {step}" for step in (*steps, measure) if step]
    for line in (*lines, f"{out}: {done.summary()}"):
        say(line)


def _evaluate(done: Sterilized, data: NamedData, reference: str | None) -> str:
    """Return the command that measures the goals in the new model; empty without test classes."""
    if not done.classes:
        return ""
    goals = [part for goal in done.goals or ("A2B",) for part in ("--goal", goal)]
    compared = [] if reference is None else ["--reference", reference]
    parts = [
        "mmpoison",
        "evaluate",
        *data.words(),
        "--model",
        str(done.out),
        *goals,
        *compared,
    ]
    command = shlex.join(parts)
    if done.goals:
        of = "goal" if done.known else "goal that the findings suggest"
        return f"measure the {of}: {command}"
    few = ", ".join(done.classes[:SHOWN]) + (", ..." if len(done.classes) > SHOWN else "")
    return f"measure a suspected goal, with two class names for A and B ({few}): {command}"
