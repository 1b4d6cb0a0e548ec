"""Runs a matrix: its pieces in workers, into a folder that more rows, columns, goals and seeds can be added to."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from mmpoison.attacks import goal_classes
from mmpoison.base import (
    OnChange,
    SweepState,
    atomic_file,
    occupied_by_others,
    parse_yaml,
    place_workers,
    read_yaml,
    refuse_special,
    run_tasks,
)
from mmpoison.errors import InputError
from mmpoison.runs import RunCache
from mmpoison_lab.matrix.measure_piece import PieceTask
from mmpoison_lab.matrix.part import MatrixRecipe
from mmpoison_lab.matrix.plan import check_matrix, plan_pieces
from mmpoison_lab.matrix.records import (
    MATRIX_FILE,
    PIECES,
    MatrixCell,
    described,
    read_cells,
    read_pieces,
    write_cells,
)

NOT_COMPARED = ("matrix", "sweep", "attack", "seed")
"""Keys of the recipe that a piece does not depend on."""


@dataclass(frozen=True)
class MatrixPlan:
    """The pieces of a matrix.

    Attributes:
        tasks: All pieces that are asked for.
        todo: Those of which a column is missing.
        missing: The missing columns, each as often as pieces lack it.
        seconds: Mean time of a column, by its name, where some piece has it already.
    """

    tasks: list[PieceTask]
    todo: list[PieceTask]
    missing: list[str]
    seconds: dict[str, float]

    @property
    def seconds_left(self) -> float | None:
        """Time of the missing columns in one worker; None where nothing like them has been measured here."""
        if not self.seconds or not self.missing:
            return None if self.missing else 0.0
        usual = sum(self.seconds.values()) / len(self.seconds)
        return sum(self.seconds.get(column, usual) for column in self.missing)


def plan_matrix(
    recipe: MatrixRecipe,
    out: Path,
    *,
    device: str = "cpu",
    tuning: bool = False,
    measured: Container[Path] = (),
) -> MatrixPlan:
    """List the pieces of a matrix, without running any; the data of the first seed are loaded.

    Args:
        recipe: A recipe with a section `matrix`, of the rows and columns that are asked for.
        out: The folder of the matrix, which may hold pieces.
        device: Where each worker computes, as it finds it (`find_device`).
        tuning: Only the goal and the seed on which settings are chosen.
        measured: Files of measurements that count as there, see `unpack_into`.

    Raises:
        InputError: If the recipe has no matrix or a mistake, or the folder is another matrix's.
    """
    part = recipe.matrix
    if part is None:
        raise InputError(f"recipe {recipe.name}: has no section `matrix`")
    _check_folder(recipe, out, tuning)
    seed = part.tuning_seed if tuning else part.seeds[0]
    classes = goal_classes(RunCache().pairs(recipe.data, seed))
    pieces = plan_pieces(part, classes, tuning=tuning)
    check_matrix(recipe, part, pieces)
    tasks = [
        PieceTask(piece, recipe, out.absolute() / PIECES / piece.id, device) for piece in pieces
    ]
    missing = [[n for n in task.missing if task.file(n) not in measured] for task in tasks]
    todo = [task for task, names in zip(tasks, missing, strict=True) if names]
    return MatrixPlan(tasks, todo, list(chain(*missing)), _seconds(out))


def run_matrix(
    recipe: MatrixRecipe,
    out: Path,
    *,
    workers: int | None = 1,
    threads: int = 1,
    retries: int = 1,
    ray: str | None = None,
    device: str = "cpu",
    tuning: bool = False,
    on_change: OnChange = lambda state: None,
) -> SweepState:
    """Run all pieces of a matrix that are not complete; a matrix that was killed resumes, column by column.

    Args:
        recipe: As for `plan_matrix`.
        out: The folder: new, empty, or of the same matrix with other rows, columns, goals or seeds.
        workers: Processes, each with one piece at a time; None for one a GPU, or as many as cores.
        threads: Threads of each.
        retries: How often a piece is repeated that crashed or met an error of the machine.
        ray: Address of a Ray cluster whose workers do it, or `local`; by default processes of this machine.
        device: Where the workers compute: `auto`, `cpu`, `cuda` (each on one GPU, in turn) or `cuda:N`.
        tuning: Only the goal and the seed on which settings are chosen.
        on_change: Called with the state, twice a second and at each change.

    Returns:
        The state at the end; its counts are pieces.

    Raises:
        InputError: As `plan_matrix`, or if there is no such device or cluster.
    """
    placement = place_workers(workers, device, threads=threads, ray=ray)
    plan = plan_matrix(recipe, out, device=placement.device, tuning=tuning)
    folders = {task.id: task for task in plan.tasks}
    return run_tasks(
        plan.todo,
        SweepState(len(plan.tasks), found=len(plan.tasks) - len(plan.todo)),
        out,
        placement,
        claim=lambda: _claim(recipe, out, tuning),
        is_done=lambda name: not folders[name].missing,
        retries=retries,
        on_change=on_change,
    )


def unpack_into(
    file: Path, recipe: MatrixRecipe, out: Path, *, tuning: bool = False, dry_run: bool = False
) -> dict[Path, MatrixCell]:
    """Write the pieces of a `matrix.parquet` into the folder of the same matrix, so that they are not measured again.

    Args:
        file: The Parquet file.
        recipe: As for `plan_matrix`.
        out: As for `plan_matrix`; measurements that it has stay as they are.
        tuning: As for `plan_matrix`.
        dry_run: Only read and check the file.

    Returns:
        All measurements of the file, by the file that each has in the folder.

    Raises:
        InputError: If the file is broken, is of a matrix of other settings, or the folder is another matrix's.
    """
    refuse_special(file)
    _check_folder(recipe, out, tuning)
    listing = _listing(parse_yaml(described(file), file), file)
    _check_same(listing, recipe, tuning, file)
    pieces = read_pieces(file, out.absolute())
    if not dry_run:
        _claim(recipe, out, tuning, listing)
        for target, cell in pieces.items():
            if not target.exists():
                write_cells(target, [cell])
    return pieces


def _check_folder(recipe: MatrixRecipe, out: Path, tuning: bool) -> None:
    """Refuse a folder that is not this matrix's.

    Raises:
        InputError: If it holds something else, or a row or column of the same name with other options.
    """
    refuse_special(out)
    if out.is_file():
        raise InputError(f"{out}: is a file, a folder is needed: choose another --out")
    if occupied_by_others(out / MATRIX_FILE):
        raise InputError(f"{out}: holds something that is not a matrix: choose another --out")
    found = _listed(out)
    if found:
        _check_same(found, recipe, tuning, out)


def _check_same(found: Mapping[str, Any], recipe: MatrixRecipe, tuning: bool, where: Path) -> None:
    new = _described(recipe, tuning)
    for key in ("recipe", "tuning", "goals_drawn_with", "repair_pairs"):
        if found.get(key) != new[key]:
            raise InputError(
                f"{where}: holds a matrix of other settings ({key}): choose another --out"
            )
    for kind in ("rows", "columns"):
        for name, options in new[kind].items():
            if _given(found[kind].get(name, options)) != _given(options):
                raise InputError(
                    f"{where}: holds {kind[:-1]} {name!r} with other options: rename it, or choose another --out"
                )


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are given: an older version writes names of others too."""
    return {name: value for name, value in options.items() if value not in (None, [])}


def _described(recipe: MatrixRecipe, tuning: bool) -> dict[str, Any]:
    part = recipe.matrix
    assert part is not None
    base = recipe.model_dump(mode="json")
    base["data"].pop("root")  # the same data elsewhere
    shown = part.model_dump(mode="json")
    return {
        "name": recipe.name,
        "description": recipe.description,
        "took": part.took,
        "tuning": tuning,
        "goals_drawn_with": part.tuning_seed,
        "repair_pairs": part.repair_pairs,
        "rows": shown["rows"],
        "columns": shown["columns"],
        "recipe": {key: value for key, value in base.items() if key not in NOT_COMPARED},
    }


def _listed(out: Path) -> dict[str, Any]:
    """Read `matrix.yaml`, or nothing where there is none."""
    file = out / MATRIX_FILE
    if not file.is_file():
        return {}
    return _listing(read_yaml(file), file)


def _listing(value: Any, file: Path) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(
        isinstance(value.get(key), dict) for key in ("rows", "columns", "recipe")
    ):
        raise InputError(f"{file}: is broken: delete it; pieces stay where they are")
    return value


def _claim(
    recipe: MatrixRecipe, out: Path, tuning: bool, file: dict[str, Any] | None = None
) -> None:
    """Write `matrix.yaml`: what is new, or not in the list of a file, then the rows and columns listed so far."""
    found, new = _listed(out), _described(recipe, tuning)
    for kind in ("rows", "columns"):
        others = (file or found).get(kind, {})
        named = {**new[kind], **found.get(kind, {})}
        new[kind] = {name: named[name] for name in named if name not in others} | others
    text = yaml.safe_dump(new, sort_keys=False, allow_unicode=True)
    with atomic_file(out / MATRIX_FILE) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _seconds(out: Path) -> dict[str, float]:
    """Return the mean time of each column that some piece in the folder has."""
    times: dict[str, list[float]] = {}
    for cell in read_cells(sorted(out.glob(f"{PIECES}/*/*/*.parquet"))):
        if not cell.note:
            spent = (cell.defence_seconds or 0.0) + (cell.training_seconds or 0.0)
            times.setdefault(cell.column, []).append(spent)
    return {column: sum(each) / len(each) for column, each in times.items()}
