"""The output folder of a verb: held while it works, and recognised when the same command comes again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import typer

from mmpoison.base.outputs import check_output, held_output, input_state, output_record
from mmpoison.base.processes import is_main_process


def hold_output(context: typer.Context, out: Path, *, work: Path | None = None) -> None:
    """Hold the output folder of a verb until the verb ends.

    Args:
        context: Of the verb: its options say what makes the output.
        out: The folder.
        work: Where the verb keeps unfinished work.

    Raises:
        AlreadyDone: If the same command has made it before, from the same inputs.
        InputError: If it holds anything else, or another process writes it.
    """
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
    """The options that are paths of something that is there, in the order of their names."""
    found = []
    for name, value in sorted(context.params.items()):
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if name == "out" or not isinstance(one, (str, Path)):
                continue
            try:
                if one != "" and Path(one).exists():
                    found.append(Path(one))
            except (OSError, ValueError):
                continue  # no path
    return found
