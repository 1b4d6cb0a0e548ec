"""Options that several verbs share, and the values of `--set` for a defence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mmpoison.errors import InputError

if TYPE_CHECKING:
    # torch takes seconds to import
    from mmpoison.datasets.catalogue import NamedData
    from mmpoison.defenses.catalogue import Kind
    from mmpoison.training.settings import TrainingSettings

SEEDS = 2**63 - 1
"""The largest seed."""
WORKERS = 4096
"""The most processes or threads of one command."""

COMPUTE, OUTPUT, READ = "Compute", "Output", "How the data are read"
MEASURED, CHANGES = "What is measured", "Changes to the recipe"
"""Panels of the help that several verbs have."""

Format = Literal["table", "markdown", "latex", "csv", "json"]
AsOption = Annotated[
    Literal["table", "markdown", "latex", "csv"],
    typer.Option("--as", help="How to print the result.", rich_help_panel=OUTPUT),
]
AllOption = Annotated[
    bool,
    typer.Option(
        "--all", help="Print every table and column, and intervals too.", rich_help_panel=OUTPUT
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        help="auto (a GPU if there is one), cpu, cuda or cuda:N.",
        rich_help_panel=COMPUTE,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PairsFormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Format of the data, if it is not recognised (see `data list`).",
        rich_help_panel=READ,
    ),
]
DataRootOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        help="Folder of a named data set; of the images of a path.",
        rich_help_panel=READ,
    ),
]
DataOptionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="KEY=VALUE",
        help="An option of the data set or format, e.g. caption=text; repeat it.",
        rich_help_panel=READ,
    ),
]
StudyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--study",
        help="Measure more: queries, query-length, collateral, distribution, tsne, or all; several times.",
        rich_help_panel=MEASURED,
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="reference-release: the choices of the authors' released code.",
    ),
]
DataOption = Annotated[
    str, typer.Option("--data", help="Pairs in any format, or a data set's name.")
]
OutOption = Annotated[Path, typer.Option("--out", help="New folder.")]
SeedOption = Annotated[
    int, typer.Option(min=0, max=SEEDS, help="Random seed.", rich_help_panel=COMPUTE)
]
ModelOption = Annotated[
    str,
    typer.Option("--model", help="A model's name, folder or file (see `mmpoison models list`)."),
]
MethodSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A parameter of the defence, or a training setting, e.g. epochs=2.",
    ),
]
TrackOption = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        help="Also log to tensorboard, mlflow or wandb; repeat it for several.",
        rich_help_panel=COMPUTE,
    ),
]
FreshOption = Annotated[
    bool,
    typer.Option(
        "--fresh",
        help="Start from the beginning instead of resuming a stopped training.",
        rich_help_panel=COMPUTE,
    ),
]
ImagesOption = Annotated[
    Literal["link", "copy", "none"],
    typer.Option(
        "--images", help="Hard links (no copy), copies, or no images.", rich_help_panel=OUTPUT
    ),
]


def parse_options(assignments: Sequence[str] | None) -> dict[str, Any]:
    """Read the values of `--option` as text; the data set or format knows which are numbers.

    Raises:
        InputError: If one is not KEY=VALUE, or a key is given twice.

    >>> parse_options(["caption=text", "separator=="])
    {'caption': 'text', 'separator': '='}
    """
    options: dict[str, Any] = {}
    for assignment in assignments or ():
        key, equals, value = assignment.partition("=")
        if not key or not equals:
            raise InputError(f"--option {assignment!r}: KEY=VALUE is needed, such as caption=text")
        if key in options:
            raise InputError(f"--option {key} is given twice: give it once")
        options[key] = value
    return options


def named_data(
    data: str | Path,
    format: str | None,
    root: Path | None,
    options: Sequence[str] | None,
) -> NamedData:
    """Return the data set of `--data`, `--format`, `--data-root` and `--option`; nothing is read yet.

    Raises:
        InputError: If an option is not KEY=VALUE, or is given twice.
    """
    from mmpoison.datasets.catalogue import NamedData

    return NamedData(str(data), root, format, parse_options(options))


def data_changes(root: Path | None, options: Sequence[str] | None) -> dict[str, Any]:
    """Return what `--data-root` and `--option` change of a recipe.

    Raises:
        InputError: If an option is not KEY=VALUE, or is given twice.

    >>> data_changes(None, ["caption=text"])
    {'data.options.caption': 'text'}
    """
    changes = {f"data.options.{key}": value for key, value in parse_options(options).items()}
    return changes if root is None else {"data.root": str(root), **changes}


def split_changes(
    kind: Kind,
    method: str | None,
    changes: Sequence[str] | None,
    clean_runs: int | None = None,
) -> tuple[dict[str, Any], TrainingSettings | None]:
    """Split the values of `--set` into options of a defence and training settings.

    Args:
        kind: When the defence acts.
        method: Its name; None: all values are training settings.
        changes: The values of `--set`, each KEY=VALUE.
        clean_runs: As in `split_options`.

    Returns:
        The options, and the settings; None where none is given.

    Raises:
        InputError: If a value cannot be read, or a setting is unknown or out of range.
    """
    from mmpoison.base.untrusted import parse_changes
    from mmpoison.defenses.catalogue import split_options
    from mmpoison.runs.recipe import parse_training

    options: dict[str, Any] = {}
    rest = parse_changes(changes or [])
    if method is not None:
        options, rest = split_options(kind, method, rest, clean_runs)
    return options, parse_training(rest) if rest else None
