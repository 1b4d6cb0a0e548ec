"""Options that several verbs share.

A verb that does not describe one of these options takes the help, and the value name in brackets,
from here:

Options:
    data (DATA): Pairs in any format, or the name of a data set.
    out (DIR): New folder.
    model (MODEL): Name, folder or file of a model (see `mmpoison models list`).
    changes (KEY=VALUE): Parameter of the defence, or training setting, e.g. epochs=2.
    preset (NAME): reference-release: settings of the authors' released code.
    as_json: Print JSON.
    run, kept, against (DIR): ...
    markdown, html, parquet, manifest, from_manifest (FILE): ...
    encoder, reference, pretrained, clean (MODEL): ...
    models (A,B): ...
    goal, canary_goal (A2B): ...
    goals (A2B,C2D): ...
    seeds (0-4): ...
    experiment (KEY=VALUE): ...
    older_than (AGE): ...
    down_to (SIZE): ...
    attack, method, defense, view, split, kind (NAME): ...

What is measured:
    study (NAME): Additional measurement: queries, query-length, collateral, distribution, tsne or all; repeatable.

Compute:
    device (DEVICE): auto (a GPU if there is one), cpu, cuda or cuda:N.
    seed: Random seed.
    track (NAME): Also log to tensorboard, mlflow or wandb; repeatable.
    fresh: Start from the beginning instead of resuming a stopped training.
    workers: Number of processes, each with one run at a time (default: one per GPU, or per core).
    threads: Number of threads of each worker.
    retries: Number of retries after a crash or a machine error.
    ray (ADDRESS): Address of a Ray cluster: HOST:PORT, auto or local.

Output:
    shown: Output format.
    whole: Print every table and column, with intervals.
    images: Images in the new folder: hard links, copies or none.
    dry_run: Show the plan without running it.

Page:
    port: Port of the page; 0 chooses a free one.
    host (ADDRESS): Address to listen on; anyone who can reach it can see the page.
    open_it: Open the page in the browser.

Labels:
    labels (CSV): CSV with the columns image,label or image,label,split.
    keywords: Label images by words in their captions; repeatable.

How the data are read:
    format (NAME): Format of the data, if not recognised (see `data list`).
    data_root (DIR): Folder of a named data set, or of the images of a table.
    option (KEY=VALUE): Option of the data set or format, e.g. caption=text; repeatable.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mmpoison.errors import InputError

if TYPE_CHECKING:
    # torch takes seconds to import
    from mmpoison.datasets.catalogue import NamedData

SEEDS = 2**63 - 1
"""The largest seed."""
WORKERS = 4096
"""The largest number of processes or threads of one command."""

PANELS = (
    *(
        "Comparison",
        "Compute",
        "Cut, give one",
        "Files",
        "How",
        "How much, give one",
        "How the data are read",
    ),
    *(
        "How the repair is judged",
        "Labels",
        "Model",
        "Models and data of a run",
        "Options",
        "Output",
        "Page",
    ),
    *("Rebuild", "Training pairs", "Views", "What is measured"),
)
"""Headings of option groups in the docstrings of verbs and in their help."""

READING = ("format", "data_root", "option")
"""Options that say how data are read."""

Format = Literal["table", "markdown", "latex", "csv", "json"]
As = Annotated[Literal["table", "markdown", "latex", "csv"], typer.Option("--as")]
Whole = Annotated[bool, typer.Option("--all")]
AsJson = Annotated[bool, typer.Option("--json")]
Seed = Annotated[int, typer.Option(min=0, max=SEEDS)]
Changes = Annotated[list[str] | None, typer.Option("--set")]
Workers = Annotated[int | None, typer.Option(min=1, max=WORKERS)]
Threads = Annotated[int, typer.Option(min=1, max=WORKERS)]
Port = Annotated[int, typer.Option(min=0, max=65535)]
Open = Annotated[bool, typer.Option("--open/--no-open")]
Retries = Annotated[int, typer.Option(min=0, max=1000)]
Images = Literal["link", "copy", "none"]
ON_TERMINAL: dict[str, Any] = {
    "seed": Seed,
    "images": Images,
    "trusted": Literal["val", "none"],
    "clean": list[str] | None,
    "clean_runs": Annotated[int, typer.Option(min=0, max=1000)],
    "evaluate_every": Annotated[int | None, typer.Option(min=1, max=10**9)],
}
"""Types of Python parameters on the command line, with bounds and choices."""


def parse_options(assignments: Sequence[str] | None, flag: str = "--option") -> dict[str, Any]:
    """Parse the KEY=VALUE assignments of `--option`; the values stay text.

    Raises:
        InputError: If one is not KEY=VALUE, or a key is given twice.

    >>> parse_options(["caption=text", "separator=="])
    {'caption': 'text', 'separator': '='}
    """
    options: dict[str, Any] = {}
    for assignment in assignments or ():
        key, equals, value = assignment.partition("=")
        if not key or not equals:
            raise InputError(f"{flag} {assignment!r}: write KEY=VALUE, such as caption=text")
        if key in options:
            raise InputError(f"{flag} {key} is given twice: give it once")
        options[key] = value
    return options


def named_data(
    data: str | Path,
    format: str | None = None,
    data_root: Path | None = None,
    option: list[str] | None = None,
) -> NamedData:
    """Return the data set of `--data`, `--format`, `--data-root` and `--option`; nothing is read yet.

    Raises:
        InputError: If an option is not KEY=VALUE, or is given twice.
    """
    from mmpoison.datasets.catalogue import NamedData

    return NamedData(str(data), data_root, format, parse_options(option))


def changed_options(context: typer.Context) -> dict[str, Any]:
    """Return a verb's options that differ from their defaults, by command-line name."""
    return {
        one.opts[0]: value
        for one in context.command.params
        if (value := context.params.get(str(one.name))) not in (one.default, None, (), [])
    }


def data_changes(root: Path | None, options: Sequence[str] | None) -> dict[str, Any]:
    """Return the changes of a recipe that `--data-root` and `--option` make.

    Raises:
        InputError: If an option is not KEY=VALUE, or is given twice.

    >>> data_changes(None, ["caption=text"])
    {'data.options.caption': 'text'}
    """
    changes = {f"data.options.{key}": value for key, value in parse_options(options).items()}
    return changes if root is None else {"data.root": str(root), **changes}
