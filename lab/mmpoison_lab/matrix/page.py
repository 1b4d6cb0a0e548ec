"""Writes a matrix as a Markdown page with two heat maps, and as one HTML page."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mode
from typing import TYPE_CHECKING, Any

from mmpoison.base import atomic_file, count_of
from mmpoison.base import text as _text
from mmpoison.datasets import DATASETS
from mmpoison.errors import InputError
from mmpoison.reporting import PageCell, PageTable, canvas, markdown, page_table, save, template
from mmpoison.statistics import Estimate
from mmpoison_lab.matrix.published import (
    above,
    at_most,
    below,
    defences,
    interval,
    probability,
    share,
)
from mmpoison_lab.matrix.records import CLEAN_MODEL, UNDEFENDED
from mmpoison_lab.matrix.summary import (
    ColumnSummary,
    MatrixSummary,
    RowSummary,
    difference,
    mean,
    mean_of,
    of_column,
    utility_lost,
)
from mmpoison_lab.matrix.tables import (
    compared_tables,
    matrix_tables,
    success_table,
    utility_table,
)

if TYPE_CHECKING:
    import pandas as pd

# -- Describes the results of a matrix in sentences, each with its numbers.


CLOSE = 0.05
"""An attack counts as stopped if the interval of its success over the clean model ends below this."""

COST = 0.005
"""Minimum utility loss worth mentioning."""

OURS = "suspicious-groups"


def findings(summary: MatrixSummary) -> list[str]:
    """Describe a matrix: which defences stop which attacks, what they cost, and which attacks get through.

    Args:
        summary: Summary of the pieces.

    Returns:
        Up to ten sentences; none if no attack succeeds.
    """
    plain, triggers = (summary.counted(with_trigger=shown) for shown in (False, True))
    chosen = defences(summary)
    if not (plain or triggers) or not chosen:
        return []
    every, one, other = map(summary.pooled, ([*plain, *triggers], plain, triggers))
    run = {row.triggered for row in summary.rows if not row.clean and row.measured}
    said = [
        _succeeds(len(plain), one, "without a trigger") if False in run else "",
        _succeeds(len(triggers), other, "with a trigger") if True in run else "",
        _stopped(one, chosen, "Without a trigger"),
        _not_shown(one, chosen, "Without a trigger"),
        _stopped(other, chosen, "With a trigger"),
        _not_shown(other, chosen, "With a trigger"),
        _costs(every, chosen),
        _ours(every, chosen),
        _gets_through([row for row in summary.comparable if row.counts], chosen),
        _false_alarms(summary),
    ]
    return [sentence for sentence in said if sentence]


def _succeeds(count: int, pooled: pd.DataFrame, kind: str) -> str:
    if not count:
        return f"No attack {kind} succeeds."
    before, clean = mean(pooled, UNDEFENDED), mean(pooled, CLEAN_MODEL)
    attacks = count_of(count, "attack")
    verb = "succeeds" if count == 1 else "succeed"
    return (
        f"{attacks} {kind} {verb}: undefended, {share(before)} of the attacker's queries succeed; "
        f"under the clean model, {share(clean)}."
    )


def _stopped(pooled: pd.DataFrame, chosen: Sequence[ColumnSummary], what: str) -> str:
    if not len(pooled):
        return ""
    excess = _differences(pooled, CLEAN_MODEL, chosen)
    names = _listed(
        f"{name} ({share(mean(pooled, name))})" for name, e in excess.items() if at_most(e, CLOSE)
    )
    if not names:
        return f"{what}, no defence comes within {CLOSE} of the clean model (at the end of its 95% interval)."
    return f"{what}, these come within {CLOSE} of the clean model (at the end of the 95% interval): {names}."


def _not_shown(pooled: pd.DataFrame, chosen: Sequence[ColumnSummary], what: str) -> str:
    """Name the defences with an uncertain effect: the interval of the change is not below 0."""
    changes = _differences(pooled, UNDEFENDED, chosen)
    names = _listed(
        f"{name} {interval(change)} ({probability(change)})"
        for name, change in changes.items()
        if not below(change, 0)
    )
    said = f"{what}, it is uncertain that these beat `{UNDEFENDED}` (change of success, probability that it is < 0)"
    return f"{said}: {names}." if names else ""


def _costs(pooled: pd.DataFrame, chosen: Sequence[ColumnSummary]) -> str:
    costly: list[str] = []
    more: list[str] = []
    losses = [utility_lost(pooled, column.name) for column in chosen]
    if all(lost is None for lost in losses):
        return ""
    for column, lost in zip(chosen, losses, strict=True):
        if lost is None or lost.value < COST or not above(lost, 0):
            continue
        costly.append(f"{column.name} {interval(lost, 3)}")
        saved = difference(pooled, column.name, UNDEFENDED)
        if saved is not None and saved.value < lost.value:
            more.append(column.name)
    if not costly:
        return f"No defence costs {COST} of utility or more."
    last = f"; this exceeds the drop in attack success for {_listed(more)}" if more else ""
    return f"Utility is lost by {_listed(costly)}{last}."


def _ours(pooled: pd.DataFrame, chosen: Sequence[ColumnSummary]) -> str:
    own = next((column.name for column in chosen if column.method == OURS), None)
    if own is None:
        return ""
    changes = _differences(pooled, own, [column for column in chosen if column.name != own])
    less = _listed(f"{name} ({probability(d)})" for name, d in changes.items() if d.value < 0)
    left = f"{own} leaves {share(mean(pooled, own))}"
    return (
        f"{left}; these leave less, with this probability: {less}."
        if less
        else f"{left}; no other defence leaves less."
    )


def _gets_through(rows: Sequence[RowSummary], chosen: Sequence[ColumnSummary]) -> str:
    found: list[tuple[float, str]] = []
    for row in rows:
        means = {column.name: mean(row.cells, column.name) for column in chosen}
        left = [(one.value, name) for name, one in means.items() if one is not None]
        clean = mean(row.cells, CLEAN_MODEL)
        if left and clean is not None:
            least, name = min(left)
            text = (
                f"{row.name}, which keeps {least:.2f} after {name} (clean model: {clean.value:.2f})"
            )
            found.append((least - clean.value, text))
    if not found:
        return ""
    most, text = max(found)
    if most < CLOSE:
        return f"For every attack some defence comes within {CLOSE} of the clean model on average."
    return f"The attack that survives the defences best is {text}."


def _false_alarms(summary: MatrixSummary) -> str:
    clean = summary.pooled(row for row in summary.rows if row.clean)
    found = {c.name: mean_of(of_column(clean, c.name), "clean_lost") for c in defences(summary)}
    lost = {name: value for name, value in found.items() if value is not None}
    if not lost:
        return ""
    drops = _listed(f"{name} {value:.1%}" for name, value in lost.items())
    return f"Without any poison, the filters drop at their own cut: {drops}."


def _differences(
    pooled: pd.DataFrame, first: str, columns: Sequence[ColumnSummary]
) -> dict[str, Estimate]:
    """Return how much more attack success each column leaves than the first, on common pieces."""
    found = {column.name: difference(pooled, first, column.name) for column in columns}
    return {name: change for name, change in found.items() if change is not None}


def _listed(names: Iterable[str]) -> str:
    *first, last = [*names] or [""]
    return f"{', '.join(first)} and {last}" if first else last


# -- Draws a matrix as heat maps: attack success, and utility loss.


SUCCESS_MAP, UTILITY_MAP = "attack-success.svg", "utility-lost.svg"
FULL_LOSS = 0.2
"""Utility loss with the darkest colour."""


def heat_map(summary: MatrixSummary, *, utility: bool) -> PageTable:
    """Create the table of utility loss or attack success, with shaded cells."""
    table = utility_table(summary) if utility else success_table(summary)
    rows = [row for row in summary.rows if utility or not row.clean]
    page = page_table(table)
    names = [column.name for column in table.columns[1:]]
    shaded: list[list[PageCell]] = []
    for row, (head, *cells) in zip(rows, page.rows, strict=True):
        shaded.append([head])
        for name, cell in zip(names, cells, strict=True):
            if utility:
                shade = _shade(utility_lost(row.cells, name), FULL_LOSS)
            else:
                shade = _shade(mean(row.cells, name), 1.0) if cell.lines[0][:1].isdigit() else None
            shaded[-1].append(replace(cell, shade=shade))
    return replace(page, rows=shaded)


def _shade(estimate: Estimate | None, full: float) -> float | None:
    return None if estimate is None else round(min(max(estimate.value / full, 0.0), 1.0), 3)


def write_heat_maps(summary: MatrixSummary, out: Path) -> list[tuple[str, Path]]:
    """Draw both maps to a folder, and return their titles and paths. A map without rows is left out.

    Raises:
        InputError: If matplotlib is missing.
    """
    written: list[tuple[str, Path]] = []
    for name, of_utility in ((SUCCESS_MAP, False), (UTILITY_MAP, True)):
        table = heat_map(summary, utility=of_utility)
        if table.rows:
            written.append((table.title, save(_drawn(table), out / name)))
    return written


def _drawn(table: PageTable) -> Any:
    figure, (axis,) = canvas(1)
    names = [column.name.replace("$", r"\$") for column in table.columns[1:]]
    figure.set_size_inches(2.6 + 0.95 * len(names), 1.5 + 0.32 * len(table.rows))
    values = [
        [float("nan") if cell.shade is None else cell.shade for cell in cells]
        for _, *cells in table.rows
    ]
    axis.imshow(values, cmap="Oranges", vmin=0, vmax=1, aspect="auto")
    for y, (_, *cells) in enumerate(table.rows):
        for x, cell in enumerate(cells):
            dark = cell.shade is not None and cell.shade > 0.6
            shown = cell.lines[0].replace("$", r"\$")
            axis.text(x, y, shown, ha="center", va="center", fontsize=8, color="1" if dark else "0")
    axis.set_xticks(range(len(names)), names)
    axis.tick_params(axis="x", rotation=30, length=0)
    axis.tick_params(axis="y", length=0)
    rows = [head.lines[0].replace("$", r"\$") for head, *_ in table.rows]
    axis.set_yticks(range(len(rows)), rows)
    axis.spines[:].set_visible(False)
    axis.set_title(table.title)
    return figure


PAGE, HTML = "matrix.md", "matrix.html"


def write_matrix_pages(summary: MatrixSummary, out: Path) -> list[Path]:
    """Write the pages of a matrix into a folder, and return their paths.

    Args:
        summary: Summary of the pieces.
        out: The folder; files of an earlier call are replaced. Without matplotlib there are no SVG files.

    Raises:
        InputError: If `out` is a file.
    """
    if out.is_file():
        raise InputError(f"{out}: is a file, not a folder: choose another --out")
    figures: list[tuple[str, Path]] = []
    try:
        figures = write_heat_maps(summary, out)
        missing = ""
    except InputError as error:
        missing = f"No heat maps: {error}\n\n"
    with atomic_file(out / PAGE) as temporary:
        temporary.write_text(_markdown_page(summary, figures, missing), encoding="utf-8")
    with atomic_file(out / HTML) as temporary:
        temporary.write_text(matrix_html(summary), encoding="utf-8")
    return [out / PAGE, out / HTML, *(path for _, path in figures)]


def matrix_html(summary: MatrixSummary) -> str:
    """Create the HTML page: one self-contained file, with a script for sorting and folding."""
    compared = compared_tables(summary)
    _, _, *tables = map(page_table, matrix_tables(summary)[len(compared) :])
    maps = [replace(heat_map(summary, utility=each), title="") for each in (False, True)]
    effects = replace(tables.pop(0), title="") if summary.counted() else None
    attacks = tables[len(tables) - 2 * len(summary.rows) :]
    return template("matrix", "mmpoison_lab").render(
        compared=[replace(page_table(table), title="") for table in compared],
        success=maps[0],
        utility=maps[1],
        effects=effects,
        others=[replace(table, title="") for table in tables[: len(tables) - len(attacks)]],
        attacks=[
            (_text.visible(row.name), pair)
            for row, *pair in zip(summary.rows, attacks[::2], attacks[1::2], strict=True)
        ],
        **_text.clean(
            {
                "title": _title(summary),
                "lead": _lead(summary),
                "findings": findings(summary),
                "warnings": _warnings(summary),
                "commands": _commands(summary),
            }
        ),
    )


# -- Writes the text of the pages.


def _title(summary: MatrixSummary) -> str:
    # `matrix-openmoji-both` has the same data as `matrix` but different training
    variant = summary.facts.name.partition("-")[2]
    return f"Attacks against defences: {variant or summary.facts.data or summary.facts.name}"


def _lead(summary: MatrixSummary) -> str:
    counted = [row for row in summary.rows if row.counts and not row.clean]
    poisoned = [row for row in summary.rows if not row.clean]
    odd = _odd_columns(summary)
    usual = next(column for column in summary.columns if column not in odd)
    return (
        f"{'Most' if odd else 'All'} columns were measured on {_measured(usual)}; a piece is an attack with "
        f"a goal and a seed. The undefended attack succeeds at least {summary.facts.took:.0%} of the time in "
        f"{len(counted)} of {len(poisoned)} rows; only these rows are compared."
    )


def _odd_columns(summary: MatrixSummary) -> list[ColumnSummary]:
    """Return the columns that were measured on other pieces than most columns."""
    usual = mode(column.pieces for column in summary.columns)
    return [column for column in summary.columns if column.pieces != usual]


def _measured(column: ColumnSummary) -> str:
    seeds = f"{count_of(len(column.seeds), 'seed')} ({', '.join(map(str, column.seeds))})"
    return (
        f"{count_of(len(column.pieces), 'piece')} of {count_of(column.goals, 'goal')} and {seeds}"
    )


def _warnings(summary: MatrixSummary) -> list[str]:
    found = []
    if summary.facts.tuning:
        found.append(
            "These numbers come from the goal and seed on which settings are chosen, so they are not results."
        )
    if any(column.goals < 6 or len(column.seeds) < 3 for column in summary.columns):
        found.append(
            "There are fewer than 6 goals x 3 seeds, so intervals are wide; one goal gives no interval."
        )
    found += [
        f"{column.name} was measured on other pieces than most columns, {_measured(column)}: compare changes, not "
        "means."
        for column in _odd_columns(summary)
    ]
    return found


def _commands(summary: MatrixSummary) -> list[str]:
    name, _, data = summary.facts.name.partition("-")
    run = f"mmpoison run {shlex.quote(name)}" + (f" --on {shlex.quote(data)}" if data else "")
    if (used := summary.facts.data) and used in DATASETS and DATASETS[used].needs_root:
        run += " --data-root DATA"
    return [
        f"{run} --out DIR",
        f"{run} --with rows=ROW --with columns=COLUMN --out DIR   # a part of it",
        "mmpoison report DIR   # these pages again",
    ]


def _markdown_page(
    summary: MatrixSummary, figures: Sequence[tuple[str, Path]], missing: str
) -> str:
    pictures = "".join(f"![{name}]({path.name})\n\n" for name, path in figures)
    warnings = "".join(f"**{line}**\n\n" for line in _warnings(summary))
    code = "\n".join(_commands(summary))
    said = "".join(f"{n}. {_text.visible(line)}\n" for n, line in enumerate(findings(summary), 1))
    said += "\n" if said else ""
    return (
        f"# {_text.visible(_title(summary))}\n\n{_lead(summary)}\n\n{warnings}{said}"
        f"```sh\n{code}\n```\n\n{missing}{pictures}"
        f"{markdown(matrix_tables(summary))}\n"
        "Every measurement is in [runs.parquet](runs.parquet), one row per number.\n"
    )
