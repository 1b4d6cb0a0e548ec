"""The experiment `matrix`: `mmpoison run` and `mmpoison report` of attacks against defences."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import typer

from mmpoison.base import count_of
from mmpoison.cli import (
    FAILED,
    Format,
    busy,
    duration,
    live_progress,
    print_tables,
    say,
    shown,
    tell_failures,
)
from mmpoison.errors import InputError
from mmpoison.runs import EXPERIMENTS, Asked

if TYPE_CHECKING:
    from mmpoison.base import Placement
    from mmpoison_lab.matrix.part import MatrixRecipe
    from mmpoison_lab.matrix.records import MatrixCell
    from mmpoison_lab.matrix.run_matrix import MatrixPlan


class Matrix:
    """A matrix of attacks (rows) against defences (columns)."""

    options: ClassVar[Mapping[str, str]] = {
        "rows": "rows with commas, e.g. II-own,orphan, or registered attacks",
        "columns": "columns with commas, or registered defences",
        "tuning": "true: only the goal and seed on which settings are chosen; results leave them out",
        "from": "a matrix.parquet of the same settings: its pieces are not measured again",
    }

    def run(self, asked: Asked) -> None:
        """Run a matrix, or say what it would do; then write its pages and print its tables."""
        from mmpoison_lab.matrix.part import load_matrix

        given = asked.options
        tuning = given.get("tuning", "false")
        if tuning not in ("true", "false"):
            raise InputError(f"--with tuning={tuning}: true or false is needed")
        number = None if asked.goals is None else number_of_goals(asked.goals)
        run_the_matrix(
            load_matrix(asked.recipe, asked.changes),
            asked.out,
            (
                names_of(given.get("rows")),
                names_of(given.get("columns")),
                number,
                list(asked.seeds) or None,
            ),
            dict(asked.place),
            tuning=tuning == "true",
            retries=asked.retries,
            dry_run=asked.dry_run,
            form=asked.form,
            measured=Path(given["from"]) if "from" in given else None,
        )

    def owns(self, folder: Path) -> bool:
        """Return whether a folder holds the pieces of a matrix."""
        from mmpoison_lab.matrix.records import MATRIX_FILE

        return (folder / MATRIX_FILE).is_file()

    def report(self, folder: Path, out: Path | None, form: Format, **files: Path | None) -> None:
        """Write the pages of a matrix, and print its tables."""
        report_matrix(folder, out, form, **files)


EXPERIMENTS.register("matrix")(Matrix())


def number_of_goals(text: str) -> int:
    """Read how many random goals a matrix has.

    Raises:
        InputError: If it is no number from 1 to 1,000.
    """
    from mmpoison_lab.matrix.part import MOST_GOALS

    number = int(text) if text.isdecimal() and len(text) < 5 else 0
    if not 1 <= number <= MOST_GOALS:
        raise InputError(
            f"--goals {text!r}: for a matrix give the number of random goals, from 1 to {MOST_GOALS:,}"
        )
    return number


def names_of(text: str | None) -> list[str]:
    """Split names at commas.

    >>> names_of("II-own, orphan")
    ['II-own', 'orphan']
    """
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def run_the_matrix(
    recipe: MatrixRecipe,
    out: Path,
    part: tuple[list[str], list[str], int | None, list[int] | None],
    place: dict[str, Any],
    *,
    tuning: bool,
    retries: int,
    dry_run: bool,
    form: Format,
    measured: Path | None = None,
) -> None:
    """Run a matrix, or say what it would do; then write its pages and print its tables.

    Args:
        recipe: The recipe with the matrix.
        out: Its folder.
        part: Rows, columns, goals and seeds of it, as for `chosen_part`.
        place: Where it runs, as for `place_workers`.
        tuning: Only the goal and seed on which settings are chosen.
        retries: How often a piece that crashed is tried again.
        dry_run: Only say what would be done.
        form: How to print.
        measured: A file of measurements of the same settings.
    """
    from mmpoison.base import place_workers
    from mmpoison_lab.matrix.plan import chosen_part
    from mmpoison_lab.matrix.run_matrix import plan_matrix, run_matrix, unpack_into

    assert recipe.matrix is not None
    chosen = chosen_part(recipe.matrix, *part)
    recipe = recipe.model_copy(update={"matrix": chosen})
    placement = place_workers(**place)
    known: dict[Path, MatrixCell] = {}
    if measured is not None:
        with busy("reading measurements"):
            known = unpack_into(measured, recipe, out, tuning=tuning, dry_run=dry_run)
        theirs = {cell.seed for cell in known.values()}
        say(f"{measured}: {count_of(len(known), 'measurement')}, seeds {_listed(theirs)}")
        if not tuning and (alone := theirs ^ {*chosen.seeds}):
            say(
                f"seeds {_listed(alone)} are not both there and in this run: nothing can be paired on them"
            )
    with live_progress() as progress:
        progress.progress("loading data")
        plan = plan_matrix(recipe, out, device=placement.device, tuning=tuning, measured=known)
    _say_plan(plan, out, placement)
    if dry_run:
        return
    say(
        f"{recipe.name}: {count_of(len(chosen.rows), 'row')}, "
        f"{count_of(len(chosen.columns), 'column')}, {count_of(1 if tuning else chosen.goals, 'goal')}, "
        f"{count_of(1 if tuning else len(chosen.seeds), 'seed')}"
    )
    with shown() as on_change:
        state = run_matrix(
            recipe, out, retries=retries, tuning=tuning, on_change=on_change, **place
        )
    tell_failures(state)
    if state.found or state.done:
        report_matrix(out, None, form)
    if state.failed:
        raise typer.Exit(FAILED)


def _listed(seeds: Collection[int]) -> str:
    return ",".join(map(str, sorted(seeds)[:12])) + (",..." if len(seeds) > 12 else "")


def _say_plan(plan: MatrixPlan, out: Path, placement: Placement) -> None:
    left = plan.seconds_left
    busy_workers = min(placement.count, max(1, len(plan.todo)))
    time = "" if left is None else f": about {duration(left / busy_workers)}"
    say(
        f"{out}: {count_of(len(plan.tasks), 'piece')}, {len(plan.tasks) - len(plan.todo):,} complete; "
        f"{len(plan.missing):,} measurements remain, {placement.describe(len(plan.todo))}{time}"
    )


def report_matrix(
    folder: Path,
    out: Path | None,
    form: Format,
    *,
    markdown: Path | None = None,
    parquet: Path | None = None,
    html: Path | None = None,
) -> None:
    """Write the pages of a matrix, and print its tables.

    Args:
        folder: The folder of `run matrix`.
        out: Folder for the pages; the same by default.
        form: How to print.
        markdown: Write the tables to this file; the pages only if `out` is given too.
        parquet: Write every measurement to this file; likewise.
        html: Write the page to this file; likewise.
    """
    from mmpoison.base import atomic_file
    from mmpoison.reporting import markdown as as_markdown
    from mmpoison_lab.matrix.page import matrix_html, write_matrix_pages
    from mmpoison_lab.matrix.records import read_matrix, write_cells
    from mmpoison_lab.matrix.summary import summarise
    from mmpoison_lab.matrix.tables import matrix_tables

    with busy("reading pieces"):
        facts, cells = read_matrix(folder)
        summary = summarise(facts, cells)
    if parquet is not None:
        write_cells(parquet, cells, facts.described)
        say(f"{count_of(len(cells), 'row')}: {parquet}")
    for target in (html, markdown):
        if target is None:
            continue
        text = matrix_html(summary) if target is html else as_markdown(matrix_tables(summary))
        if target.is_dir():
            raise InputError(f"{target}: is a folder, a file is needed")
        with atomic_file(target) as temporary:
            temporary.write_text(text, encoding="utf-8")
        say(f"page: {target}")
    if out is None and (parquet or html or markdown) is not None:
        return
    with busy("writing pages"):
        files = write_matrix_pages(summary, cells, out or folder)
    print_tables(matrix_tables(summary, short=form == "table"), form)
    if form == "table":
        for file in files:
            say(str(file))
        say(f"again: mmpoison report {shlex.quote(str(folder))}")
