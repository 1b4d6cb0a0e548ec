"""Selects the rows of measured runs that a table of the paper needs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmpoison.base.untrusted import read_json
from mmpoison.reporting.runs import (
    NO_SETTING,
    Bounds,
    Row,
    bounds_of,
    expand,
    leave_out,
    parameters_of,
)
from mmpoison.reporting.text import clean
from mmpoison.reporting.tidy import MAIN, run_rows
from mmpoison.statistics import UNBOUNDED, Comparison, Summary, compare, summarize

AMOUNTS = ("attack.samples", "attack.pairs", "attack.rate", "attack.share")
"""The parameters that say how much poison."""

CURVE = "sterilize-curve"
"""The study that measures a repair on its way."""

_SHOWN_OTHERWISE = ("attack.goal", "filter", "sterilize")
"""Parameters that do not change the numbers of the clean and the poisoned model, or that have columns of their own."""


@dataclass(frozen=True)
class Measured:
    """One number over seeds.

    Attributes:
        summary: Its mean with its interval; None where no run has the number.
        rows: The rows it comes from.
        by_seed: The number of each seed, where it is known.
        exact: Take the number as it is, without an interval: a printed one, or a count.
    """

    summary: Summary | None
    rows: tuple[Row, ...] = ()
    by_seed: Mapping[int, float] = field(default_factory=dict)
    exact: bool = False

    @classmethod
    def of(
        cls,
        by_seed: Mapping[int, float],
        rows: Iterable[Row],
        *,
        exact: bool = False,
        bounds: Bounds = UNBOUNDED,
    ) -> Measured:
        """Summarize the number of each seed; without a summary where there is none.

        Args:
            by_seed: The number of each seed.
            rows: The rows that they come from.
            exact: As the attribute.
            bounds: The least and the largest possible value, at which the interval ends.
        """
        summary = summarize(list(by_seed.values()), bounds=bounds) if by_seed else None
        return cls(summary, tuple(rows), by_seed, exact)

    @property
    def mean(self) -> float | None:
        """The mean, None where no run has the number."""
        return None if self.summary is None else self.summary.mean


@dataclass(frozen=True)
class Results:
    """Rows of the tidy table.

    Attributes:
        rows: The rows.
        parameters: The parameters of each run folder.
        exact: Whether every number is taken as it is: printed numbers have no seeds to make an interval of.
    """

    rows: tuple[Row, ...]
    parameters: Mapping[str, Row]
    exact: bool = False

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Results:
        """Read run folders, or folders that hold some.

        Raises:
            InputError: As `results_table`.
        """
        folders = expand(paths)
        rows = [row for folder in folders for row in run_rows(folder)]
        return cls(tuple(rows), {str(folder): parameters_of(folder) for folder in folders})

    def __bool__(self) -> bool:
        return bool(self.rows)

    def where(self, keep: Callable[[Row], bool] | None = None, **keys: Any) -> Results:
        """Select rows with these values; `study` is `main` by default.

        Args:
            keep: Says which rows stay, of those with these values.
            keys: Columns without a dot, each with a value or several of them.
        """
        keys.setdefault("study", MAIN)
        wanted = {k: v if isinstance(v, (tuple, list, set)) else (v,) for k, v in keys.items()}
        return self.only(
            row
            for row in self.rows
            if all(row.get(k) in v for k, v in wanted.items()) and (keep is None or keep(row))
        )

    def values(self, column: str) -> list[Any]:
        """Return what a column holds, in the order of the rows, without what is absent."""
        return list(dict.fromkeys(v for row in self.rows if (v := row.get(column)) is not None))

    def measured(self, column: str) -> Measured:
        """Average a column over seeds: rows of one seed are averaged first. A share's interval stays in [0, 1]."""
        rows = tuple(
            row
            for row in self.rows
            if isinstance(v := row.get(column), (int, float)) and math.isfinite(v)
        )
        means = self.over_seeds(column)
        return Measured.of(means, rows, exact=self.exact, bounds=bounds_of(column))

    def over_seeds(self, column: str) -> dict[int, float]:
        """Return the mean of a column for each seed that has it, in the order of the seeds."""
        by_seed: dict[int, list[float]] = {}
        for row in self.rows:
            value = row.get(column)
            if isinstance(value, (int, float)) and math.isfinite(value):
                by_seed.setdefault(row["seed"], []).append(float(value))
        return {seed: sum(values) / len(values) for seed, values in sorted(by_seed.items())}

    def by(self, column: str) -> Iterator[tuple[Any, Results]]:
        """Group rows by the value of a column."""
        for value in self.values(column):
            yield value, self.only(row for row in self.rows if row.get(column) == value)

    def settings(
        self, *, varies: Sequence[str] = (), keep: Sequence[str] = ()
    ) -> list[tuple[str, Results]]:
        """Group rows by the parameters in which their runs differ, each with these parameters as text.

        Args:
            varies: Parameters, or groups of them, in which runs may differ.
            keep: Of the parameters that never matter by themselves, those that matter here.
        """
        ignored = [name for name in (*NO_SETTING, *_SHOWN_OTHERWISE, *varies) if name not in keep]
        of_run: dict[str, Row] = {}
        found: dict[str, tuple[Row, list[Row]]] = {}
        for row in self.rows:
            run = str(row["run"])
            if run not in of_run:
                of_run[run] = leave_out(self.parameters.get(run, {}), ignored)
            parameters = of_run[run]
            found.setdefault(json.dumps(parameters, sort_keys=True), (parameters, []))[1].append(
                row
            )
        every = [parameters for parameters, _ in found.values()]
        differ = [
            k
            for k in dict.fromkeys(key for parameters in every for key in parameters)
            if len({json.dumps(parameters.get(k)) for parameters in every}) > 1
        ]
        return [
            (", ".join(f"{k}={parameters.get(k)}" for k in differ), self.only(rows))
            for parameters, rows in found.values()
        ]

    def whole_data(self) -> Results:
        """Select runs on data with every caption of an image; balanced data have tables of their own."""
        return self.only(row for row in self.rows if not is_balanced(row))

    def of_runs(self, runs: Sequence[str]) -> Results:
        """Collect every row of some run folders, studies included."""
        return self.only(row for row in self.rows if row["run"] in set(runs))

    @staticmethod
    def content(row: Row, file: str) -> Mapping[str, Any]:
        """Read a JSON file of a row's run folder; empty where it is not there.

        Raises:
            InputError: If it is broken.
        """
        path = Path(str(row["run"])) / file
        value = clean(read_json(path)) if path.is_file() else None
        return value if isinstance(value, Mapping) else {}

    def only(self, rows: Iterable[Row]) -> Results:
        """Select some of the rows."""
        return replace(self, rows=tuple(rows))


def trained(row: Row) -> str:
    """Return which encoders a run trained (`both`, `image`, `text`, `none`), completely or only their projections.

    >>> trained({"training.trainable": "image-head"}), trained({"training.trainable": "heads"})
    ('image', 'both')
    """
    name = str(row.get("training.trainable", "both"))
    return {"heads": "both", "image-head": "image", "text-head": "text"}.get(name, name)


def is_balanced(row: Row) -> bool:
    """Return whether a run's data have one caption per image."""
    return str(row.get("data.name", "")).endswith("-b")


def _attacked(row: Row, attack: str) -> bool:
    """Return whether a run trained on an attack's poison; without training there is no attack."""
    return row.get("attack.name") == attack and row.get("training.epochs") != 0


def attack_2(row: Row) -> bool:
    """Say whether a row is of attack II, whatever was trained."""
    return _attacked(row, "single-target-label")


def is_attack(name: str) -> Callable[[Row], bool]:
    """Return a test for rows of one attack that trained both encoders."""
    return lambda row: _attacked(row, name) and trained(row) == "both"


ATTACK_1 = is_attack("single-target-image")
ATTACK_2 = is_attack("single-target-label")
ATTACK_3 = is_attack("multiple-target-labels")


@dataclass(frozen=True)
class Block:
    """Runs that differ only in their seed, on one data set."""

    data: str
    setting: str
    results: Results

    @property
    def title(self) -> str:
        """Data set, and what sets the runs apart from others of it."""
        return f"{self.data} ({self.setting})" if self.setting else self.data


def blocks(
    results: Results, *, varies: Sequence[str] = (), keep: Sequence[str] = ()
) -> Iterator[Block]:
    """Group runs by data set, and by the parameters in which they differ beyond what the table is about."""
    for data, on_data in results.by("data.name"):
        for setting, group in on_data.settings(varies=varies, keep=keep):
            yield Block(str(data), setting, group)


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


def difference(first: Results, second: Results, column: str) -> Measured:
    """Subtract the first from the second, paired by seed."""
    return change(first.measured(column), second.measured(column))


def change(first: Measured, second: Measured, times: float = 1.0) -> Measured:
    """Subtract a multiple of the first number from the second, paired by seed.

    Args:
        first: One number.
        second: Another, of the same seeds.
        times: The multiple.

    Returns:
        The difference over the seeds that both have; without a summary where there are none.

    >>> one, two = Measured(None, (), {0: 1.0, 1: 2.0}), Measured(None, (), {1: 5.0, 2: 7.0})
    >>> change(one, two).by_seed, change(one, two, 2).mean
    ({1: 3.0}, 1.0)
    """
    common = sorted(set(first.by_seed) & set(second.by_seed))
    by_seed = {seed: second.by_seed[seed] - times * first.by_seed[seed] for seed in common}
    rows = (*first.rows, *second.rows)
    return Measured.of(by_seed, rows, exact=first.exact and second.exact)


def p_of(changed: Measured) -> float | None:
    """Return p of the paired two-tailed t-test of a difference; None without a spread, or for fewer than two seeds."""
    values = list(changed.by_seed.values())
    return compare([0.0] * len(values), values).t_p if len(values) > 1 else None


def beyond_order(rows: Results, kind: str) -> Measured:
    """Return the drift of one kind of embedding less that between two clean models whose order of pairs differs.

    Args:
        rows: Of poisoned models, with the study order-drift.
        kind: `text` or `image`.
    """
    return change(rows.measured(f"order_drift.{kind}"), rows.measured(f"drift.{kind}"))


def paired(first: Results, second: Results, column: str, other: str = "") -> Comparison | None:
    """Compare a column of two kinds of rows over the seeds that both have; None where they share fewer than two.

    Args:
        first: Rows of one kind.
        second: Of the other.
        column: The column.
        other: Another column for the second kind, for two columns of the same rows.
    """
    one, two = first.over_seeds(column), second.over_seeds(other or column)
    common = sorted(set(one) & set(two))
    if len(common) < 2:
        return None
    return compare([one[seed] for seed in common], [two[seed] for seed in common])
