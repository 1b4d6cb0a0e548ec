"""Draws a matrix as heat maps: attack success, and the utility lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpoison.records.matrix import UNDEFENDED
from mmpoison.reporting import text as _text
from mmpoison.reporting.figure import canvas, save
from mmpoison.reporting.matrix.summary import MatrixSummary
from mmpoison.reporting.matrix.tables import (
    lost,
    signed,
    slug,
    success_table,
    success_text,
    utility_table,
)
from mmpoison.statistics import Estimate

SUCCESS_MAP, UTILITY_MAP = "attack-success.svg", "utility-lost.svg"
FULL_LOSS = 0.2
"""The utility lost that has the darkest colour."""


@dataclass(frozen=True)
class HeatCell:
    """One cell of a heat map: its text, how dark it is in [0, 1], and where it leads."""

    text: str
    shade: float | None
    address: str


def heat_rows(summary: MatrixSummary, *, utility: bool) -> list[tuple[str, list[HeatCell]]]:
    """Return the rows of the map of the utility lost, or of attack success, by their names."""
    rows: list[tuple[str, list[HeatCell]]] = []
    for row in summary.rows:
        address = f"#pieces-{slug(row.name)}"
        if utility:
            names = [c.name for c in summary.defended if c.name != UNDEFENDED]
            losses = [lost(row, name) for name in names]
            cells = [HeatCell(signed(one), _shade(one, FULL_LOSS), address) for one in losses]
        elif row.clean:
            continue
        else:
            cells = []
            for column in summary.defended:
                shown, _ = success_text(row, column.name)
                known = row.cells[column.name].success if shown[0].isdigit() else None
                cells.append(HeatCell(shown, _shade(known, 1.0), address))
        rows.append((row.name, cells))
    return rows


def _shade(estimate: Estimate | None, full: float) -> float | None:
    return None if estimate is None else round(min(max(estimate.value / full, 0.0), 1.0), 3)


def write_heat_maps(summary: MatrixSummary, out: Path) -> list[tuple[str, Path]]:
    """Draw both maps into a folder, and return their titles and paths; a map without rows is left out.

    Raises:
        InputError: Without matplotlib.
    """
    tables = (success_table(summary), utility_table(summary))
    written: list[tuple[str, Path]] = []
    for table, name, utility in zip(tables, (SUCCESS_MAP, UTILITY_MAP), (False, True), strict=True):
        rows = heat_rows(summary, utility=utility)
        if rows:
            figure = _heat_map(table.title, [c.name for c in table.columns[1:]], rows)
            written.append((table.title, save(figure, out / name)))
    return written


def _heat_map(
    title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[HeatCell]]]
) -> Any:
    figure, (axis,) = canvas(1)
    figure.set_size_inches(2.6 + 0.95 * len(columns), 1.5 + 0.32 * len(rows))
    values = [
        [float("nan") if cell.shade is None else cell.shade for cell in cells] for _, cells in rows
    ]
    axis.imshow(values, cmap="Oranges", vmin=0, vmax=1, aspect="auto")
    for y, (_, cells) in enumerate(rows):
        for x, cell in enumerate(cells):
            dark = cell.shade is not None and cell.shade > 0.6
            shown = _text.visible(cell.text).replace("$", r"\$")
            axis.text(x, y, shown, ha="center", va="center", fontsize=8, color="1" if dark else "0")
    axis.set_xticks(range(len(columns)), [_text.visible(c).replace("$", r"\$") for c in columns])
    axis.tick_params(axis="x", rotation=30, length=0)
    axis.tick_params(axis="y", length=0)
    axis.set_yticks(range(len(rows)), [_text.visible(n).replace("$", r"\$") for n, _ in rows])
    axis.spines[:].set_visible(False)
    axis.set_title(title)
    return figure
