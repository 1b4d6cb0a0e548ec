"""Shows one run in the terminal: a `rich` table, readable at 80 columns and without colour."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.table import Table
from rich.text import Text

from mmpoison.records.run_files import Metrics, Utility
from mmpoison.reporting.summary import computed_models, goal_title, named_models
from mmpoison.reporting.text import ABSENT, count, decimal, percent, visible


def terminal_table(metrics: Metrics | Mapping[str, object]) -> Table:
    """Make the table of one run: models as rows, the goal's Hit@K and MinRank and the model's utility as columns.

    Args:
        metrics: What metrics.json holds.

    Raises:
        InputError: If it is not that.
    """
    metrics = Metrics.of(metrics, "metrics.json")
    names = metrics.goals
    table = Table(
        title=Text(visible(goal_title(names[0]))) if len(names) == 1 else None,
        caption=_caption(metrics),
        caption_justify="left",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("Model", overflow="fold", max_width=26)
    for header in ("Hit@1", "Hit@5", "Hit@10", "MinRank", "IR\nHit@10", "TR\nHit@10"):
        table.add_column(header, justify="right", no_wrap=True)
    for goal in names or [""]:
        if len(names) > 1:
            table.add_row(Text(visible(goal_title(goal)), style="bold"))
        for model in computed_models(metrics, goal):
            row, utility = metrics.row(goal, model.key), metrics.utility.get(model.key) or Utility()
            name = f"  {model.name}" if model.key == "random_captions" else model.name
            table.add_row(
                Text(name),
                *(decimal(hit) for hit in (row.hit_1, row.hit_5, row.hit_10)),
                decimal(row.min_rank, 2),
                decimal(utility.image_retrieval.hit_10),
                decimal(utility.text_retrieval.hit_10),
            )
        table.add_section()
    return table


def _caption(metrics: Metrics) -> Text:
    run, drift = metrics.run, metrics.drift
    warnings = [f"WARNING: {visible(flag)}" for flag in run.flags]
    amount = (
        f"{count(run.poisoned_pairs)} poisoned of {count(run.training_pairs)} "
        f"training pairs ({percent(run.poisoning_rate)}), mode {visible(run.mode or ABSENT)}."
    )
    legend = (
        "MinRank counts from 0 (0: a target image came first). IR, TR: utility, image and text "
        f"retrieval on the whole test set. {ABSENT}: not computed."
    )
    caption = Text("\n".join(warnings), style="bold")
    if warnings:
        caption.append("\n")
    if run.poisoned_pairs is not None:
        caption.append(f"{amount}\n", style="not bold")
    for model in named_models(run):
        if name := run.models.get(model.key):
            caption.append(f"{model.name}: {visible(name)}\n", style="not bold")
    if drift.text is not None and drift.image is not None:
        caption.append(
            f"Drift from the clean model: texts {decimal(drift.text, 4)}, images {decimal(drift.image, 4)} "
            "(mean cosine distance).\n",
            style="not bold",
        )
    caption.append(legend, style="not bold")
    return caption
