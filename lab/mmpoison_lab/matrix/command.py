"""The experiment `matrix`: attacks against defences as a list of runs, and their `mmpoison report`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mmpoison.cli import Format, busy, print_tables, say
from mmpoison.errors import InputError
from mmpoison.runs import EXPERIMENTS, Asked

if TYPE_CHECKING:
    from mmpoison.runs import Recipe, RunList


class Matrix:
    """A matrix of attacks (rows) against defences (columns)."""

    options: ClassVar[Mapping[str, str]] = {
        "rows": "comma-separated rows, e.g. II-own,orphan, or registered attacks",
        "columns": "comma-separated columns, or registered defences",
        "tuning": "true: run only the goal and seed reserved for choosing settings",
    }

    def runs(self, asked: Asked) -> RunList:
        """List the runs of a matrix: each row, goal and seed, without a defence and with each column."""
        from mmpoison.runs import goal_classes_of
        from mmpoison_lab.matrix.part import load_matrix
        from mmpoison_lab.matrix.plan import chosen_part, matrix_runs

        given = asked.options
        tuning = given.get("tuning", "false")
        if tuning not in ("true", "false"):
            raise InputError(f"--with tuning={tuning}: give true or false")
        recipe = load_matrix(asked.recipe, asked.changes)
        assert recipe.matrix is not None
        part = chosen_part(
            recipe.matrix,
            names_of(given.get("rows")),
            names_of(given.get("columns")),
            None if asked.goals is None else number_of_goals(asked.goals),
            list(asked.seeds) or None,
        )
        with busy("loading data"):
            classes = goal_classes_of(
                recipe.data, (part.tuning_seed if tuning == "true" else part.seeds[0])
            )
            return matrix_runs(
                recipe.model_copy(update={"matrix": part}),
                classes,
                None if asked.dry_run else nearest_class(),
                tuning=tuning == "true",
            )

    def report(
        self, paths: Sequence[Path], form: Format, out: Path | None = None, **files: Path | None
    ) -> None:
        """Write the pages of a matrix, and print its tables."""
        report_matrix(paths, out, form, **files)


EXPERIMENTS.register("matrix")(Matrix())


def nearest_class() -> Callable[[str, Recipe], str]:
    """Return a function that finds the class nearest to another under a run's data and model."""
    from mmpoison.runs import RunCache
    from mmpoison_lab.attacks.matching import nearest_classes

    run_cache = RunCache()

    def nearest(original: str, recipe: Recipe) -> str:
        pairs = run_cache.pairs(recipe.data, recipe.seed)
        surrogate = run_cache.surrogate(recipe.model.name, pairs)
        return nearest_classes(pairs, surrogate, 1)[original][0]

    return nearest


def number_of_goals(text: str) -> int:
    """Parse the number of random goals of a matrix.

    Raises:
        InputError: If it is not a number from 1 to 1,000.
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


def report_matrix(
    paths: Sequence[Path],
    out: Path | None,
    form: Format,
    *,
    markdown: Path | None = None,
    parquet: Path | None = None,
    html: Path | None = None,
) -> None:
    """Write the pages of a matrix, and print its tables.

    Args:
        paths: Folders of `run matrix` and result files of others, combined into one matrix.
        out: Folder for the pages; by default the first path, if it is a folder and no file is
            given.
        form: Output format.
        markdown: File for the tables.
        parquet: File for all numbers.
        html: File for the page.
    """
    from mmpoison.base import atomic_file
    from mmpoison.reporting import markdown as as_markdown
    from mmpoison.reporting import write_results
    from mmpoison.runs import experiment_text
    from mmpoison_lab.matrix.page import matrix_html, write_matrix_pages
    from mmpoison_lab.matrix.records import read_matrix
    from mmpoison_lab.matrix.summary import summarise
    from mmpoison_lab.matrix.tables import matrix_tables

    with busy("reading runs"):
        summary = summarise(*read_matrix(paths))
    if parquet is not None:
        table = write_results(paths, parquet, experiment_text(paths[0]))
        say(f"{len(table):,} rows: {parquet}")
    for target in (html, markdown):
        if target is None:
            continue
        text = matrix_html(summary) if target is html else as_markdown(matrix_tables(summary))
        if target.is_dir():
            raise InputError(f"{target}: is a folder, not a file")
        with atomic_file(target) as temporary:
            temporary.write_text(text, encoding="utf-8")
        say(f"page: {target}")
    if out is None and (parquet or html or markdown) is not None:
        return
    files = []
    if out is not None or paths[0].is_dir():
        with busy("writing pages"):
            files = write_matrix_pages(summary, out or paths[0])
    print_tables(matrix_tables(summary, short=form == "table"), form)
    if form == "table":
        for file in files:
            if file.suffix == ".html":
                say(f"page: {file}")
