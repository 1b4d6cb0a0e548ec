"""The result as one `rich` table, readable at 80 columns and without colour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from mmpoison.reporting.summary import MODELS, flags, goal_title, goals, section
from mmpoison.reporting.text import ABSENT, count, decimal, percent, visible


def terminal_table(metrics: Mapping[str, Any]) -> Table:
    """Models as rows, the goal's Hit@K and MinRank and the model's utility as columns.

    Args:
        metrics: What metrics.json holds.
    """
    names = goals(metrics)
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
    measured = section(metrics, "goal")
    utility = section(metrics, "utility")
    for goal in names or [""]:
        if len(names) > 1:
            table.add_row(Text(visible(goal_title(goal)), style="bold"))
        row = section(measured, goal)
        for model in MODELS:
            values = section(row, model.key)
            useful = section(utility, model.key)
            name = f"  {model.name}" if model.key == "random_captions" else model.name
            table.add_row(
                Text(name),
                *(decimal(values.get(key)) for key in ("hit@1", "hit@5", "hit@10")),
                decimal(values.get("min_rank"), 2),
                decimal(section(useful, "image_retrieval").get("hit@10")),
                decimal(section(useful, "text_retrieval").get("hit@10")),
            )
        table.add_section()
    return table


def _caption(metrics: Mapping[str, Any]) -> Text:
    run = section(metrics, "run")
    warnings = [f"WARNING: {visible(flag)}" for flag in flags(metrics)]
    amount = (
        f"{count(run.get('poisoned_pairs'))} poisoned of {count(run.get('training_pairs'))} "
        f"training pairs ({percent(run.get('poisoning_rate'))}), "
        f"mode {visible(str(run.get('mode') or ABSENT))}."
    )
    legend = (
        "MinRank counts from 0 (0: a target image came first). IR, TR: utility, image and text "
        f"retrieval on the whole test set. {ABSENT}: not computed."
    )
    caption = Text("\n".join(warnings), style="bold")
    if warnings:
        caption.append("\n")
    if run.get("poisoned_pairs") is not None:
        caption.append(f"{amount}\n", style="not bold")
    for model in MODELS:
        if name := section(run, "models").get(model.key):
            caption.append(f"{model.name}: {visible(str(name))}\n", style="not bold")
    caption.append(legend, style="not bold")
    return caption
