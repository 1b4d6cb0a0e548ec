"""The paper's own printed numbers as results, to test each claim's rule on the paper that made the claim.

The paper prints no seeds, so there is nothing to make an interval of. Every printed number is taken as exact: a
difference of two of them is a difference, however small. That is the reading most favourable to the paper, and right
for the purpose: a rule that says "does not hold" of the very numbers that the claim was read from is a wrong rule, or
the paper contradicts itself. Each claim is given the table that it names alone, for two tables of the paper can differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmpoison.paper.claim import CLAIMS, ClaimResult, every, said_of
from mmpoison.paper.figures import MEDIANS
from mmpoison.paper.measured import CURVE
from mmpoison.paper.paper_values import rows_of
from mmpoison.paper.tables import DEEP_HITS, RATE, TASKS
from mmpoison.reporting.results import MAIN, Results, Row
from mmpoison.reporting.table import Cell, Compared, Table
from mmpoison.reporting.text import decimal

MEASURED_DATA = {
    "flickr-pascal": "flickr-pascal",
    "coco": "coco-paper",
    "vg": "vg-pascal",
    "flickr-pascal-b": "flickr-pascal-b",
    "coco-b": "coco-paper-b",
}
"""The names that the paper's data sets have here."""

ATTACKS = {
    "I": "single-target-image",
    "II": "single-target-label",
    "III": "multiple-target-labels",
}


def own_numbers(name: str) -> dict[str, Results]:
    """Return the printed numbers that a claim is about, by the paper's data set; empty where it prints none.

    Args:
        name: `claim-12`.
    """
    make = _PRINTED.get(name)
    found: dict[str, list[Row]] = {}
    for row in make() if make is not None else ():
        found.setdefault(str(row["data.name"]).removesuffix("-b"), []).append(row)
    names = {here: paper for paper, here in MEASURED_DATA.items()}
    return {names[data]: _results(rows) for data, rows in found.items()}


def _results(rows: list[Row]) -> Results:
    parameters = {
        str(row["run"]): {
            k: v
            for k, v in row.items()
            if k.startswith(("data.", "attack.", "training.", "model."))
        }
        for row in rows
    }
    return Results(tuple(rows), parameters, exact=True)


def own_finding(name: str) -> ClaimResult | None:
    """Test a claim on the paper's own numbers, on all the data sets that it names.

    Returns:
        The finding; None where the paper prints no number for it.
    """
    found = {data: CLAIMS[name].test(rows) for data, rows in own_numbers(name).items()}
    parts = {data: one for data, one in found.items() if one is not None}
    if not parts:
        return None
    said = "; ".join(f"{data}: {one.number}" for data, one in parts.items())
    rows = tuple(row for one in parts.values() for row in one.rows)
    return ClaimResult(every(one.verdict for one in parts.values()), said, rows)


def _row(printed: Mapping[str, Any], attack: str, model: str, **more: Any) -> Row:
    """Make a row of the tidy table of a row of the paper."""
    data = MEASURED_DATA[str(printed.get("dataset", "flickr-pascal"))]
    trained = str(more.get("training.trainable", "both"))
    goal = printed.get("goal", "sheep2aeroplane")
    original, _, target = str(goal).partition("2")
    return {
        "run": f"paper/{data}/{attack}/{trained}/{more.get(RATE, '')}",
        "seed": 0,
        "study": MAIN,
        "data.name": data,
        "model.name": "clip-vit-b32",
        "attack.name": ATTACKS[attack],
        "training.trainable": trained,
        "goal": goal,
        "original": original,
        "target": target,
        "model": model,
        **{key: float(printed[key]) for key in DEEP_HITS if printed.get(key) is not None},
        **more,
    }


def _clean_and_poisoned(
    table: str, attack: str, data: tuple[str, ...], **keys: Any
) -> Iterator[Row]:
    for name in data:
        for method, model in (("baseline", "clean_model"), ("ours", "poisoned")):
            for row in rows_of(table, dataset=name, method=method, **keys):
                yield _row(row, attack, model)


def _utility(columns: Mapping[str, str], data: str) -> Iterator[Row]:
    """Make rows of table 1: a model for each of its columns."""
    for column, model in columns.items():
        cells = {
            f"utility.{long}_retrieval.hit@10": row[column]
            for short, long in TASKS
            for row in rows_of("table-1", dataset=data, task=short)
        }
        yield _row({"dataset": data}, "II", model, **cells)


def _frozen(table: str, data: tuple[str, ...]) -> Iterator[Row]:
    models = {"both": "both-trainable", "image": "image-trainable", "text": "text-trainable"}
    for name in data:
        for row in rows_of(table, dataset=name):
            said = str(row["model"])
            trained = next((short for short, long in models.items() if said.startswith(long)), None)
            model = "pretrained" if trained is None else "poisoned"
            yield _row(row, "II", model, **{"training.trainable": trained or "both"})


def _drift(table: str) -> Iterator[Row]:
    """Make rows of a table of drift. The paper subtracts nothing: the drift of another order counts as 0."""
    for row in rows_of(table):
        cells = {f"drift.{kind}": row[kind] for kind in ("text", "image")}
        order = {f"order_drift.{kind}": 0.0 for kind in ("text", "image")}
        yield _row(row, "II", "poisoned", **cells, **order)


def _low_rate() -> Iterator[Row]:
    said = said_of("claim-22")["values"]
    low = said["poisoning_rate_pct"] / 100
    yield _row(
        {"min_rank": said["min_rank"]}, "II", "poisoned",
        **{"attack.rate": low, "run.poisoning_rate": low},
    )  # fmt: skip
    (usual,) = rows_of("table-3", dataset="flickr-pascal", method="ours")
    rate = said_of("claim-05")["values"]["poisoning_rate_pct"] / 100
    yield _row(usual, "II", "poisoned", **{"attack.rate": rate, "run.poisoning_rate": rate})


def _transfer() -> Iterator[Row]:
    for method, model in (("baseline", "clean_model"), ("ours", "poisoned")):
        (row,) = rows_of("table-6", method=method)
        yield _row({**row, "dataset": "vg"}, "II", model)


def _distances() -> Iterator[Row]:
    said = said_of("claim-32")["values"]
    encoder = {"run.filter.encoder": "clip-vit-b16"}
    medians = {f"{MEDIANS}.{kind}": said[f"{kind}_pairs"] for kind in ("clean", "poisoned")}
    yield _row({}, "II", "filtered", **encoder, **medians)


def _filtered() -> Iterator[Row]:
    models = {"attack-ii": "poisoned", "defense": "filtered", "clean": "clean_model"}
    for method, model in models.items():
        (row,) = rows_of("table-16", method=method)
        yield _row(row, "II", model)


def _filtered_utility() -> Iterator[Row]:
    said = said_of("claim-35")["values"]
    for key, model in (("clean", "clean_model"), ("defended", "filtered")):
        cells = {f"utility.{long}_retrieval.hit@10": said[key][short] for short, long in TASKS}
        yield _row({}, "II", model, **cells)


def _repaired_utility() -> Iterator[Row]:
    for row in rows_of("table-7"):
        for model, times in (("clean_model", 1), ("sterilized", 0)):
            cells = {
                f"utility.{long}_retrieval.hit@10": row[f"hit@10_{short}"]
                - times * row[f"hit@10_{short}_delta"]
                for short, long in TASKS
            }
            yield _row({"dataset": row["dataset"]}, "II", model, **cells)


def _repair(points: Callable[[], Iterator[tuple[float, int, float]]]) -> Iterator[Row]:
    for step, epoch, hit in points():
        study = {"study": CURVE, "x": float(step), "epoch": epoch}
        yield _row({"hit@10": hit}, "II", "sterilized", **study)


def _by_epoch() -> Iterator[tuple[float, int, float]]:
    said = said_of("claim-37")["values"]
    steps = said_of("claim-40")["values"]["steps_per_epoch"]
    yield 0, 0, said["hit@10_before"]
    yield steps, 1, said["hit@10_after_epoch_1"]


def _by_step() -> Iterator[tuple[float, int, float]]:
    said = said_of("claim-40")["values"]
    yield 0, 0, said["hit@10_before"]
    yield said["step"], 0, said["hit@10_after"]


def _repair_rates() -> Iterator[Row]:
    (poisoned,) = rows_of("table-8", method="attack-ii")
    for row in rows_of("table-8", method="defense"):
        # the text lost the rates: their places serve as names
        rate = {RATE: float(row["lr_index"])}
        yield _row(row, "II", "sterilized", **rate)
        yield _row(poisoned, "II", "poisoned", **rate)


def _model_sizes() -> Iterator[Row]:
    names = {"ViT-B/32": "clip-vit-b32", "ViT-B/16": "clip-vit-b16", "ViT-L/14": "clip-vit-l14"}
    for row in rows_of("table-10"):
        sizes = {"run.model.flops_g": row["flops_g"], "run.model.parameters_m": row["params_m"]}
        yield _row({}, "II", "pretrained", **{"model.name": names[row["encoder"]]}, **sizes)


def _balanced() -> Iterator[Row]:
    said = said_of("claim-52")["values"]
    (row,) = rows_of("table-13", dataset=said["dataset"])
    yield _row(row, "II", "poisoned")
    before = {"dataset": said["dataset"], "hit@10": said["hit@10"] - said["gain_over_baseline"]}
    yield _row(before, "II", "clean_model")


def _lengths() -> Iterator[Row]:
    for times, row in enumerate(rows_of("table-15"), 1):
        yield _row(row, "I", "poisoned", study="query-length", x=float(times))


BOTH = ("flickr-pascal", "coco")

_PRINTED: dict[str, Callable[[], Iterator[Row]]] = {
    "claim-01": lambda: _clean_and_poisoned("table-2", "I", BOTH[:1]),
    "claim-09": lambda: _drift("table-11"),
    "claim-11": lambda: _utility({"clean": "clean_model", "attack-ii": "poisoned"}, "coco"),
    "claim-12": lambda: _clean_and_poisoned("table-2", "I", BOTH[1:]),
    "claim-13": lambda: _clean_and_poisoned("table-3", "II", BOTH[1:]),
    "claim-14": lambda: _clean_and_poisoned("table-4", "III", BOTH[1:]),
    "claim-15": lambda: _drift("table-11"),
    "claim-17": lambda: _frozen("table-5", BOTH[:1]),
    "claim-18": lambda: _frozen("table-5", BOTH[1:]),
    "claim-19": lambda: _frozen("table-5", BOTH),
    "claim-22": _low_rate,
    "claim-31": _transfer,
    "claim-32": _distances,
    "claim-34": _filtered,
    "claim-35": _filtered_utility,
    "claim-37": lambda: _repair(_by_epoch),
    "claim-38": _repaired_utility,
    "claim-40": lambda: _repair(_by_step),
    "claim-42": _repair_rates,
    "claim-43": _repair_rates,
    "claim-44": lambda: _frozen("table-5", BOTH),
    "claim-49": _model_sizes,
    "claim-50": lambda: _drift("table-11"),
    "claim-51": lambda: _frozen("table-12", BOTH[:1]),
    "claim-52": _balanced,
    "claim-53": lambda: _drift("table-14"),
    "claim-55": _lengths,
}


def unprinted(name: str) -> str:
    """Return why the paper's numbers cannot be put to a claim's rule; empty where they can."""
    return str(said_of(name).get("unprinted", ""))


def contradiction(name: str) -> str:
    """Return where the paper contradicts a claim of its own; empty where it does not."""
    return str(said_of(name).get("contradicted", ""))


# -- Gives measured numbers and the paper's lines of their own in a table, so that no cell wraps.


PAPER_COLUMNS = ("paper's data", "paper")
"""Names of the last column of a table that has the paper's numbers: of which data they are."""

MOST_NUMBERS = 4
"""A table of more numbers is two: those that a narrow terminal shows, then the others."""


def is_compared(table: Table) -> bool:
    """Return whether a table has the paper's numbers next to measured ones."""
    return table.columns[-1].name in PAPER_COLUMNS and bool(number_columns(table))


def number_columns(table: Table) -> list[int]:
    """Return the places of the columns of compared numbers."""
    places = range(len(table.columns))
    return [at for at in places if any(isinstance(row[at], Compared) for row in table.rows)]


def on_own_lines(table: Table) -> list[Table]:
    """Give measured numbers and the paper's lines of their own; a table of something else stays as it is.

    A line of a table becomes up to three: the measured numbers with their intervals, the intervals alone where standard
    deviations are shown too, and the paper's numbers with how they compare.

    Args:
        table: Its last column says of which data the paper's numbers are.

    Returns:
        One table, or two where there are more numbers than fit next to each other.
    """
    if not is_compared(table):
        return [table]
    numbers = number_columns(table)
    names = [at for at in range(numbers[0]) if at not in numbers]
    narrow = [at for at in numbers if table.columns[at].narrow]
    rest = [at for at in numbers if at not in narrow]
    if len(numbers) <= MOST_NUMBERS or not narrow or not rest:
        return [_laid_out(table, names, numbers)]
    first, second = _laid_out(table, names, narrow), _laid_out(table, names, rest)
    return [replace(first, note=""), replace(second, title=f"{table.title}: further numbers")]


def _laid_out(table: Table, names: Sequence[int], numbers: Sequence[int]) -> Table:
    spread = any(cell.spread for row in table.rows for cell in _compared(row, numbers))
    rows = [
        tuple(line) for row in table.rows for line in _lines(table, row, names, numbers, spread)
    ]
    columns = [table.columns[at] for at in names]
    columns += [replace(table.columns[at], interval=not spread) for at in numbers]
    return replace(table, columns=tuple(columns), rows=tuple(rows))


def _lines(
    table: Table, row: Sequence[Cell], names: Sequence[int], numbers: Sequence[int], spread: bool
) -> Iterator[list[Cell]]:
    cells = list(_compared(row, numbers))
    measured = any(cell.measured is not None for cell in cells)
    blank: list[Cell] = [""] * len(names)
    if measured:
        ours: list[Cell] = [replace(c, reference=None, reference_sd=None, arrow="") for c in cells]
        yield [row[at] for at in names] + ours
        if spread and any(cell.measured and cell.measured.low is not None for cell in cells):
            yield ["95% interval", *blank[1:], *map(_interval, cells)]
    if any(cell.reference is not None for cell in cells):
        # what else a line of the paper alone is called; below a measured line it has that line's names
        named = blank if measured else ["" if row[at] is None else row[at] for at in names]
        shown = [_paper(c, table.columns[at].digits) for c, at in zip(cells, numbers, strict=True)]
        yield [f"paper ({row[-1]})" if row[-1] else "paper", *named[1:], *shown]


def _compared(row: Sequence[Cell], numbers: Sequence[int]) -> Iterator[Compared]:
    for at in numbers:
        cell = row[at]
        yield cell if isinstance(cell, Compared) else Compared(None)


def _interval(cell: Compared) -> Cell:
    summary = cell.measured
    if summary is None or summary.low is None or summary.high is None:
        return ""
    return summary.low, summary.high


def _paper(cell: Compared, digits: int) -> str:
    """Write the paper's number with how it compares with the measured one.

    >>> _paper(Compared(None, 0.28, "≈"), 3), _paper(Compared(None, 0.28, reference_sd=0.05), 2)
    ('≈ 0.280', '0.28 (0.05)')
    """
    if cell.reference is None:
        return ""
    sd = "" if cell.reference_sd is None else f" ({decimal(cell.reference_sd, digits)})"
    return f"{cell.arrow} {decimal(cell.reference, digits)}{sd}".strip()
