"""The verb `evaluate`: measure the effect of poison, and the utility of a model."""

from __future__ import annotations

from pathlib import Path

import typer

from mmpoison.cli.console import hold_output, live_progress
from mmpoison.cli.options import As, AsJson, Format, Seed, Whole, named_data
from mmpoison.cli.report import print_metrics


def evaluate(
    context: typer.Context,
    data: str,
    model: str,
    goal: list[str] | None = None,
    target_image: str | None = None,
    manifest: Path | None = None,
    reference: str | None = None,
    pretrained: str | None = None,
    study: list[str] | None = None,
    seed: Seed = 0,
    out: Path | None = None,
    shown: As = "table",
    as_json: AsJson = False,
    whole: Whole = False,
    device: str = "auto",
    format: str | None = None,
    data_root: Path | None = None,
    option: list[str] | None = None,
) -> None:
    """Measure what captions of A retrieve, and the model's usual quality.

    Example: [bold]mmpoison evaluate --data scenes --model model --goal sheep2aeroplane[/bold]

    [bold]mmpoison evaluate --data poisoned --model model --reference clean --study all[/bold]

    [bold]mmpoison evaluate --data scenes --model model --goal sheep2aeroplane --target-image aeroplane/0101.jpg[/bold]

    Is it poisoned, whatever the goal? [bold]mmpoison check[/bold]

    Options:
        model: A model's name, folder or file (`mmpoison models list` shows how).

    What is measured:
        goal: A2B, e.g. sheep2aeroplane; several times for several goals. Those of the manifest by default.
        target_image: One test image by its path in the data: the whole target set (attack I). The manifest's by
            default.
        manifest: A manifest.json (of a poisoned folder or a run) that says what to measure, if not the data's own.
        reference: A clean model, to compare with and to measure drift from.
        pretrained: The model before any fine-tuning, as a third baseline.

    Output:
        out: Write metrics.json here.
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
