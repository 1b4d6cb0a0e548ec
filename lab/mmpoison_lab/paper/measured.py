"""Selects the rows of measured runs that a table of the paper needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mmpoison.reporting import Measured, Results, Row, change
from mmpoison.statistics import compare

AMOUNTS = ("attack.samples", "attack.pairs", "attack.rate", "attack.share")
"""The parameters for the amount of poison."""

CURVE = "sterilize-curve"
"""The study that measures a running repair."""


def trained(row: Row) -> str:
    """Return which encoders a run trained (`both`, `image`, `text`, `none`), wholly or only their projections.

    >>> trained({"training.trainable": "image-head"}), trained({"training.trainable": "heads"})
    ('image', 'both')
    """
    name = str(row.get("training.trainable", "both"))
    return {"heads": "both", "image-head": "image", "text-head": "text"}.get(name, name)


def _attacked(row: Row, attack: str) -> bool:
    """Check whether a run trained on an attack's poison; without training there is no attack."""
    return row.get("attack.name") == attack and row.get("training.epochs") != 0


def attack_2(row: Row) -> bool:
    """Check whether a row belongs to attack II, whatever was trained."""
    return _attacked(row, "single-target-label")


def is_attack(name: str) -> Callable[[Row], bool]:
    """Return a predicate for rows of one attack that trained both encoders."""
    return lambda row: _attacked(row, name) and trained(row) == "both"


ATTACK_1 = is_attack("single-target-image")
ATTACK_2 = is_attack("single-target-label")
ATTACK_3 = is_attack("multiple-target-labels")


@dataclass(frozen=True)
class Block:
    """Runs on one data set that differ only in their seed."""

    data: str
    setting: str
    results: Results

    @property
    def title(self) -> str:
        """Data set, and what distinguishes the runs from others on it."""
        return f"{self.data} ({self.setting})" if self.setting else self.data


def blocks(
    results: Results, *, varies: Sequence[str] = (), keep: Sequence[str] = ()
) -> Iterator[Block]:
    """Group runs by data set, and by parameters that differ in addition to the table's own."""
    for data, on_data in results.by("data.name"):
        for setting, group in on_data.settings(varies=varies, keep=keep):
            yield Block(str(data), setting, group)


def of_model(results: Results, model: str) -> Results:
    """Select the rows of one model, in any study."""
    return results.only(row for row in results.rows if row["model"] == model)


def with_model(results: Results, model: str) -> Results:
    """Select rows of the runs that have a model."""
    runs = {row["run"] for row in results.rows if row["model"] == model}
    return results.where(lambda row: row["run"] in runs)


def by_amount(results: Results) -> list[Results]:
    """Group rows by the requested amount of poison: the counts differ slightly between seeds."""
    amounts: dict[tuple[object, ...], list[Row]] = {}
    for row in results.rows:
        amounts.setdefault(tuple(row.get(name) for name in AMOUNTS), []).append(row)
    return [results.only(rows) for rows in amounts.values()]


def ends_of_curves(results: Results) -> list[tuple[str, Results]]:
    """Return the last measurement of each learning rate of each run, by learning rate, high to low."""
    found: list[tuple[str, Results]] = []
    for rate, at_rate in results.where(study=CURVE).by("case"):
        last: dict[str, float] = {}
        for row in at_rate.rows:
            last[row["run"]] = max(last.get(row["run"], 0.0), row["x"] or 0.0)
        ends = at_rate.only(row for row in at_rate.rows if row["x"] == last[row["run"]])
        found.append((str(rate), ends))
    return sorted(found, key=lambda pair: -float(pair[0]))


def p_of(changed: Measured) -> float | None:
    """Return p of the paired two-tailed t-test of a difference; None for one seed or no spread."""
    values = list(changed.by_seed.values())
    return compare([0.0] * len(values), values).t_p if len(values) > 1 else None


def beyond_order(rows: Results, kind: str) -> Measured:
    """Return the drift of one kind of embedding, minus that between two clean models with different pair orders.

    Args:
        rows: Rows of poisoned models, with the study order-drift.
        kind: `text` or `image`.
    """
    return change(rows.measured(f"order_drift.{kind}"), rows.measured(f"drift.{kind}"))
