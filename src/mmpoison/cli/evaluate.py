"""The verb `evaluate`: measures attack success and utility of a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mmpoison.api.evaluation import evaluate as evaluate_model
from mmpoison.cli.console import hold_output
from mmpoison.cli.options import As, AsJson, Whole
from mmpoison.cli.report import print_metrics
from mmpoison.cli.verb import verb

if TYPE_CHECKING:
    from mmpoison.api.evaluation import Evaluation


@verb(evaluate_model)
def evaluate(
    call: Callable[[], Evaluation],
    context: typer.Context,
    out: Path | None = None,
    shown: As = "table",
    as_json: AsJson = False,
    whole: Whole = False,
) -> None:
    """Measure attack success and utility of a model.

    Example: [bold]mmpoison evaluate --data scenes --model model --goal sheep2aeroplane[/bold]

    [bold]mmpoison evaluate --data poisoned --model model --reference clean --study all[/bold]

    [bold]mmpoison evaluate --data scenes --model model --goal sheep2aeroplane --target-image aeroplane/0101.jpg[/bold]

    To check a model without knowing the goal: [bold]mmpoison check[/bold]

    Options:
        model: ...

    What is measured:
        goal: Goal A2B, e.g. sheep2aeroplane (default: those of the manifest); repeatable.
        target_image: Path of the only target image (attack I), a test image (default: that of the manifest).
        manifest: Manifest whose goals are measured (default: that of the data).
        reference, pretrained: ...

    Output:
        out: New folder for metrics.json.
    """
    if out is not None:
        hold_output(context, out)
    print_metrics(call().metrics, "json" if as_json else shown, whole=whole)
