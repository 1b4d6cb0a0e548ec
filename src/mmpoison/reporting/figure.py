"""Creates figures of matplotlib and saves them in one style."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from mmpoison.base.extras import require
from mmpoison.base.files import atomic_file


def canvas(panels: int) -> tuple[Any, list[Any]]:
    """Make a figure with panels side by side.

    Raises:
        InputError: If the extra `figures` is missing.
    """
    require("matplotlib.figure", "figures need matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # no pyplot: it has state of the whole process, and needs a screen
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(1, panels, number + 1) for number in range(panels)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


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


def svg_address(figure: Any) -> str:
    """Encode a figure as a `data:` address, for a self-contained page."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "mmpoison"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def save(figure: Any, target: Path) -> Path:
    """Write a figure whole or not at all, in the format of the file's ending."""
    from matplotlib import rc_context

    # the same figure is the same file: no date, no version, no random names
    metadata: dict[str, Any] = {"Date" if target.suffix == ".svg" else "Software": None}
    with atomic_file(target) as temporary, rc_context({"svg.hashsalt": "mmpoison"}):
        figure.savefig(temporary, format=target.suffix[1:], dpi=150, metadata=metadata)
    return target
