"""One table or figure of the paper while it is made: its parts, and where each number comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmpoison.reporting import Cell, Column, Compared, Link, Measured, Row, Table, decimal
from mmpoison.statistics import FEWEST_SEEDS, Summary

Sense = Literal["up", "down"] | None
"""Which way is better: for an attack a higher Hit@K, for a defence a lower one, for a baseline neither."""

STRONGER = (
    "Measured: mean over seeds [95% interval of the mean], then the paper's number. ▲ better than the paper, ▼ worse "
    "(for an attack: stronger, weaker), ↑ ↓ higher, lower where neither is better, ≈ the paper's number lies within "
    "the measured interval. MinRank counts from 0. –: not computed."
)

TOO_FEW_SEEDS = "?"
"""In place of an arrow."""


@dataclass(frozen=True)
class Picture:
    """A figure to be drawn.

    Attributes:
        name: Of its files.
        caption: What it shows.
        draw: Makes the figure of matplotlib.
    """

    name: str
    caption: str
    draw: Callable[[], Any]


@dataclass(frozen=True)
class PaperCell(Compared):
    """A compared number that knows its seeds, so that its difference from another one can be paired.

    Attributes:
        numbers: The measured number of each seed, and the rows that it comes from.
    """

    numbers: Measured = field(default=Measured(None), compare=False)


@dataclass
class Page:
    """The content of one table or figure: tables, pictures, sources.

    Attributes:
        id: `table-3`.
        title: What the paper's table or figure is of.
        tables: Its tables.
        pictures: Its figures.
        notes: What else a reader must know.
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
        """Make a cell with a measured number next to the paper's, with a link to its runs.

        Args:
            measured: Over the seeds of our runs.
            reference: The paper's.
            sense: Which way is better.
            digits: As many are shown, and compared where the measured one has no interval.
            reference_sd: The paper's standard deviation.
            spread: Show our standard deviation too.
        """
        arrow = "" if reference is None else compare(measured, reference, sense, digits)
        address = self.source(measured)
        return PaperCell(
            measured.summary, reference, arrow, address, reference_sd, spread, measured
        )

    def source(self, measured: Measured) -> str:
        """Return the place of a number's runs in the table of sources; empty if there is none."""
        return "" if measured.summary is None else self.source_of(measured.rows)

    def source_of(self, rows: Sequence[Row]) -> str:
        """Return the place of some rows' runs in the table of sources."""
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
        """Add a table; one without rows is left out."""
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
        """Name one more figure: `figure-6`, `figure-6-2`, ..."""
        return self.id if not self.pictures else f"{self.id}-{len(self.pictures) + 1}"

    def sources(self, relative: Callable[[Path], str]) -> Table | None:
        """List every number's runs: folder, seed and manifest.

        Args:
            relative: The address of a file, seen from the file that will hold the table.
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
    """Return the name that a table or figure has in the paper; empty for another page.

    >>> name_of("figure-5b"), name_of("overview")
    ('Figure 5b', '')
    """
    kind, _, number = page.partition("-")
    return f"{kind.capitalize()} {number}" if kind in ("table", "figure") and number else ""


def ends(summary: Summary | None) -> tuple[float, float] | None:
    """Return the 95% interval of a number over seeds; None without one."""
    if summary is None or summary.low is None or summary.high is None:
        return None
    return summary.low, summary.high


def _short(folder: Path) -> str:
    """Return a run's name with that of what it belongs to, for a run of a sweep that of the sweep.

    >>> _short(Path("out/attack-I/seed0")), _short(Path("out/table-3/runs/seed0"))
    ('attack-I/seed0', 'table-3/seed0')
    """
    parent = folder.parent.parent if folder.parent.name == "runs" else folder.parent
    return f"{parent.name}/{folder.name}" if parent.name else folder.name


def compare(measured: Measured, reference: float, sense: Sense, digits: int) -> str:
    """Return an arrow: how a measured number compares with the paper's; `TOO_FEW_SEEDS` where that is not known.

    Args:
        measured: Over the seeds of our runs.
        reference: The paper's.
        sense: Which way is better.
        digits: Number of digits with which equal numbers count as the same.
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
