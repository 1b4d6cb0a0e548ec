"""Rules of the claims about the two defences: section 5."""

from __future__ import annotations

from mmpoison.paper.claim import (
    Finding,
    claim,
    main_goal,
    mean,
    need,
    need_taken,
    reference,
    shown,
    versus,
)
from mmpoison.paper.evidence import every, interval, is_at_least, is_at_most, is_smaller
from mmpoison.paper.figures import median_distance
from mmpoison.paper.measured import ATTACK_2, CURVE, Measured, Results, change, with_model
from mmpoison.paper.tables import RATE, REPAIR_RATE
from mmpoison.reporting.measures import DISTANCE
from mmpoison.reporting.text import as_number

GONE = 0.1
"""Hit@10 at which an attack counts as gone."""

LIKE_CLEAN = 0.05
"""A defended model finds the goal as little as the clean one: the limit that `sterilize --canary-goal` uses."""

UTILITY_LOSS = 0.02
"""What `sterilize` may cost, its default `--max-utility-loss`: a loss of no more counts as none."""


@claim(32)
def _poison_lies_farther_apart(results: Results) -> Finding:
    runs = results.where(ATTACK_2, model="filtered").whole_data()
    rows = main_goal(reference(runs, keep=("filter",)))
    encoders = [at for _, at in rows.by("run.filter.encoder")]
    rows = max(encoders, key=lambda at: len(at.values("seed")), default=rows)
    clean, poisoned = (_medians(rows, kind) for kind in ("clean", "poisoned"))
    return versus(clean, poisoned, lambda gap: is_at_least(interval(gap), 0.05))


def _medians(rows: Results, kind: str) -> Measured:
    """Return the median distance of one kind of pairs over seeds."""
    by_seed: dict[int, list[float]] = {}
    used = []
    for row in rows.rows:
        if (value := median_distance(rows, row, kind)) is not None:
            by_seed.setdefault(int(row["seed"]), []).append(value)
            used.append(row)
    means = {seed: sum(values) / len(values) for seed, values in sorted(by_seed.items())}
    return Measured.of(means, used, exact=rows.exact, bounds=DISTANCE)


def _defended(results: Results, model: str, part: str) -> Results:
    runs = with_model(results.where(ATTACK_2).whole_data(), model)
    return main_goal(reference(runs, keep=(part,)))


@claim(34)
def _filter_works(results: Results) -> Finding:
    rows = _defended(results, "filtered", "filter")
    ranks = {m: rows.where(model=m).measured("min_rank") for m in ("poisoned", "filtered")}
    hits = {m: rows.where(model=m).measured("hit@10") for m in ("clean_model", "filtered")}
    for measured in (*ranks.values(), *hits.values()):
        mean(measured)
    tenfold = change(ranks["poisoned"], ranks["filtered"], times=10)
    more = change(hits["clean_model"], hits["filtered"])
    verdict = every([is_at_least(interval(tenfold), 0), is_at_most(interval(more), LIKE_CLEAN)])
    said = (
        f"MinRank {shown(ranks['poisoned'], 1)} to {shown(ranks['filtered'], 1)}; "
        f"Hit@10 less the clean model's {shown(more)}"
    )
    return Finding(verdict, said, more.rows)


def _utility_stays(results: Results, model: str, part: str, most: float) -> Finding:
    rows = _defended(results, model, part)
    clean, after = rows.where(model="clean_model"), rows.where(model=model)
    columns = [f"utility.{way}_retrieval.hit@10" for way in ("text", "image")]
    changes = [change(clean.measured(column), after.measured(column)) for column in columns]
    for changed in changes:
        mean(changed)
    said = ", ".join(f"{n} {shown(c)}" for n, c in zip(("TR", "IR"), changes, strict=True))
    verdict = every(is_at_least(interval(changed), -most) for changed in changes)
    return Finding(verdict, f"change of {said}", changes[0].rows)


@claim(35)
def _filter_keeps_utility(results: Results) -> Finding:
    return _utility_stays(results, "filtered", "filter", 0.01)


@claim(38)
def _repair_keeps_utility(results: Results) -> Finding:
    return _utility_stays(results, "sterilized", "sterilize", UTILITY_LOSS)


# -- the repair, step by step ------------------------------------------------------------------------


def _repair_curve(results: Results, at: float | None = None) -> Results:
    """Return the rows of one repair that was measured on its way.

    Args:
        results: Rows of one data set.
        at: The shortest repair that was measured at this step, as figure 9 is of one epoch; by default the longest, as
            figure 7 is of several. Of several, that of the most seeds.
    """
    rows = results.where(ATTACK_2, study=CURVE).whole_data()
    groups = [g for _, g in rows.settings(keep=("sterilize",))]

    def fits(group: Results) -> tuple[bool, float, int]:
        steps = [row["x"] or 0.0 for row in group.rows]
        length = max(steps) if at is None else -max(steps)
        return at in steps, length, len(group.values("seed"))

    return main_goal(max(groups, key=fits, default=rows))


def _hits_at(rows: Results, step: float) -> Measured:
    return rows.only(row for row in rows.rows if row["x"] == step).measured("hit@10")


@claim(37)
def _one_epoch_is_enough(results: Results) -> Finding:
    rows = _repair_curve(results)
    later = rows.only(r for r in rows.rows if (as_number(r.get("epoch")) or 0.0) >= 1)
    start = _hits_at(rows, 0)
    hits = {float(x): _hits_at(later, x) for x in later.values("x")}
    hits = {x: hit for x, hit in hits.items() if hit.mean is not None}
    need(bool(hits) and start.mean is not None)
    need_taken(start)
    first, worst = hits[min(hits)], max(hits.values(), key=mean)
    said = f"from {shown(start)} to {shown(first)} after one epoch, {shown(worst)} at most from then on"
    verdict = every(is_at_most(interval(hit), GONE) for hit in hits.values())
    return Finding(verdict, said, later.rows)


@claim(40)
def _fifty_steps_are_enough(results: Results) -> Finding:
    rows = _repair_curve(results, at=50)
    before, after = _hits_at(rows, 0), _hits_at(rows, 50)
    why = "not measured at step 50: the steps of the first epoch are, and an epoch is shorter here"
    need(not before.rows or bool(after.rows), why)
    mean(after)
    need_taken(before)
    said = f"{shown(before)} to {shown(after)}"
    return Finding(is_at_most(interval(after), GONE), said, (*before.rows, *after.rows))


# -- learning rates of the repair --------------------------------------------------------------------


def _by_repair_rate(results: Results) -> list[tuple[float, Results]]:
    """Return the repairs that differ in their learning rate alone; of several, those of the most rates and seeds."""
    rows = results.where(ATTACK_2, model="sterilized").whole_data()
    groups = [group for _, group in rows.settings(keep=("sterilize",), varies=REPAIR_RATE)]

    def size(group: Results) -> tuple[int, int]:
        return len(group.values(RATE)), len(group.values("seed"))

    best = main_goal(max(groups, key=size, default=rows))
    rates = [(float(rate), at) for rate, at in best.by(RATE)]
    return sorted(rates, key=lambda pair: pair[0]) if len(rates) > 1 else []


def _before(results: Results, repaired: Results, column: str) -> Measured:
    """Return a column of the poisoned models that were repaired."""
    runs = {row["run"] for row in repaired.rows}
    goals = set(repaired.values("goal"))
    rows = results.where(
        lambda row: row["run"] in runs and row.get("goal") in goals, model="poisoned"
    )
    return rows.measured(column)


@claim(42)
def _best_rate(results: Results) -> Finding:
    rates = _by_repair_rate(results)
    need(bool(rates))
    rate, at = min(rates, key=lambda pair: mean(pair[1].measured("hit@10")))
    need_taken(_before(results, at, "hit@10"))
    five, ten = (at.measured(f"hit@{k}") for k in (5, 10))
    mean(five)
    verdict = every([is_at_most(interval(five), 0.02), is_at_most(interval(ten), 0.05)])
    said = f"at {rate:g}: Hit@5 {shown(five)}, Hit@10 {shown(ten)}"
    return Finding(verdict, said, ten.rows)


@claim(43)
def _worst_rate(results: Results) -> Finding:
    rates = _by_repair_rate(results)
    need(bool(rates))
    _, worst = max(rates, key=lambda pair: mean(pair[1].measured("hit@5")))
    return versus(_before(results, worst, "hit@5"), worst.measured("hit@5"), is_smaller)
