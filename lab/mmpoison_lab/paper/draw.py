"""Draws the kinds of figures in the paper, readable in grey by markers, lines and hatching."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.base import visible
from mmpoison.reporting import Compared, canvas
from mmpoison.statistics import Summary


def mark_threshold(axis: Any, threshold: float) -> None:
    """Draw a vertical line at a threshold, with its value."""
    axis.axvline(threshold, color="0.0", linestyle="-.", linewidth=1.2)
    axis.annotate(
        f"threshold {threshold:.3f}",
        (threshold, 1),
        xycoords=("data", "axes fraction"),
        xytext=(4, -12),
        textcoords="offset points",
        fontsize=9,
    )


def plain(text: str) -> str:
    r"""Escape text for matplotlib, which interprets text between dollar signs as a formula.

    >>> plain("$\\frac$")
    '\\$\\frac\\$'
    """
    return visible(text).replace("$", r"\$")


LINES = ("-", "--", ":", "-.")
MARKS = ("o", "s", "^", "D", "v", "x", "P", "*")
GREYS = ("0.0", "0.35", "0.55", "0.2")


Series = Mapping[str, Sequence[tuple[float, Summary]]]
"""Lines by name, with a number over seeds for each x."""


def curves(
    panels: Mapping[str, Series],
    xlabel: str,
    *,
    log: bool = False,
    ticks: Sequence[str] | None = None,
) -> Any:
    """Draw lines with the 95% interval of the mean at each point, one panel per measure.

    Args:
        panels: Lines by measure, side by side; axes of Hit@K end at 1.
        xlabel: The variable on the x axis.
        log: Use a logarithmic axis that begins at 0.
        ticks: Names of the axis values 0, 1, ..., if they are not numbers.
    """
    figure, axes = canvas(len(panels))
    # room for the legend above
    most = max(map(len, panels.values()), default=0)
    figure.set_size_inches(7.2, 3.4 + 0.18 * most)
    for axis, (measure, series) in zip(axes, panels.items(), strict=True):
        for number, (name, unsorted) in enumerate(series.items()):
            points = sorted(unsorted, key=lambda point: point[0])
            xs = [x for x, _ in points]
            means = [s.mean for _, s in points]
            drawn = axis.errorbar(
                xs,
                means,
                yerr=_errors([s for _, s in points]),
                label=shorten(plain(name), 48, placeholder=" …"),
                linestyle=LINES[number % len(LINES)] if ticks is None else "none",
                marker=MARKS[number % len(MARKS)],
                color=GREYS[number % len(GREYS)],
                markersize=5,
                linewidth=1.4,
                capsize=3,
            )
            # markers on the axis are not clipped; intervals are clipped at the axes
            drawn.lines[0].set_clip_on(False)
        if log:
            _logarithmic(axis)
        elif ticks is None and all(x == int(x) for points in series.values() for x, _ in points):
            axis.xaxis.get_major_locator().set_params(integer=True)
        if ticks is not None:
            axis.set_xticks(
                range(len(ticks)), [plain(str(t)) for t in ticks], rotation=20, ha="right"
            )
            axis.set_xlim(-0.5, len(ticks) - 0.5)
        top = 1.02 if measure.startswith("Hit@") else None
        axis.set(xlabel=xlabel, ylabel=measure, ylim=(0, top))
        _legend(axis)
    return figure


def dots(lines: Sequence[str], panels: Mapping[str, Sequence[Compared]]) -> Any:
    """Draw measured numbers with 95% intervals and the paper's numbers, one per line.

    Args:
        lines: Names of the lines, from top to bottom.
        panels: Measures, side by side, with a number for every line. Ranks have a logarithmic axis, Hit@K an axis from
            0 to 1.
    """
    figure, axes = canvas(len(panels))
    figure.set_size_inches(2.6 + 2.1 * len(panels), 1.1 + 0.3 * len(lines))
    for number, (axis, (name, cells)) in enumerate(zip(axes, panels.items(), strict=True)):
        ours = [(y, s) for y, cell in enumerate(cells) if (s := cell.measured) is not None]
        theirs = [(y, v) for y, cell in enumerate(cells) if (v := cell.reference) is not None]
        if ours:
            axis.errorbar(
                [s.mean for _, s in ours],
                [y - 0.12 for y, _ in ours],
                xerr=_errors([s for _, s in ours]),
                fmt="o",
                color="0.0",
                markersize=5,
                capsize=3,
                linewidth=1.4,
                label="measured, with its 95% interval",
            )
        if theirs:
            axis.plot(
                [value for _, value in theirs],
                [y + 0.2 for y, _ in theirs],
                linestyle="none",
                marker="D",
                markerfacecolor="none",
                color="0.35",
                markersize=6,
                label="the paper",
            )
        if name == "MinRank":
            _logarithmic(axis)
        elif name.startswith("Hit@"):
            # dots at 0 or 1 are not clipped
            axis.set_xlim(-0.04, 1.04)
        axis.set_yticks(
            range(len(lines)),
            [plain(line) for line in lines] if not number else [],
        )
        axis.set_ylim(len(lines) - 0.5, -0.5)
        axis.grid(axis="y", color="0.9")
        axis.set_axisbelow(True)
        axis.set_title(name, fontsize=10)
    handles, names = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=8
        )
    return figure


def bars(
    groups: Sequence[str],
    series: Sequence[tuple[str, Sequence[Summary | None]]],
    ylabel: str,
) -> Any:
    """Draw groups of bars side by side, with intervals.

    Args:
        groups: Names of the groups.
        series: Values of each kind of bar in each group, by name; None leaves a gap.
        ylabel: The measure.
    """
    figure, (axis,) = canvas(1)
    width = 0.8 / len(series)
    for number, (name, values) in enumerate(series):
        places = [g + (number - (len(series) - 1) / 2) * width for g in range(len(groups))]
        known = [(x, v) for x, v in zip(places, values, strict=True) if v is not None]
        axis.bar(
            [x for x, _ in known],
            [v.mean for _, v in known],
            width * 0.9,
            yerr=_errors([v for _, v in known]) if known else None,
            capsize=4,
            label=name,
            facecolor=("0.85", "0.6", "1.0")[number % 3],
            edgecolor="0.0",
            hatch=("", "////")[number % 2],
        )
    axis.set_xticks(range(len(groups)), [plain(g) for g in groups])
    axis.set(ylabel=ylabel, ylim=(0, None))
    _legend(axis)
    return figure


def heat_map(values: npt.NDArray[np.float64], labels: Sequence[str], title: str) -> Any:
    """Draw a heat map. Rows are original classes, columns target classes; lighter means a smaller MinRank.

    Args:
        values: Shape (C, C); NaN if there is no goal or no run.
        labels: The classes.
        title: Meaning of the shade.
    """
    from matplotlib import colormaps

    figure, (axis,) = canvas(1)
    # cells of a third of an inch, and room for names and axis labels
    side = max(3.0, 0.34 * len(labels)) + 0.8 + 0.07 * max(map(len, labels), default=0)
    figure.set_size_inches(side + 1.2, side)
    # logarithm of the rank: most goals are below ten, a few above a hundred
    shade = np.log10(1 + values)
    colours = colormaps["gray_r"].with_extremes(bad="1.0")
    image = axis.imshow(np.ma.masked_invalid(shade), cmap=colours, vmin=0)
    top = np.nanmax(shade) if np.isfinite(shade).any() else 1.0
    for row, column in np.ndindex(*values.shape):
        known = math.isfinite(values[row, column])
        if row == column and not known:
            axis.plot(column, row, marker="x", color="0.6", markersize=5)
            continue
        text = f"{values[row, column]:.0f}" if known else "–"
        colour = ("1.0" if shade[row, column] > top / 2 else "0.0") if known else "0.3"
        axis.text(column, row, text, ha="center", va="center", fontsize=6, color=colour)
    names = [plain(label) for label in labels]
    axis.set_xticks(range(len(labels)), names, rotation=90, fontsize=8)
    axis.set_yticks(range(len(labels)), names, fontsize=8)
    axis.set(xlabel="target class", ylabel="original class")
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axis, shrink=0.8)
    marks = [m for m in (0, 1, 3, 10, 30, 100, 300, 1000) if np.log10(1 + m) <= top + 0.05]
    bar.set_ticks([float(np.log10(1 + m)) for m in marks], labels=[str(m) for m in marks])
    bar.set_label(title)
    return figure


def densities(
    kinds: Sequence[tuple[str, npt.NDArray[np.float64], npt.NDArray[np.float64]]],
    threshold: float | None,
    printed: Mapping[str, float],
) -> Any:
    """Draw densities of the distances of clean and poisoned pairs, with the threshold (figure 6).

    Args:
        kinds: Name, bin edges and densities of each kind of pair.
        threshold: The threshold.
        printed: The paper's centres by name, marked on the axis.
    """
    figure, (axis,) = canvas(1)
    for number, (name, edges, density) in enumerate(kinds):
        axis.stairs(
            density,
            edges,
            label=name,
            linestyle=LINES[number % len(LINES)],
            color=GREYS[number % len(GREYS)],
            linewidth=1.6,
            hatch="////" if number == 1 else None,
            fill=False,
        )
    if threshold is not None:
        mark_threshold(axis, threshold)
    for number, (name, centre) in enumerate(printed.items()):
        axis.plot(
            [centre], [0.015], marker="^v"[number % 2], color="0.0", linestyle="none",
            transform=axis.get_xaxis_transform(), label=f"paper: {name} centre at {centre:g}",
        )  # fmt: skip
    highest = max((max(density, default=0.0) for _, _, density in kinds), default=0.0)
    axis.set(xlabel="cosine distance of image and caption", ylabel="density")
    axis.set_ylim(0, 1.15 * highest or 1.0)
    _legend(axis)
    return figure


def maps(
    panels: Sequence[tuple[str, Sequence[tuple[float, float, str]]]], kinds: Mapping[str, str]
) -> Any:
    """Draw points in two dimensions, one panel per cloud, with a marker per kind.

    Args:
        panels: Title and points (x, y, kind) of each panel.
        kinds: Kinds in drawing order, with their names.
    """
    figure, axes = canvas(len(panels))
    if len(panels) > 3:
        figure.set_size_inches(2.6 * len(panels), 3.2)
    styles: dict[str, dict[str, Any]] = {
        "other": {"marker": ".", "color": "0.75", "s": 6},
        "target": {"marker": "^", "facecolors": "none", "edgecolors": "0.3", "s": 22},
        "original": {"marker": "x", "color": "0.0", "s": 22},
    }
    for number, (axis, (title, points)) in enumerate(zip(axes, panels, strict=True)):
        for kind, name in kinds.items():
            mine = [(x, y) for x, y, k in points if k == kind]
            if mine:
                axis.scatter(
                    *zip(*mine, strict=True), label=plain(name), linewidths=0.8, **styles[kind]
                )
        axis.set(title=title, xticks=[], yticks=[], aspect="equal")
        axis.spines[:].set_visible(True)
        if number == 0:
            axis.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.02))
    return figure


def sheet(
    rows: Sequence[tuple[str, Sequence[tuple[npt.NDArray[np.uint8] | None, str, bool]]]],
) -> Any:
    """Draw rows of images with a line of text below each. Marked images have a thick frame.

    Args:
        rows: Title of each row, and its images: pixels of shape (H, W, 3) or None, text, and whether it is marked.
    """
    figure, (only,) = canvas(1)
    only.remove()
    columns = max((len(pictures) for _, pictures in rows), default=1)
    figure.set_size_inches(max(4.0, 1.05 * columns + 0.4), 1.6 * max(1, len(rows)))
    # one sub-figure per row: a long title must not widen the first image's column
    parts = figure.subfigures(max(1, len(rows)), 1, squeeze=False)
    for (title, pictures), (part,) in zip(rows, parts, strict=False):
        part.suptitle(plain(title), fontsize=8, x=0.01, ha="left")
        for c, (pixels, text, marked) in enumerate(pictures):
            axis = part.add_subplot(1, columns, c + 1)
            if pixels is not None:
                axis.imshow(pixels)
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(plain(shorten(text, 24, placeholder="…")), fontsize=6.5)
            for spine in axis.spines.values():
                spine.set(linewidth=3.0 if marked else 0.4)
    return figure


def _logarithmic(axis: Any) -> None:
    """Make the x axis logarithmic from 1 on, beginning at 0."""
    axis.set_xscale("symlog", linthresh=1)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlim(left=0)


def _errors(summaries: Sequence[Summary]) -> Any:
    if not any(s.low is not None for s in summaries):
        return None
    return [
        [s.mean - s.low if s.low is not None else 0.0 for s in summaries],
        [s.high - s.mean if s.high is not None else 0.0 for s in summaries],
    ]


def _legend(axis: Any) -> None:
    if axis.get_legend_handles_labels()[0]:
        # above, where it hides nothing
        names = axis.get_legend_handles_labels()[1]
        columns = 2 if max(map(len, names)) <= 24 else 1
        axis.legend(
            frameon=False, fontsize=7.5, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns
        )
