"""The verb `report`: shows tables and pages of finished runs, and views of other packages."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmpoison.cli.console import (
    busy,
    command_for_all,
    console,
    print_first,
    print_json,
    print_tables,
    say,
    say_the_rest,
)
from mmpoison.cli.options import As, AsJson, Format, Whole
from mmpoison.errors import InputError

if TYPE_CHECKING:
    from mmpoison.records.run_files import Metrics
    from mmpoison.runs.experiments import Written


def report(
    runs: Annotated[list[Path], typer.Argument()],
    against: list[Path] | None = None,
    models: str | None = None,
    markdown: Path | None = None,
    view: list[str] | None = None,
    out: Path | None = None,
    links: bool = True,
    parquet: Path | None = None,
    html: Path | None = None,
    shown: As = "table",
    as_json: AsJson = False,
    whole: Whole = False,
) -> None:
    """Show finished runs: the tables of one run, or means over the seeds of several.

    A terminal shows a summary; --all shows every table, column and interval, as the other formats do.

    Example: [bold]mmpoison report runs/openmoji-seed0[/bold]

    [bold]mmpoison report runs/openmoji --markdown table.md[/bold]

    [bold]mmpoison report runs/image-only --against runs/text-only[/bold]

    [bold]mmpoison report runs/openmoji --models clean_model,poisoned --json[/bold]

    [bold]mmpoison report runs/openmoji --html report.html[/bold]

    [bold]mmpoison report runs --parquet results.parquet[/bold]

    [bold]mmpoison report runs/table-3 --view table-3[/bold] (with the package mmpoison-lab)

    Options:
        runs: Run folders, folders of run folders, or result files (runs.parquet).

    Comparison:
        against: Runs of another setting to compare with, paired by seed.
        models: Two models of the runs to compare, paired by seed, e.g. clean_model,poisoned.

    Files:
        markdown: New file for the tables in Markdown.
        out: Folder for the files of --view or of an experiment (default: `views` in the first run folder).
        parquet: New Parquet file with one row per number and the settings of its run.
        html: New self-contained HTML page of the run or of all runs.

    Views:
        view: View with the paper's numbers next to ours, e.g. table-3, figure-5b or all; repeatable.
        links: With --view: link each number to its runs.
    """
    from mmpoison.base.files import atomic_file
    from mmpoison.reporting.compare import compare_models, compare_runs
    from mmpoison.reporting.results import one_run, read_runs
    from mmpoison.reporting.seeds import seed_tables
    from mmpoison.reporting.table import markdown as as_markdown
    from mmpoison.runs.experiments import EXPERIMENTS, view_of
    from mmpoison.runs.recipe import experiment_of
    from mmpoison.runs.run_all import experiment_about

    form: Format = "json" if as_json else shown
    if (section := experiment_of(experiment_about(runs[0]))) is not None:
        files = {"markdown": markdown, "parquet": parquet, "html": html}
        EXPERIMENTS[section].report(runs, form, out, **files)
        return
    if against and models:
        raise InputError("--against compares settings, --models compares models: give only one")
    if html is not None and (against or models):
        raise InputError("--html cannot show a comparison: omit --against and --models")
    with busy("reading runs"):
        written = _write_files(runs, html, parquet)
    for line in written:
        say(line)
    if written and markdown is None:
        return
    if view:
        print_views(view, runs, out or runs[0] / "views", form, links=links, whole=whole)
        return
    alone = one_run(runs)
    if alone is not None and not (against or models or markdown) and form == "table":
        show_run(alone, whole=whole)
        return
    if against:
        tables = compare_runs(runs, against)
    elif models:
        names = [name.strip() for name in models.split(",")]
        if len(names) != 2:
            raise InputError(f"--models {models!r}: give two names, e.g. clean_model,poisoned")
        tables = compare_models(runs, *names)
    else:
        with busy("reading runs"):
            tables = seed_tables(runs)
    if markdown is not None:
        with atomic_file(markdown) as temporary:
            temporary.write_text(as_markdown(tables), encoding="utf-8")
    print_first(tables, form, whole=whole)
    if form == "table" and not (against or models):
        recipes = {run.run.recipe for run in read_runs(runs)}
        if own := view_of(recipes.pop()) if len(recipes) == 1 else "":
            command = shlex.join(["mmpoison", "report", *map(str, runs), "--view", own])
            say(f"with the paper's numbers: {command}")


def _write_files(runs: Sequence[Path], html: Path | None, parquet: Path | None) -> list[str]:
    """Write the requested page and table of all numbers, and return one line about each."""
    said = []
    if html is not None:
        from mmpoison.reporting.html_report import write_html

        said.append(f"page: {write_html(runs, html)}")
    if parquet is not None:
        from mmpoison.reporting.results import write_results

        table = write_results(runs, parquet)
        said.append(f"{len(table):,} rows: {parquet}")
    return said


def print_views(
    names: list[str],
    runs: list[Path],
    out: Path,
    form: Format,
    *,
    links: bool,
    whole: bool = False,
) -> None:
    """Write views of other packages and print their tables.

    Raises:
        InputError: If a view is unknown, or the runs have no data for it.
    """
    from mmpoison.base.files import refuse_special
    from mmpoison.base.registry import of_laboratory, unknown_name
    from mmpoison.runs.experiments import VIEWS

    refuse_special(out)
    known = {name: one for one in VIEWS.values() for name in one.names}
    for name in names:
        if name not in known and not (name == "all" and known):
            raise InputError(unknown_name("view", name, [*known, "all"]) + of_laboratory())
    written: list[Written] = []
    with busy("reading runs and writing pages"):
        for one in VIEWS.values():
            if own := [name for name in names if name == "all" or known[name] is one]:
                written += one.write(own, runs, out, links=links)
    print_first([table for each in written for table in each.tables], form, whole=whole)
    if form == "table":
        for note in (note for each in written for note in each.notes):
            console.print(note, highlight=False, markup=False)
        for file in (file for each in written for file in each.files):
            console.print(str(file), soft_wrap=True, highlight=False, markup=False)


def print_metrics(
    metrics: Metrics, form: Format, *, whole: bool = False, rest: str = "--all"
) -> None:
    """Print metrics as tables, or as the content of `metrics.json`."""
    from mmpoison.reporting.seeds import metrics_tables
    from mmpoison.reporting.terminal_tables import hides, terminal_table

    if form == "json":
        print_json(metrics.to_json())
    elif form != "table":
        print_tables(metrics_tables(metrics), form)
    else:
        console.print(terminal_table(metrics))
        # the table above has all goals of the run, so the table of all settings is not needed
        tables = [table for table in metrics_tables(metrics) if not table.of_all]
        more = tables if whole else [t for t in tables if not (t.of_models or t.detail)]
        print_tables(more, form, whole=whole)
        if not whole:
            say_the_rest(len(tables) - len(more), hides(more), rest)


def show_run(
    folder: Path, page: Path | None = None, *, drawn: bool = True, whole: bool = False
) -> None:
    """Write a finished run's page, and print its tables and where its files are.

    Args:
        folder: The run folder.
        page: Its page, if already written.
        drawn: If False, print nothing.
        whole: Print every table and column.
    """
    from mmpoison.records.run_files import Metrics
    from mmpoison.reporting.html_report import write_report

    page = page or write_report(folder)
    if not drawn:
        return
    print_metrics(
        Metrics.read(folder / "metrics.json"), "table", whole=whole, rest=command_for_all([folder])
    )
    console.print(f"run folder: {folder.resolve()}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"page:       {page.resolve()}", soft_wrap=True, highlight=False, markup=False)
