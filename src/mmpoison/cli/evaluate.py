"""The verb `evaluate`: measure the effect of poison, and the utility of a model."""

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

    Is it poisoned, whatever the goal? [bold]mmpoison check[/bold]

    Options:
        model: A model's name, folder or file (`mmpoison models list` shows how).

    What is measured:
        goal: A2B, e.g. sheep2aeroplane; repeat it for several goals. By default the goals of the manifest.
        target_image: The path of one test image, which is then the only target (attack I). By default that of the
            manifest.
        manifest: Measure the goals of this manifest.json (of a poisoned folder or a run), not those of the data's own.
        reference, pretrained: ...

    Output:
        out: Write metrics.json here.
    """
    if out is not None:
        hold_output(context, out)
    print_metrics(call().metrics, "json" if as_json else shown, whole=whole)
