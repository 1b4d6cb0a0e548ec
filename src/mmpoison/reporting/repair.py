"""Figures and table of a repair: curves over its steps (figures 7, 9), learning rates (table 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpoison.reporting.figure import canvas, save
from mmpoison.reporting.table import Cell, Column, Table

LINES = ("-", "--", ":", "-.")
MARKS = ("o", "s", "^", "D", "v", "x")


def write_repair_figures(target: Path, curve: Mapping[str, Any]) -> list[Path]:
    """Plot the poison's effect and the utility over the steps, as PNG and SVG.

    The left panel shows the goals on the test part, else the known goals, else the embeddings'
    drift. The right panel shows image and text retrieval of the held-out pairs. Each learning rate
    has its own marker and grey, so the figure needs no colour.

    Args:
        target: The file without its extension.
        curve: Content of `sterilize-curve.json`.

    Raises:
        InputError: If the extra `figures` is missing.
    """
    figure, axes = canvas(2)
    k = curve["held_out"]["hit_at"]
    branches = [branch for branch in curve["branches"] if branch["looks"]]
    for number, branch in enumerate(branches):
        probes = branch["looks"]
        name = _name(branch) + (" (chosen)" if branch["chosen"] else "")
        poison, label = _poison(probes)
        utility = {
            f"{way} retrieval": [p["utility"][f"{way}_retrieval"][f"hit@{k}"] for p in probes]
            for way in ("image", "text")
        }
        for axis, lines in zip(axes, (poison, utility), strict=True):
            for place, (line, values) in enumerate(lines.items()):
                axis.plot(
                    [probe["step"] for probe in probes],
                    values,
                    label=f"{line}, {name}",
                    linestyle=LINES[place % len(LINES)],
                    color=f"{0.6 * number / max(len(branches) - 1, 1):.2f}",
                    marker=MARKS[number % len(MARKS)],
                    markersize=4,
                    linewidth=1.4,
                )
        axes[0].set(ylabel=label)
    for axis in axes:
        axis.set_xscale("symlog", linthresh=1)
        axis.set(xlabel="steps", xlim=(0, None), ylim=(0, None))
        axis.xaxis.set_major_formatter("{x:g}")
        if axis.get_legend_handles_labels()[0]:
            # above the panel, where it hides no line
            axis.legend(frameon=False, fontsize=7, loc="lower left", bbox_to_anchor=(0, 1))
    axes[1].set(ylabel=f"held-out Hit@{k}", ylim=(0, 1.02))
    return [save(figure, target.with_suffix(ending)) for ending in (".png", ".svg")]


def shows_loss(curve: Mapping[str, Any], probes: Sequence[Mapping[str, Any]]) -> bool:
    """Return False if every held-out query is a hit before and after, so that no loss can show.

    Args:
        curve: Content of `sterilize-curve.json`.
        probes: Probes of one learning rate.
    """
    name = f"hit@{curve['held_out']['hit_at']}"
    return not all(
        probe["utility"][f"{way}_retrieval"][name] == 1
        for probe in (probes[0], probes[-1])
        for way in ("image", "text")
    )


def no_loss_shown(curve: Mapping[str, Any]) -> str:
    """Say why the chosen model's utility loss was not measured and what to do; empty if it was."""
    chosen = [branch["looks"] for branch in curve["branches"] if branch["chosen"]]
    if not chosen or shows_loss(curve, chosen[0]):
        return ""
    return (
        f"utility lost: not measured, because all captions and images of {curve['held_out']['images']} held-out images "
        f"are hits before and after (Hit@{curve['held_out']['hit_at']} is 1): hold out more with --held-out, or give "
        "more clean pairs"
    )


def repair_table(curve: Mapping[str, Any]) -> Table:
    """Compare the learning rates, each at its last step.

    Args:
        curve: Content of `sterilize-curve.json`.
    """
    k = curve["held_out"]["hit_at"]
    probed = [branch["looks"] for branch in curve["branches"] if branch["looks"]]
    start = probed[0][0] if probed else {}
    goals, canaries = (
        list(start.get("test", {}).get("goal", {})),
        list(start.get("canary_goals", {})),
    )
    # a single goal is named in the title: its name would widen two columns
    one = len(goals) == 1
    columns = [
        Column("learning rate"),
        Column("steps"),
        *(Column("Hit@10" if one else f"{goal} Hit@10") for goal in goals),
        *(Column("MinRank" if one else f"{goal} MinRank", 1, narrow=one) for goal in goals),
        *(Column(f"canary {goal} Hit@{k}", narrow=not goals) for goal in canaries),
        Column(f"IR Hit@{k}"),
        Column(f"TR Hit@{k}"),
        Column("utility lost"),
        Column("drift of texts", narrow=False),
        Column("of images", narrow=False),
    ]

    def row(name: str, probes: Sequence[Mapping[str, Any]]) -> tuple[Cell, ...]:
        if not probes:
            return (name, *[None] * (len(columns) - 1))
        probe = probes[-1]
        measured = [probe["test"]["goal"][goal] for goal in goals]
        return (
            name,
            probe["step"],
            *(values["hit@10"] for values in measured),
            *(values["min_rank"] for values in measured),
            *(probe["canary_goals"][goal][f"hit@{k}"] for goal in canaries),
            probe["utility"]["image_retrieval"][f"hit@{k}"],
            probe["utility"]["text_retrieval"][f"hit@{k}"],
            probe["utility_loss"] if shows_loss(curve, probes) else None,
            probe["drift"]["text"],
            probe["drift"]["image"],
        )

    rows = [row("before", [start])] if probed else []
    for branch in curve["branches"]:
        verdict = " (chosen)" if branch["chosen"] else ""
        if not branch["keeps_utility"]:
            verdict = " (not needed)" if branch["keeps_utility"] is None else " (refused)"
        rows.append(row(_name(branch) + verdict, branch["looks"]))
    return Table(
        f"Repair, judged on {curve['held_out']['images']} held-out images"
        + (f"; {goals[0]} on the test part" if one else ""),
        tuple(columns),
        tuple(rows),
        note=f"Chosen: {curve['rule']['choice']}." if len(curve["branches"]) > 1 else "",
    )


def _name(branch: Mapping[str, Any]) -> str:
    rate = branch["learning_rate"]
    return "after" if rate is None else f"{rate:g}"


def _poison(probes: Sequence[Mapping[str, Any]]) -> tuple[dict[str, list[float]], str]:
    """Return the curves of the poison's effect, by name, and their axis label."""
    first = probes[0]
    if goals := first.get("test", {}).get("goal", {}):
        lines = {
            goal: [probe["test"]["goal"][goal]["hit@10"] for probe in probes] for goal in goals
        }
        return lines, "Hit@10 of the goal"
    if canaries := first.get("canary_goals", {}):
        name = next(key for row in canaries.values() for key in row if key.startswith("hit@"))
        lines = {goal: [probe["canary_goals"][goal][name] for probe in probes] for goal in canaries}
        return lines, f"{name.capitalize()} of the known goal"
    lines = {f"{kind}s": [probe["drift"][kind] for probe in probes] for kind in ("text", "image")}
    return lines, "drift from the suspect"
