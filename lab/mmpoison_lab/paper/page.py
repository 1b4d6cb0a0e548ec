"""A page for one table or figure of the paper: its parts, and the source of each number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmpoison.base import decimal
from mmpoison.reporting import Cell, Column, Compared, Link, Measured, Row, Table
from mmpoison.statistics import FEWEST_SEEDS, Summary

Sense = Literal["up", "down"] | None
"""Which direction is better: for an attack a higher Hit@K, for a defence a lower one, for a baseline neither."""

STRONGER = (
    "Measured: mean over seeds [95% interval of the mean], then the paper's number. ▲ better than the paper, ▼ worse "
    "(for an attack: stronger, weaker), ↑ ↓ higher, lower (neither is better), ≈ the paper's number lies within "
    "the measured interval. MinRank counts from 0. –: not computed."
)

TOO_FEW_SEEDS = "?"
"""Replaces the arrow if there are too few seeds."""


@dataclass(frozen=True)
class Picture:
    """A figure to be drawn.

    Attributes:
        name: Name of its files.
        caption: What it shows.
        draw: Creates the matplotlib figure.
    """

    name: str
    caption: str
    draw: Callable[[], Any]


@dataclass(frozen=True)
class PaperCell(Compared):
    """A compared number with its seeds, so that differences from another number can be paired.

    Attributes:
        numbers: The measured number of each seed, with its source rows.
    """

    numbers: Measured = field(default=Measured(None), compare=False)


@dataclass
class Page:
    """The content of one table or figure: tables, pictures, sources.

    Attributes:
        id: `table-3`.
        title: Subject of the paper's table or figure.
        tables: Its tables.
        pictures: Its figures.
        notes: Further notes for the reader.
    """

    id: str
    title: str
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _sources: dict[tuple[tuple[str, int, str | None], ...], int] = field(default_factory=dict)

    @property
    def heading(self) -> str:
        """Its name in the paper, with its title.

        >>> Page("figure-5b", "All goals").heading, Page("overview", "All numbers").heading
        ('Figure 5b: All goals', 'All numbers')
        """
        name = name_of(self.id)
        return f"{name}: {self.title}" if name else self.title

    @property
    def empty(self) -> bool:
        """Whether it has no measured number."""
        return not self._sources

    def cell(
        self,
        measured: Measured,
        reference: float | None = None,
        *,
        sense: Sense = None,
        digits: int = 3,
        reference_sd: float | None = None,
        spread: bool = False,
    ) -> PaperCell:
        """Create a cell with a measured number next to the paper's, with a link to its runs.

        Args:
            measured: The number over the seeds of our runs.
            reference: The paper's number.
            sense: Which direction is better.
            digits: Decimal places to show, and to compare if the measured number has no interval.
            reference_sd: The paper's standard deviation.
            spread: Also show our standard deviation.
        """
        arrow = "" if reference is None else compare(measured, reference, sense, digits)
        address = self.source(measured)
        return PaperCell(
            measured.summary, reference, arrow, address, reference_sd, spread, measured
        )

    def source(self, measured: Measured) -> str:
        """Return the anchor of a number's runs in the table of sources; empty if there is none."""
        return "" if measured.summary is None else self.source_of(measured.rows)

    def source_of(self, rows: Sequence[Row]) -> str:
        """Return the anchor of some rows' runs in the table of sources."""
        if not rows:
            return ""
        runs = dict.fromkeys(
            (str(row["run"]), int(row["seed"]), row.get("manifest")) for row in rows
        )
        number = self._sources.setdefault(tuple(runs), len(self._sources) + 1)
        return f"#{self.id}-source-{number}"

    def table(
        self,
        title: str,
        columns: Sequence[Column],
        rows: Sequence[Sequence[Cell]],
        note: str = "",
    ) -> None:
        """Add a table, unless it has no rows."""
        if rows:
            cells = tuple(map(tuple, rows))
            if any(
                isinstance(c, Compared) and c.arrow == TOO_FEW_SEEDS for row in cells for c in row
            ):
                few = f"{TOO_FEW_SEEDS} too few seeds to compare (fewer than {FEWEST_SEEDS})."
                note = f"{note} {few}".lstrip()
            self.tables.append(Table(title, tuple(columns), cells, note))

    def picture(self, name: str, caption: str, draw: Callable[[], Any]) -> None:
        """Add a figure."""
        self.pictures.append(Picture(name, caption, draw))

    def next_picture(self) -> str:
        """Return the next figure name: `figure-6`, `figure-6-2`, ..."""
        return self.id if not self.pictures else f"{self.id}-{len(self.pictures) + 1}"

    def sources(self, relative: Callable[[Path], str]) -> Table | None:
        """List every number's runs: folder, seed and manifest.

        Args:
            relative: Returns the address of a file, relative to the file with the table.
        """
        rows: list[tuple[Cell, ...]] = []
        for runs, number in self._sources.items():
            for place, (run, seed, manifest) in enumerate(runs):
                folder = Path(run)
                anchor = f"{self.id}-source-{number}"
                digest = manifest and Link(manifest[:12], relative(folder / "manifest.json"))
                rows.append(
                    (
                        Link("", "") if place else Link(str(number), anchor=anchor),
                        Link(_short(folder), relative(folder)),
                        seed,
                        Link("metrics.json", relative(folder / "metrics.json")),
                        digest,
                    )
                )
        if not rows:
            return None
        columns = tuple(map(Column, ("#", "run", "seed", "numbers", "manifest (sha256)")))
        return Table("Sources", columns, tuple(rows), "Each number above leads to its line here.")


def name_of(page: str) -> str:
    """Return the name of a table or figure in the paper; empty for another page.

    >>> name_of("figure-5b"), name_of("overview")
    ('Figure 5b', '')
    """
    kind, _, number = page.partition("-")
    return f"{kind.capitalize()} {number}" if kind in ("table", "figure") and number else ""


def ends(summary: Summary | None) -> tuple[float, float] | None:
    """Return the 95% interval of a number over seeds, or None."""
    if summary is None or summary.low is None or summary.high is None:
        return None
    return summary.low, summary.high


def _short(folder: Path) -> str:
    """Return a run's name with that of its parent folder, or of its sweep.

    >>> _short(Path("out/attack-I/seed0")), _short(Path("out/table-3/runs/seed0"))
    ('attack-I/seed0', 'table-3/seed0')
    """
    parent = folder.parent.parent if folder.parent.name == "runs" else folder.parent
    return f"{parent.name}/{folder.name}" if parent.name else folder.name


def compare(measured: Measured, reference: float, sense: Sense, digits: int) -> str:
    """Return an arrow that compares a measured number with the paper's, or `TOO_FEW_SEEDS` if that is unknown.

    Args:
        measured: The number over the seeds of our runs.
        reference: The paper's number.
        sense: Which direction is better.
        digits: Decimal places; numbers that look equal at this precision are equal.
    """
    summary = measured.summary
    if summary is None:
        return ""
    if summary.n < FEWEST_SEEDS and not measured.exact:
        return TOO_FEW_SEEDS
    same = decimal(summary.mean, digits) == decimal(reference, digits)
    if summary.low is not None and summary.high is not None:
        same = same or summary.low <= reference <= summary.high
    if same:
        return "≈"
    higher = summary.mean > reference
    if sense is None:
        return "↑" if higher else "↓"
    return "▲" if higher == (sense == "up") else "▼"
