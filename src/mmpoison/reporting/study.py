"""Makes tables of the optional parts of an evaluation, over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from mmpoison.base.record import Record
from mmpoison.records.run_files import ClassChange, GoalRow, Silhouettes, TransferMeasures
from mmpoison.reporting.measures import bounds_of
from mmpoison.reporting.runs import Group
from mmpoison.reporting.summary import classes
from mmpoison.reporting.table import Cell, Column, Table
from mmpoison.statistics import Summary, summarize

QUERIES = {
    "test": "test captions",
    "misused": "captions of the poison",
    "train": "other train captions",
    "random": "captions of other classes",
}
_ROW = (
    ("Hit@1", "hit@1", 3),
    ("Hit@5", "hit@5", 3),
    ("Hit@10", "hit@10", 3),
    ("MinRank", "min_rank", 2),
)


def study_tables(group: Group) -> Iterator[Table]:
    """Make the tables of the studies that the runs of a group hold."""
    goal, studies = group.goal, [run.study for run in group.in_order()]
    names = {model.key: model.name for model in group.models}
    yield from _rows_table(
        goal,
        names,
        [study.queries.get(goal, {}) for study in studies],
        "where the queries come from",
        "Queries",
        lambda key: QUERIES.get(key, key),
    )
    yield from _rows_table(
        goal,
        names,
        [study.query_length.get(goal, {}) for study in studies],
        "each caption once or several times in a row",
        "Repeats",
        lambda key: f"{key}x",
        (("words", "words", 1), ("context full", "full_context", 2)),
    )
    yield from _collateral(goal, [study.collateral.get(goal, {}) for study in studies])
    yield from _distribution(names, [study.distribution for study in studies])
    yield from _transfer(goal, names, [run.transfer for run in group.in_order()])


def _keys(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    """Return the keys of several mappings, in order."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _cells(records: Iterable[Record | None], keys: Iterable[str]) -> list[Summary | None]:
    """Summarise the numbers of a record over seeds; None where no run has it."""
    present = [record for record in records if record is not None]
    cells: list[Summary | None] = []
    for key in keys:
        numbers = [number for record in present if (number := record.number(key)) is not None]
        cells.append(summarize(numbers, bounds=bounds_of(key)) if numbers else None)
    return cells


def _rows_table(
    goal: str,
    names: Mapping[str, str],
    runs: Sequence[Mapping[str, Mapping[str, GoalRow]]],
    title: str,
    what: str,
    name: Callable[[str], str],
    more: Sequence[tuple[str, str, int]] = (),
) -> Iterator[Table]:
    shown = (*_ROW, *more)
    rows: list[tuple[Cell, ...]] = []
    for model in _keys(runs):
        of_model = [run.get(model, {}) for run in runs]
        for kind in _keys(of_model):
            cells = _cells([kinds.get(kind) for kinds in of_model], [key for _, key, _ in shown])
            n = cells[0].n if cells[0] else None
            rows.append((f"{names.get(model, model)}, {name(kind)}", n, *cells))
    if rows:
        columns = (
            Column(f"Model, {what.lower()}"),
            Column("n"),
            *(Column(title, digits) for title, _, digits in shown),
        )
        yield Table(f"{goal}: {title}", columns, tuple(rows))


def _collateral(goal: str, runs: Sequence[Mapping[str, ClassChange]]) -> Iterator[Table]:
    whens = {"clean": "clean_model", "poisoned": "poisoned", "change": "change"}
    rows: list[tuple[Cell, ...]] = []
    for label in _keys(runs):
        changes = [change for run in runs if (change := run.get(label)) is not None]
        cells = [
            *_cells([change.own for change in changes], whens.values()),
            *_cells([change.target for change in changes], whens.values()),
        ]
        rows.append((label, cells[0].n if cells[0] else None, *cells))
    if rows:
        columns = (
            Column("Captions of"),
            Column("n"),
            *(
                Column(f"{kind} {when}", 2, narrow=when == "change" or kind == "target")
                for kind in ("own", "target")
                for when in whens
            ),
        )
        pair = classes(goal)
        note = (
            "Mean rank of the best image of the caption's own class, and of the best target image, under the clean and "
            "the poisoned model; a negative change is nearer to the top."
        )
        if pair:
            note += f" The attack is on {pair[0]}; every other class is a bystander."
        yield Table(f"{goal}: who else moved", columns, tuple(rows), note)


def _distribution(
    names: Mapping[str, str], runs: Sequence[Mapping[str, Silhouettes]]
) -> Iterator[Table]:
    rows: list[tuple[Cell, ...]] = []
    for model in _keys(runs):
        cells = _cells([run.get(model) for run in runs], ("text_silhouette", "image_silhouette"))
        known = [cell for cell in cells if cell is not None]
        if known:
            rows.append((names.get(model, model), known[0].n, *cells))
    if rows:
        yield Table(
            "silhouette by class",
            (Column("Model"), Column("n"), Column("texts"), Column("images")),
            tuple(rows),
            "From -1 to 1, cosine distance; higher: the classes lie further apart.",
        )


def _transfer(
    goal: str, names: Mapping[str, str], runs: Sequence[Mapping[str, TransferMeasures]]
) -> Iterator[Table]:
    columns = (Column("Model"), Column("n"), *(Column(title, digits) for title, _, digits in _ROW))
    for data in _keys(runs):
        there = [measures for run in runs if (measures := run.get(data)) is not None]
        for tested in _keys([measures.goal for measures in there]):
            rows: list[tuple[Cell, ...]] = []
            for model, name in names.items():
                found = [measures.row(tested, model) for measures in there]
                cells = _cells(found, [key for _, key, _ in _ROW])
                if cells[0] is not None:
                    rows.append((name, cells[0].n, *cells))
            yield Table(f"trained for {goal}, tested on {data}: {tested}", columns, tuple(rows))
