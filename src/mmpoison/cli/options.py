"""Options that several verbs share, and the values of `--set` for a defence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    # torch takes seconds to import
    from mmpoison.defenses.catalogue import Kind
    from mmpoison.training.settings import TrainingSettings

SEEDS = 2**63 - 1
"""The largest seed."""
WORKERS = 4096
"""The most processes or threads of one command."""

COMPUTE, OUTPUT = "Compute", "Output"
MEASURED, CHANGES = "What is measured", "Changes to the recipe"
"""Panels of the help that several verbs have."""

Format = Literal["table", "markdown", "latex", "csv", "json"]
FormatOption = Annotated[
    Format, typer.Option("--format", help="How to print the result.", rich_help_panel=OUTPUT)
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
    str | None, typer.Option("--format", help="Format of --data, if it is not recognised.")
]
DataRootOption = Annotated[
    Path | None, typer.Option("--data-root", help="Your folder, for data that are not made here.")
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
DataOption = Annotated[Path, typer.Option("--data", help="A pairs folder.")]
OutOption = Annotated[Path, typer.Option("--out", help="New folder.")]
SeedOption = Annotated[
    int, typer.Option(min=0, max=SEEDS, help="Random seed.", rich_help_panel=COMPUTE)
]
ModelOption = Annotated[
    str,
    typer.Option("--model", help="A model's name, folder or file (see `mmpoison models list`)."),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Open TorchScript archives (OpenAI's format); they can run code.",
        rich_help_panel=COMPUTE,
    ),
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
    from mmpoison.defenses.catalogue import split_options
    from mmpoison.runs.recipe import parse_changes, parse_training

    options: dict[str, Any] = {}
    rest = parse_changes(changes or [])
    if method is not None:
        options, rest = split_options(kind, method, rest, clean_runs)
    return options, parse_training(rest) if rest else None
