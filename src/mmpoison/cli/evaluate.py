"""The verb `evaluate`: measure the effect of poison, and the utility of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mmpoison.cli.console import DeviceOption, FormatOption, console, echo, live_progress
from mmpoison.cli.output import hold_output
from mmpoison.cli.scanning import scan
from mmpoison.cli.stages import DataOption, MethodSetOption, SeedOption, TrustOption
from mmpoison.errors import InputError


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
            help="Instead of --model: is this model poisoned, whatever the goal? Needs --reference, the "
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
    from mmpoison.api import evaluation as api
    from mmpoison.reporting.seeds import metrics_tables
    from mmpoison.reporting.table import markdown, terminal
    from mmpoison.reporting.terminal_view import terminal_table

    if out is not None:
        hold_output(context, out)
    with live_progress(on_stderr=form != "table") as progress:
        metrics = api.evaluate(
            model,
            data,
            goal=goal or (),
            target_image=target_image,
            manifest=manifest,
            reference=reference,
            pretrained=pretrained,
            study=study or (),
            seed=seed,
            out=out,
            device=device,
            trust=trust,
            progress=progress,
        ).metrics
    if form == "json":
        echo(json.dumps(metrics.to_json(), indent=2))
    elif form == "markdown":
        echo(markdown(metrics_tables(metrics)))
    else:
        console.print(terminal_table(metrics))
        if more := [table for table in metrics_tables(metrics) if not table.of_models]:
            console.print(terminal(more))
