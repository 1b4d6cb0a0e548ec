"""The paper's own printed numbers as rows of the long table, to test each claim's rule on the paper that made it.

The paper prints no seeds, so there is nothing to make an interval of. Every printed number is taken as exact: a
difference of two of them is a difference, however small. That is the reading most favourable to the paper, and right
for the purpose: a rule that says "does not hold" of the very numbers that the claim was read from is a wrong rule, or
the paper contradicts itself. Each claim is given the table that it names alone, for two tables of the paper can differ;
what no table has is in the key `printed` of the claim in `paper_values.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmpoison.paper.claim import Claim
from mmpoison.paper.paper_values import ENCODERS, OWN_DATA, rows_of
from mmpoison.paper.tables import DEEP_HITS, RATE
from mmpoison.reporting.results import MAIN, Results, Row

ATTACKS = {
    "I": "single-target-image",
    "II": "single-target-label",
    "III": "multiple-target-labels",
}

MODELS = {"baseline": "clean_model", "clean": "clean_model", "defense": "filtered"}
"""The names that the methods of the paper's tables have here; all others are the poisoned model."""

COLUMNS = {
    **{column: column for column in DEEP_HITS},
    "text": "drift.text",
    "image": "drift.image",
    "flops_g": "run.model.flops_g",
    "params_m": "run.model.parameters_m",
}
"""The paper's columns, and those of the long table."""

NO_ORDER = {"order_drift.text": 0.0, "order_drift.image": 0.0}
"""The paper subtracts nothing from drift: that of another order counts as 0."""


def own_numbers(claim: Claim) -> Results:
    """Return the printed numbers that a claim is about; empty where the paper prints none that could be tested."""
    printed = claim.printed or claim.entry
    rows: tuple[Row, ...] = ()
    if not claim.unprinted:
        given = printed_rows(printed) if isinstance(printed, str) else map(_row, printed)
        rows = tuple(given)
    return Results(rows, {row["run"]: _parameters(row) for row in rows}, exact=True)


def printed_rows(table: str) -> Iterator[Row]:
    """Make rows of the long table of a table of the paper."""
    for printed in rows_of(table):
        # "image-trainable (text frozen)", "both-frozen (pre-trained)"
        trained, _, state = str(printed.get("model", "both-trainable")).partition("-")
        model = MODELS.get(str(printed.get("method")), "poisoned")
        cells = {COLUMNS[key]: value for key, value in printed.items() if key in COLUMNS}
        data = str(printed.get("train_dataset", printed.get("dataset", "flickr-pascal")))
        base, balanced, _ = data.partition("-b")
        row = {
            "data.name": next(name for name, own in OWN_DATA.items() if own == base) + balanced,
            "attack.name": ATTACKS[printed.get("attack") or "II"],
            "training.trainable": trained,
            "goal": printed.get("goal", "sheep2aeroplane"),
            "model": "pretrained" if state.startswith("frozen") else model,
            **{column: float(value) for column, value in cells.items() if value is not None},
        }
        yield from map(_row, _as_measured(table, row, printed))


def _as_measured(table: str, row: Row, printed: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Add to a row what distinguishes it from the others of its table."""
    if table == "table-8":
        # the text lost the rates: their places serve as names
        rates = [1, 2, 3] if printed["lr_index"] is None else [printed["lr_index"]]
        model = "poisoned" if printed["lr_index"] is None else "sterilized"
        for rate in rates:
            yield {**row, "model": model, RATE: float(rate)}
    elif table == "table-10":
        names = {encoder: name for name, encoder in ENCODERS.items()}
        yield {**row, "model": "pretrained", "model.name": names[printed["encoder"]]}
    elif table == "table-15":
        yield {**row, "study": "query-length", "x": float(printed["times"])}
    else:
        yield {**row, **NO_ORDER} if "drift.text" in row else row


def _row(cells: Mapping[str, Any]) -> Row:
    """Complete a row of the long table: what it does not say is as in attack II on Flickr-PASCAL."""
    row = {
        "seed": 0,
        "study": MAIN,
        "data.name": "flickr-pascal",
        "model.name": "clip-vit-b32",
        "attack.name": ATTACKS["II"],
        "training.trainable": "both",
        "goal": "sheep2aeroplane",
        **cells,
    }
    row["original"], _, row["target"] = str(row["goal"]).partition("2")
    return {**row, "run": f"paper: {_parameters(row)}"}


def _parameters(row: Row) -> Row:
    names = ("data.", "attack.", "training.", "model.", "sterilize.")
    return {key: value for key, value in row.items() if key.startswith(names)}
