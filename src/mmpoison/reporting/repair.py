"""A repair, shown: the curve over its steps (figures 7 and 9 of the paper), the learning rates (table 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpoison.reporting.figure import canvas, save
from mmpoison.reporting.table import Cell, Column, Table

LINES = ("-", "--", ":", "-.")
MARKS = ("o", "s", "^", "D", "v", "x")


def write_repair_figures(target: Path, curve: Mapping[str, Any]) -> list[Path]:
    """What the poison still does, and the utility, against the steps; as PNG and SVG.

    Left are the goals of the test part, or the known goals, or else the typical rank of what rose most; right image and
    text retrieval of the held-out pairs. A learning rate has its own line and mark, so that the figure can be read
    without colour.

    Args:
        target: The file without its ending.
        curve: The content of `sterilize-curve.json`.

    Raises:
        InputError: If the extra `figures` is missing.
    """
    figure, axes = canvas(2)
    k = curve["held_out"]["hit_at"]
    branches = [branch for branch in curve["branches"] if branch["looks"]]
    for number, branch in enumerate(branches):
        looks = branch["looks"]
        steps = [look["step"] for look in looks]
        rate = f"{branch['learning_rate']:g}" + (" (chosen)" if branch["chosen"] else "")
        style: dict[str, Any] = {
            "marker": MARKS[number % len(MARKS)],
            "markersize": 4,
            "linewidth": 1.4,
        }
        poison, label = _poison(looks)
        for place, (name, values) in enumerate(poison.items()):
            axes[0].plot(
                steps,
                values,
                label=f"{name}, {rate}",
                linestyle=LINES[place % len(LINES)],
                color=_grey(number, len(branches)),
                **style,
            )
        axes[0].set(ylabel=label)
        for place, way in enumerate(("image", "text")):
            axes[1].plot(
                steps,
                [look["utility"][f"{way}_retrieval"][f"hit@{k}"] for look in looks],
                label=f"{way} retrieval, {rate}",
                linestyle=LINES[place],
                color=_grey(number, len(branches)),
                **style,
            )
    for axis in axes:
        axis.set_xscale("symlog", linthresh=1)
        axis.set(xlabel="steps", xlim=(0, None), ylim=(0, None))
        axis.xaxis.set_major_formatter("{x:g}")
        if axis.get_legend_handles_labels()[0]:
            # above, where it hides no line
            axis.legend(frameon=False, fontsize=7, loc="lower left", bbox_to_anchor=(0, 1))
    axes[1].set(ylabel=f"held-out Hit@{k}", ylim=(0, 1.02))
    return [save(figure, target.with_suffix(ending)) for ending in (".png", ".svg")]


def repair_table(curve: Mapping[str, Any]) -> Table:
    """The learning rates side by side, at the step where each ended.

    Args:
        curve: The content of `sterilize-curve.json`.
    """
    k = curve["held_out"]["hit_at"]
    branches = curve["branches"]
    seen = [branch for branch in branches if branch["looks"]]
    start = seen[0]["looks"][0] if seen else {}
    goals, canaries = (
        list(start.get("test", {}).get("goal", {})),
        list(start.get("canary_goals", {})),
    )
    # one goal stands in the title: its name would make two wide columns
    one = len(goals) == 1
    columns = [
        Column("learning rate"),
        Column("steps"),
        *(Column("Hit@10" if one else f"{goal} Hit@10") for goal in goals),
        *(Column("MinRank" if one else f"{goal} MinRank", 1, narrow=one) for goal in goals),
        *(Column(f"canary {goal} Hit@{k}", narrow=len(goals) == 0) for goal in canaries),
        Column(f"IR Hit@{k}"),
        Column(f"TR Hit@{k}"),
        Column("utility lost"),
        Column("drift of texts", narrow=False),
        Column("of images", narrow=False),
    ]
    rows: list[tuple[Cell, ...]] = []
    if seen:
        rows.append(("before", 0, *_figures(start, goals, canaries, k)))
    for branch in branches:
        verdict = " (chosen)" if branch["chosen"] else ""
        if not branch["keeps_utility"]:
            verdict = " (refused)"
        name = f"{branch['learning_rate']:g}{verdict}"
        if not branch["looks"]:
            rows.append((name, None, *[None] * (len(columns) - 2)))
            continue
        look = branch["looks"][-1]
        rows.append((name, look["step"], *_figures(look, goals, canaries, k)))
    return Table(
        f"Repair, judged on {curve['held_out']['images']} held-out images"
        + (f"; {goals[0]} on the test part" if one else ""),
        tuple(columns),
        tuple(rows),
        note=f"Chosen: {curve['rule']['choice']}.",
    )


def _figures(
    look: Mapping[str, Any], goals: Sequence[str], canaries: Sequence[str], k: int
) -> tuple[Cell, ...]:
    measured = [look["test"]["goal"][goal] for goal in goals]
    return (
        *(row["hit@10"] for row in measured),
        *(row["min_rank"] for row in measured),
        *(look["canary_goals"][goal][f"hit@{k}"] for goal in canaries),
        look["utility"]["image_retrieval"][f"hit@{k}"],
        look["utility"]["text_retrieval"][f"hit@{k}"],
        look["utility_loss"],
        look["drift"]["text"],
        look["drift"]["image"],
    )


def _poison(looks: Sequence[Mapping[str, Any]]) -> tuple[dict[str, list[float]], str]:
    """Lines of what the poison does, by name, and what they are of."""
    if not looks:
        return {}, ""
    goals = list(looks[0].get("test", {}).get("goal", {}))
    if goals:
        return {
            goal: [look["test"]["goal"][goal]["hit@10"] for look in looks] for goal in goals
        }, "Hit@10 of the goal"
    canaries = looks[0].get("canary_goals", {})
    if canaries:
        name = next(key for row in canaries.values() for key in row if key.startswith("hit@"))
        return {
            goal: [look["canary_goals"][goal][name] for look in looks] for goal in canaries
        }, f"{name.capitalize()} of the known goal"
    return {
        "largest": [look.get("largest_z", 0.0) for look in looks]
    }, "what was let go of (robust z)"


def _grey(number: int, of: int) -> str:
    return f"{0.6 * number / max(of - 1, 1):.2f}"
