"""The measurements of a matrix of attacks against defences: one row a piece and column, as Parquet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mmpoison.base import MAX_INTEGER, atomic_file, plain_name, read_yaml, refuse_special
from mmpoison.errors import InputError

UNDEFENDED, CLEAN_MODEL = "none", "clean model"
"""Names of the columns that every piece has: the poisoned model without a defence, and the model without poison."""

CLEAN_ROW = "clean"
"""Value of `attack` of a row without poison."""

LOSSES = (0.001, 0.01, 0.02, 0.05)
"""Shares of clean pairs lost at which the recall of a filter is measured."""


@dataclass(frozen=True)
class MatrixCell:
    """What one column gave on one piece (row, goal, seed); None where it does not apply or was not computed.

    Attributes:
        row: Name of the attack's row.
        column: Name of the defence's column.
        goal: The goal that was drawn; empty for a row without poison.
        seed: Seed of data, attack and training.
        attack: Registered attack, or `clean`.
        goals: The goals that were measured, separated by commas; an attack may choose its target class itself.
        carrier: Whose images carry the poison.
        surrogate: The model that the attacker knew.
        samples: The attack's option.
        poisoned_pairs: How many.
        poisoned_images: On how many images.
        training_pairs: In the poisoned set.
        method: Registered defence; None for the undefended and the clean model.
        kind: When it acts, or `control`.
        needs: What it needs, separated by commas.
        steps: Optimiser steps of the model's training; of a repair its own.
        hit_1: Share of queries of the original class that find a target image first; mean over the goals.
        hit_5: Among the first 5.
        hit_10: Among the first 10.
        min_rank: Mean rank of the best target image, from 0.
        with_trigger: Hit@10 where the target images carry the trigger; None for an attack without trigger.
        ir_1: Utility: image retrieval, Hit@1.
        ir_10: Hit@10.
        tr_1: Utility: text retrieval, Hit@1.
        tr_10: Hit@10.
        dropped: Pairs that a filter drops at its own cut.
        clean_lost: Share of the clean pairs among them, of all clean pairs.
        caught: Share of the poisoned pairs among them, of all poisoned pairs.
        auroc: Of the filter's scores.
        average_precision: Of the filter's scores.
        recall_01: Share of poisoned pairs caught at 0.1% of clean pairs lost.
        recall_1: At 1%.
        recall_2: At 2%.
        recall_5: At 5%.
        alarms: Goals that a filter suspects, or findings of a scan at 1%.
        named: Whether the true goal is the scan's first finding.
        p_value: Smallest p-value of a scan.
        defence_seconds: Time of the filter, scan, repair or robust training.
        training_seconds: Time of the training after a filter.
        note: Why there are no numbers, or what a reader must know.
        tool_version: Version of mmpoison.
        device: Where it was computed.
    """

    row: str
    column: str
    goal: str
    seed: int
    attack: str
    goals: str = ""
    carrier: str | None = None
    surrogate: str | None = None
    samples: int | None = None
    poisoned_pairs: int | None = None
    poisoned_images: int | None = None
    training_pairs: int | None = None
    method: str | None = None
    kind: str = "control"
    needs: str = ""
    steps: int | None = None
    hit_1: float | None = None
    hit_5: float | None = None
    hit_10: float | None = None
    min_rank: float | None = None
    with_trigger: float | None = None
    ir_1: float | None = None
    ir_10: float | None = None
    tr_1: float | None = None
    tr_10: float | None = None
    dropped: int | None = None
    clean_lost: float | None = None
    caught: float | None = None
    auroc: float | None = None
    average_precision: float | None = None
    recall_01: float | None = None
    recall_1: float | None = None
    recall_2: float | None = None
    recall_5: float | None = None
    alarms: int | None = None
    named: bool | None = None
    p_value: float | None = None
    defence_seconds: float | None = None
    training_seconds: float | None = None
    note: str = ""
    tool_version: str = ""
    device: str = ""

    @property
    def success(self) -> float | None:
        """How often the attack succeeds: with its trigger where it has one, else Hit@10."""
        return self.hit_10 if self.with_trigger is None else self.with_trigger

    @property
    def utility(self) -> float | None:
        """Mean Hit@10 of image and text retrieval."""
        if self.ir_10 is None or self.tr_10 is None:
            return None
        return (self.ir_10 + self.tr_10) / 2


_SHOWN = {f"hit_{k}": f"hit@{k}" for k in (1, 5, 10)}
_SHOWN |= {f"{kind}_{k}": f"{kind}.hit@{k}" for kind in ("ir", "tr") for k in (1, 10)}
_SHOWN |= {"recall_01": "recall@0.1%", **{f"recall_{k}": f"recall@{k}%" for k in (1, 2, 5)}}


def matrix_schema() -> Any:
    """Return the columns of the Parquet files: those of `MatrixCell`, some under usual names (`hit@10`)."""
    import pyarrow as pa  # slow to import for a command that has no matrix

    types = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    return pa.schema(
        (_SHOWN.get(field.name, field.name), types[str(field.type).partition(" ")[0]])
        for field in fields(MatrixCell)
    )


_DESCRIBED = b"mmpoison.matrix"
"""Key of the Parquet file's metadata under which the text of `matrix.yaml` is."""


def write_cells(file: Path, cells: Iterable[MatrixCell], described: str = "") -> None:
    """Write measurements as one Parquet file, whole or not at all.

    Args:
        file: The new file.
        cells: The measurements.
        described: The text of `matrix.yaml`, which `run matrix --from` needs.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {_SHOWN.get(name, name): value for name, value in asdict(cell).items()} for cell in cells
    ]
    with atomic_file(file) as temporary:
        table = pa.Table.from_pylist(rows, schema=matrix_schema())
        if described:
            table = table.replace_schema_metadata({_DESCRIBED: described.encode()})
        pq.write_table(table, temporary)


MAX_ROWS = 100_000
"""Of one file: twenty times the largest published matrix; half a gigabyte once they are Python objects."""
MAX_BYTES = 64 << 20
"""Of one file, decoded: a file can hold a long text once and repeat it in every row."""
ROWS_AT_ONCE = 64

_NOT_SHARES = ("min_rank", "defence_seconds", "training_seconds")


def read_cells(files: Sequence[Path]) -> list[MatrixCell]:
    """Read measurements from Parquet files, which may be somebody else's.

    Args:
        files: As `write_cells` wrote them; columns that this version does not know are left out.

    Raises:
        InputError: If a file is broken or too large, has no such table, or a value is missing or out of its range.
    """
    import pyarrow as pa

    cells: list[MatrixCell] = []
    for file in files:
        try:
            cells += [_checked(row, number) for number, row in enumerate(_rows(file))]
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{file}: is no table of a matrix ({reason}): remove it") from None
    return cells


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file; the footer is checked before anything is decoded.

    Raises:
        ValueError: If there are too many, or a column has values of another kind.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    # no partitions read from the names of folders
    with pq.ParquetFile(file) as opened:
        if (rows := opened.metadata.num_rows) > MAX_ROWS:
            raise ValueError(f"{rows:,} rows, at most {MAX_ROWS:,} are read")
        there = opened.schema_arrow
        known = [field for field in matrix_schema() if field.name in there.names]
        for name in (names := [field.name for field in known]):
            kind = there.field(name).type
            if pa.types.is_nested(kind) or pa.types.is_fixed_size_binary(kind):
                raise ValueError(f"column {name} holds {kind}")
        left = MAX_BYTES
        # no threads: most files have one row
        for batch in opened.iter_batches(ROWS_AT_ONCE, columns=names, use_threads=False):
            plain = batch.select(names).cast(pa.schema(known))
            if (left := left - plain.nbytes) < 0:
                raise ValueError(f"more than {MAX_BYTES >> 20} MiB of values")
            yield from plain.to_pylist()


def _checked(row: dict[str, Any], number: int) -> MatrixCell:
    """Make a measurement of a row of a file.

    Raises:
        ValueError: If a value is missing or out of its range.
    """
    values: dict[str, Any] = {}
    for field in fields(MatrixCell):
        name, kind = _SHOWN.get(field.name, field.name), str(field.type)
        value = values[field.name] = row.get(name, field.default)
        if name == "kind" and value == "scan":  # its name in 0.1
            value = values["kind"] = "check"
        if value is MISSING or (value is None and "None" not in kind):
            raise ValueError(f"row {number}, column {name}: the value is missing")
        least = 1 if name == "training_pairs" else 0
        share = "float" in kind and name not in _NOT_SHARES
        most = 1 if share else MAX_INTEGER
        if isinstance(value, int | float) and not least <= value <= most:
            limits = "from 0 to 1" if share else f"a finite number from {least}"
            raise ValueError(f"row {number}, column {name}: {value} is not {limits}")
    return MatrixCell(**values)


MATRIX_FILE = "matrix.yaml"
PIECES = "pieces"


@dataclass(frozen=True)
class MatrixFacts:
    """What `matrix.yaml` says of a folder of pieces.

    Attributes:
        name: Of the recipe.
        description: Of the recipe.
        took: A row counts where the undefended attack succeeds at least this often.
        rows: Names of the rows in order.
        columns: Names of the columns in order, without those that every piece has.
        tuning: Whether the pieces are of the goal and seed on which settings are chosen.
        data: Name of the data set.
        described: The text of `matrix.yaml`.
    """

    name: str
    description: str
    took: float
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    tuning: bool
    data: str = ""
    described: str = ""


def read_matrix(folder: Path) -> tuple[MatrixFacts, list[MatrixCell]]:
    """Read the folder of a matrix: what it is of, and all pieces that are there.

    Raises:
        InputError: If it is no such folder, a file is broken, or no piece is done.
    """
    file = folder / MATRIX_FILE
    if not file.is_file():
        raise InputError(f"{folder}: holds no {MATRIX_FILE}: is it the folder of `run matrix`?")
    value = read_yaml(file)
    try:
        facts = MatrixFacts(
            name=str(value["name"]),
            description=str(value["description"]),
            took=float(value["took"]),
            rows=tuple(map(str, value["rows"])),
            columns=tuple(map(str, value["columns"])),
            tuning=bool(value["tuning"]),
            data=str(value["recipe"]["data"]["name"]),
            described=file.read_text(encoding="utf-8"),
        )
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{file}: is broken: delete it, the pieces next to it stay") from None
    cells = read_cells(sorted(folder.glob(f"{PIECES}/*/*/*.parquet")))
    columns = (CLEAN_MODEL, UNDEFENDED, *facts.columns)
    if not any(cell.row in facts.rows and cell.column in columns for cell in cells):
        raise InputError(f"{folder}: no piece is done yet")
    return facts, cells


def piece_folder(row: str, goal: str, seed: int) -> str:
    """Return the folder of a piece below `pieces`.

    >>> piece_folder("II-own", "sheep2bird", 5), piece_folder("clean", "", 5)
    ('II-own/sheep2bird-seed5', 'clean/no-goal-seed5')
    """
    return f"{plain_name(row)}/{plain_name(goal or 'no-goal')}-seed{seed}"


def cell_file(piece: Path, column: str) -> Path:
    """Return the file of a column in the folder of a piece."""
    return piece / f"{plain_name(column)}.parquet"


def described(file: Path) -> str:
    """Return the text of `matrix.yaml` that a `matrix.parquet` carries.

    Raises:
        InputError: If the file is broken, or has none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    refuse_special(file)
    try:
        text: str = (pq.read_schema(file).metadata or {}).get(_DESCRIBED, b"").decode()
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{file}: is no Parquet file ({reason}): give a matrix.parquet") from None
    if not text:
        raise InputError(f"{file}: does not say of what matrix it is: give a matrix.parquet")
    return text


def read_pieces(file: Path, folder: Path) -> dict[Path, MatrixCell]:
    """Read the measurements of one Parquet file, by the file that each has in the folder of a matrix.

    Args:
        file: A `matrix.parquet`.
        folder: The folder, which need not exist.

    Raises:
        InputError: As `read_cells`, or if two measurements have one file.
    """
    pieces: dict[Path, MatrixCell] = {}
    for cell in read_cells([file]):
        piece = folder / PIECES / piece_folder(cell.row, cell.goal, cell.seed)
        if pieces.setdefault(target := cell_file(piece, cell.column), cell) is not cell:
            raise InputError(f"{file}: measures {target.relative_to(folder)} twice: give another")
    return pieces
