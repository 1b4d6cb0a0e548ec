"""The verb `evaluate`: measure the effect of poison, and the utility of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmpoison.cli.console import hold_output, live_progress
from mmpoison.cli.options import (
    MEASURED,
    OUTPUT,
    AllOption,
    AsOption,
    DataOption,
    DataOptionsOption,
    DataRootOption,
    DeviceOption,
    Format,
    JsonOption,
    PairsFormatOption,
    SeedOption,
    StudyOption,
    named_data,
)
from mmpoison.cli.report import print_metrics


def evaluate(
    context: typer.Context,
    data: DataOption,
    model: Annotated[
        str,
        typer.Option(
            "--model", help="A model's name, folder or file (`mmpoison models list` shows how)."
        ),
    ],
    goal: Annotated[
        list[str] | None,
        typer.Option(
            help="A2B, e.g. sheep2aeroplane; several times for several goals. Those of the manifest by default.",
            rich_help_panel=MEASURED,
        ),
    ] = None,
    target_image: Annotated[
        str | None,
        typer.Option(
            help="One test image by its path in the data: the whole target set (attack I). The manifest's by default.",
            rich_help_panel=MEASURED,
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="A manifest.json (of a poisoned folder or a run) that says what to measure, if not the data's own.",
            rich_help_panel=MEASURED,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="A clean model, to compare with and to measure drift from.",
            rich_help_panel=MEASURED,
        ),
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            help="The model before any fine-tuning, as a third baseline.", rich_help_panel=MEASURED
        ),
    ] = None,
    study: StudyOption = None,
    seed: SeedOption = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Write metrics.json here.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    shown: AsOption = "table",
    as_json: JsonOption = False,
    whole: AllOption = False,
    device: DeviceOption = "auto",
    format: PairsFormatOption = None,
    data_root: DataRootOption = None,
    option: DataOptionsOption = None,
) -> None:
    """Measure what captions of A retrieve, and the model's usual quality.

    Example: [bold]mmpoison evaluate --data scenes --model model --goal sheep2aeroplane[/bold]

    [bold]mmpoison evaluate --data poisoned --model model --reference clean --study all[/bold]

    [bold]mmpoison evaluate --data scenes --model model --goal sheep2aeroplane --target-image aeroplane/0101.jpg[/bold]

    Is it poisoned, whatever the goal? [bold]mmpoison check[/bold]
    """
    form: Format = "json" if as_json else shown
    named = named_data(data, format, data_root, option)
    from mmpoison.api import evaluation as api

    if out is not None:
        hold_output(context, out)
    with live_progress(on_stderr=form != "table") as progress:
        metrics = api.evaluate(
            model,
            named,
            goal=goal or (),
            target_image=target_image,
            manifest=manifest,
            reference=reference,
            pretrained=pretrained,
            study=study or (),
            seed=seed,
            out=out,
            device=device,
            progress=progress,
        ).metrics
    print_metrics(metrics, form, whole=whole)
