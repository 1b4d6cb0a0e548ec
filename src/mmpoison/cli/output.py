"""Locks the output folder of a verb, and recognises the output of an identical earlier command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import typer

from mmpoison.base.files import (
    check_output,
    held_output,
    input_state,
    output_record,
    refuse_address,
)
from mmpoison.base.processes import is_main_process


def hold_output(context: typer.Context, out: Path, *, work: Path | None = None) -> None:
    """Lock the output folder of a verb until the verb ends.

    Args:
        context: Context of the verb; its options identify the output.
        out: The folder.
        work: Folder of the verb's unfinished work.

    Raises:
        AlreadyDone: If the same command made it before, from the same inputs.
        InputError: If it is an address of a store, contains anything else, or another process is writing it.
    """
    refuse_address(out)
    made_by: dict[str, Any] = {
        "command": context.info_name,
        "options": {name: value for name, value in context.params.items() if name != "out"},
        "inputs": [input_state(path, without=out) for path in _inputs(context, out)],
        "data": os.environ.get("MMPOISON_DATA"),
    }
    if is_main_process():
        context.with_resource(held_output(out, made_by, work=work))
    else:
        check_output(out, output_record(made_by))


def _inputs(context: typer.Context, out: Path) -> list[Path]:
    """List the options that are paths of existing files, in the order of their names."""
    found = []
    for name, value in sorted(context.params.items()):
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if name == "out" or not isinstance(one, (str, Path)):
                continue
            try:
                if one != "" and Path(one).exists():
                    found.append(Path(one))
            except (OSError, ValueError):
                continue  # not a path
    return found
