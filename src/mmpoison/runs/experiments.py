"""Plug-in points for packages: experiments of `mmpoison run` and views of `mmpoison report`.

```toml
[project.entry-points."mmpoison.experiments"]
matrix = "my_package.matrix"          # registers an `Experiment`: @EXPERIMENTS.register("matrix")

[project.entry-points."mmpoison.views"]
paper = "my_package.paper"            # registers a `View`: @VIEWS.register("paper")
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mmpoison.base.registry import Registry
from mmpoison.reporting.table import Table
from mmpoison.runs.recipe import EXPERIMENT_GROUP
from mmpoison.runs.run_list import RunList


@dataclass(frozen=True)
class Asked:
    """The command-line arguments for an experiment.

    Attributes:
        recipe: A recipe's name, or the path of its file.
        changes: Changes of the recipe, from dotted keys to values (`--set` and similar options).
        seeds: `--seeds`; empty for those of the recipe.
        goals: `--goals`, as text.
        options: `--with NAME=VALUE`, the experiment's own options.
        dry_run: Whether the runs are only counted, so that nothing needs to be loaded.
    """

    recipe: str
    changes: Mapping[str, Any]
    seeds: Sequence[int]
    goals: str | None
    options: Mapping[str, str]
    dry_run: bool = False


class Experiment(Protocol):
    """An experiment, which turns a recipe with a section of its name into a list of runs."""

    @property
    def options(self) -> Mapping[str, str]:
        """Its own options (`--with NAME=VALUE`): names to one line of help."""

    def runs(self, asked: Asked) -> RunList:
        """List the runs. The list's `about` has a section of the experiment's name.

        Raises:
            InputError: If the recipe or an option is wrong.
        """
        ...

    def report(
        self, paths: Sequence[Path], form: Any, out: Path | None = None, **files: Path | None
    ) -> None:
        """Print the tables of the results in some folders and files.

        The first path belongs to the experiment. Pages are written to the folder `out`, or to
        `files` (`markdown`, `parquet`, `html`).
        """
        ...


class Written(Protocol):
    """A written view: tables, notes and files."""

    @property
    def tables(self) -> list[Table]:
        """Its tables."""

    @property
    def notes(self) -> Sequence[str]:
        """Notes on the tables for the reader."""

    @property
    def files(self) -> Sequence[Path]:
        """The written files."""


class View(Protocol):
    """A set of named views of finished runs, for `mmpoison report RUNS --view NAME`."""

    @property
    def names(self) -> Sequence[str]:
        """Their names, such as `table-3`."""

    def write(
        self, names: Sequence[str], runs: Sequence[Path], out: Path, *, links: bool
    ) -> Sequence[Written]:
        """Write views into a folder.

        Args:
            names: Their names; `all` means every view for which the runs have a number.
            runs: Run folders, or folders that contain some.
            out: Folder for the files.
            links: Link each number to its runs.
        """
        ...


EXPERIMENTS: Registry[Experiment] = Registry(
    "experiment", "", group=EXPERIMENT_GROUP, needs=("options", "runs", "report")
)
VIEWS: Registry[View] = Registry("view", "", group="mmpoison.views", needs=("names", "write"))


def view_of(recipe: str | None) -> str:
    """Return a recipe's view, such as `table-3` for `table-3-openmoji`; empty if it has none."""
    names = (name for view in VIEWS.values() for name in view.names)
    return next((name for name in names if recipe and f"{recipe}-".startswith(f"{name}-")), "")
