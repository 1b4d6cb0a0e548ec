"""The optional parts of an evaluation as tables over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mmpoison.reporting.runs import Group, Metrics, number_at
from mmpoison.reporting.summary import MODELS, classes, section
from mmpoison.reporting.table import Cell, Column, Table
from mmpoison.statistics import Summary

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
_NAMES = {model.key: model.name for model in MODELS}


def study_tables(group: Group) -> Iterator[Table]:
    """The tables of the studies that the runs of a group hold."""
    yield from _rows_table(
        group,
        "queries",
        "where the queries come from",
        "Queries",
        lambda key: QUERIES.get(key, key),
    )
    yield from _rows_table(
        group,
        "query_length",
        "each caption said once or several times",
        "Said",
        lambda key: f"{key}x",
        (("words", "words", 1), ("context full", "full_context", 2)),
    )
    yield from _collateral(group)
    yield from _distribution(group)
    yield from _transfer(group)


def _cell(group: Group, *path: str) -> Summary | None:
    return group.over_seeds(lambda run: number_at(run, *path))


def _keys(group: Group, *path: str) -> list[str]:
    """Keys of an object deep in the metrics of any run, in order."""
    found: dict[str, None] = {}
    for run in group.in_order():
        at: Metrics = run
        for key in path:
            at = section(at, key)
        found.update(dict.fromkeys(at))
    return list(found)


def _rows_table(
    group: Group,
    study: str,
    title: str,
    what: str,
    name: Callable[[str], str],
    more: Sequence[tuple[str, str, int]] = (),
) -> Iterator[Table]:
    path = ("study", study, group.goal)
    rows: list[tuple[Cell, ...]] = []
    for model in _keys(group, *path):
        for kind in _keys(group, *path, model):
            cells = [_cell(group, *path, model, kind, key) for _, key, _ in (*_ROW, *more)]
            n = cells[0].n if cells[0] else None
            rows.append((f"{_NAMES.get(model, model)}, {name(kind)}", n, *cells))
    if rows:
        columns = (
            Column(f"Model, {what.lower()}"),
            Column("n"),
            *(Column(title, digits) for title, _, digits in (*_ROW, *more)),
        )
        yield Table(f"{group.goal}: {title}", columns, tuple(rows))


def _collateral(group: Group) -> Iterator[Table]:
    path = ("study", "collateral", group.goal)
    rows: list[tuple[Cell, ...]] = []
    for label in _keys(group, *path):
        entries = [
            _cell(group, *path, label, kind, key)
            for kind in ("own", "target")
            for key in ("clean_model", "poisoned", "change")
        ]
        rows.append((label, entries[0].n if entries[0] else None, *entries))
    if rows:
        columns = (
            Column("Captions of"),
            Column("n"),
            *(
                Column(f"{kind} {when}", 2, narrow=when == "change" or kind == "target")
                for kind in ("own", "target")
                for when in ("clean", "poisoned", "change")
            ),
        )
        pair = classes(group.goal)
        note = (
            "Mean rank of the best image of the caption's own class, and of the best target image, under the clean and "
            "the poisoned model; a negative change is nearer to the top."
        )
        if pair:
            note += f" The attack is on {pair[0]}; every other class is a bystander."
        yield Table(f"{group.goal}: who else moved", columns, tuple(rows), note)


def _distribution(group: Group) -> Iterator[Table]:
    rows: list[tuple[Cell, ...]] = []
    for model in _keys(group, "study", "distribution"):
        cells = [
            _cell(group, "study", "distribution", model, f"{kind}_silhouette")
            for kind in ("text", "image")
        ]
        known = [cell for cell in cells if cell is not None]
        if known:
            rows.append((_NAMES.get(model, model), known[0].n, *cells))
    if rows:
        yield Table(
            "silhouette by class",
            (Column("Model"), Column("n"), Column("texts"), Column("images")),
            tuple(rows),
            "From -1 to 1, cosine distance; higher: the classes lie further apart.",
        )


def _transfer(group: Group) -> Iterator[Table]:
    for data in _keys(group, "transfer"):
        for goal in _keys(group, "transfer", data, "goal"):
            rows: list[tuple[Cell, ...]] = []
            for model in MODELS:
                path = ("transfer", data, "goal", goal, model.key)
                cells = [_cell(group, *path, key) for _, key, _ in _ROW]
                if cells[0] is not None:
                    rows.append((model.name, cells[0].n, *cells))
            columns = (
                Column("Model"),
                Column("n"),
                *(Column(title, digits) for title, _, digits in _ROW),
            )
            yield Table(f"trained for {group.goal}, tested on {data}: {goal}", columns, tuple(rows))
