"""What another package adds to `mmpoison run` and `mmpoison report`: experiments, and views of finished runs.

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
    """What the user asked of an experiment on the command line.

    Attributes:
        recipe: A recipe's name, or the path of its file.
        changes: Dotted keys of the recipe to values (`--set` and the like).
        seeds: `--seeds`; empty for those of the recipe.
        goals: `--goals`, as text.
        options: `--with NAME=VALUE`, options of the experiment's own.
        dry_run: The list is only counted: nothing has to be loaded for it.
    """

    recipe: str
    changes: Mapping[str, Any]
    seeds: Sequence[int]
    goals: str | None
    options: Mapping[str, str]
    dry_run: bool = False


class Experiment(Protocol):
    """What `mmpoison run` does with a recipe that has a section of the experiment's name: it makes a list of runs."""

    @property
    def options(self) -> Mapping[str, str]:
        """Names of its own options (`--with NAME=VALUE`), each with one line of help."""

    def runs(self, asked: Asked) -> RunList:
        """List the runs. The list's `about` has a section of the experiment's name.

        Raises:
            InputError: If the recipe or an option is wrong.
        """
        ...

    def report(
        self, paths: Sequence[Path], form: Any, out: Path | None = None, **files: Path | None
    ) -> None:
        """Print the tables of folders and files of results, the first of which is the experiment's.

        Pages go to `out`, or to `files` (`markdown`, `parquet`, `html`).
        """
        ...


class Written(Protocol):
    """A view that was written: its tables, notes on them, and files."""

    @property
    def tables(self) -> list[Table]:
        """Its tables."""

    @property
    def notes(self) -> Sequence[str]:
        """What to know about them."""

    @property
    def files(self) -> Sequence[Path]:
        """The files."""


class View(Protocol):
    """Views of finished runs, for `mmpoison report RUNS --view NAME`."""

    @property
    def names(self) -> Sequence[str]:
        """Their names, such as `table-3`."""

    def write(
        self, names: Sequence[str], runs: Sequence[Path], out: Path, *, links: bool
    ) -> Sequence[Written]:
        """Write some of them: `all` means all that the runs have a number for; `links` lead to the runs of a number."""
        ...


EXPERIMENTS: Registry[Experiment] = Registry(
    "experiment", "", group=EXPERIMENT_GROUP, needs=("options", "runs", "report")
)
VIEWS: Registry[View] = Registry("view", "", group="mmpoison.views", needs=("names", "write"))


def view_of(recipe: str | None) -> str:
    """Return the view that a recipe is run for, such as `table-3` for `table-3-openmoji`; empty if there is none."""
    names = (name for view in VIEWS.values() for name in view.names)
    return next((name for name in names if recipe and f"{recipe}-".startswith(f"{name}-")), "")
