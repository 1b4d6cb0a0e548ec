"""The testable claims of the paper, each with the rule by which it holds: of attacks, encoders and defences."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from mmpoison.paper.claim import (
    ClaimResult,
    Verdict,
    both_models,
    claim,
    every,
    interval,
    is_at_least,
    is_at_most,
    is_larger,
    is_smaller,
    is_within,
    main_goal,
    mean,
    most,
    need,
    need_taken,
    negated,
    one_goal,
    p_text,
    reference,
    shown,
    versus,
)
from mmpoison.paper.figures import median_distance
from mmpoison.paper.measured import (
    ATTACK_1,
    ATTACK_2,
    ATTACK_3,
    CURVE,
    attack_2,
    beyond_order,
    p_of,
    trained,
    with_model,
)
from mmpoison.paper.tables import DEEP_HITS, FROZEN, HITS, RATE, REPAIR_RATE
from mmpoison.reporting.results import DISTANCE, Measured, Results, Row, change, is_balanced
from mmpoison.reporting.text import as_number

# -- Rules of the claims about the attacks: sections 1, 4.1, 4.2.1 and A.5.3.


@claim(1)
def _hit_5_of_attack_1(results: Results) -> ClaimResult:
    hits = one_goal(results, ATTACK_1, model="poisoned").measured("hit@5")
    mean(hits)
    return ClaimResult(is_at_least(interval(hits), 0.918 - 0.1), shown(hits), hits.rows)


@claim(9)
def _range_of_distances(results: Results) -> ClaimResult:
    rows = results.where(model="poisoned")
    columns = ("drift.text", "drift.image")
    values = [row[column] for column in columns for row in rows.rows if row.get(column) is not None]
    need(bool(values))
    said = f"{min(values):.3f} to {max(values):.3f}"
    verdict = Verdict.HOLDS if min(values) >= 0 and max(values) <= 2 else Verdict.FAILS
    return ClaimResult(verdict, said, rows.measured(columns[0]).rows)


@claim(11)
def _retrieval_gets_better(results: Results) -> ClaimResult:
    rows = one_goal(results, ATTACK_2)
    return versus(*both_models(rows, "utility.image_retrieval.hit@10"), is_larger)


@claim(12)
def _rank_falls_to_a_tenth(results: Results) -> ClaimResult:
    clean, poisoned = both_models(one_goal(results, ATTACK_1), "min_rank")
    found = versus(poisoned, clean, lambda c: is_at_least(interval(c), 0), 1, times=10)
    return ClaimResult(found.verdict, f"{shown(clean, 1)} to {shown(poisoned, 1)}", found.rows)


@claim(13)
def _hit_1_falls(results: Results) -> ClaimResult:
    rows = one_goal(results, ATTACK_2)
    falls, rises = is_smaller, is_larger
    parts: list[Verdict] = []
    said: list[str] = []
    used: list[Row] = []
    for column, says in zip(HITS, (falls, rises, rises, falls), strict=True):
        found = versus(*both_models(rows, column), says, 1 if column == "min_rank" else 3)
        parts.append(found.verdict)
        said.append(f"{'MinRank' if column == 'min_rank' else column.capitalize()} {found.number}")
        used += found.rows
    return ClaimResult(every(parts), "; ".join(said), tuple(used))


@claim(14)
def _both_goals(results: Results) -> ClaimResult:
    rows = reference(results.where(ATTACK_3).whole_data())
    parts: list[Verdict] = []
    said: list[str] = []
    used: list[Row] = []
    for goal, at in rows.by("goal"):
        found = versus(*both_models(at, "min_rank"), is_smaller, 1)
        parts.append(found.verdict)
        said.append(f"{goal} {found.number}")
        used += found.rows
    need(len(said) > 1)
    return ClaimResult(every(parts), "; ".join(said), tuple(used))


def balanced(results: Results) -> tuple[Results, Results]:
    """Return the clean and poisoned rows of attack II on balanced data."""
    rows = main_goal(reference(results.where(ATTACK_2).where(is_balanced)))
    return rows.where(model="clean_model"), rows.where(model="poisoned")


@claim(52)
def _balanced_data_are_attacked(results: Results) -> ClaimResult:
    clean, poisoned = (rows.measured("hit@10") for rows in balanced(results))
    gain = change(clean, poisoned)
    mean(gain)
    return ClaimResult(is_at_least(interval(gain), 0.5), f"gain {shown(gain)}", gain.rows)


# -- Rules of the claims about which encoder moves, and which one matters: sections 4.2.2, 7 and A.5.


SAME_HIT_1 = 0.1
"""Models whose Hit@1 differs by less are alike: the paper's five runs have a standard deviation of 0.065 (table 12)."""


# -- drift beyond that of a second clean model in another order -----------------------------------


def _excess(rows: Results, kind: str) -> Measured:
    mean(rows.measured(f"drift.{kind}"))
    need(rows.measured(f"order_drift.{kind}").mean is not None, NO_ORDER_DRIFT)
    return beyond_order(rows, kind)


NO_ORDER_DRIFT = (
    "needs the drift between two clean models that differ in order alone (study: [order-drift]): poisoned pairs change "
    "the order of the whole training too"
)


def _moves(rows: Results, says: Callable[[Measured], Verdict]) -> ClaimResult:
    text, image = (_excess(rows, kind) for kind in ("text", "image"))
    moved = change(text, image)
    said = f"texts {shown(text, 4)}, images {shown(image, 4)} beyond a change of order"
    return ClaimResult(says(moved), said + p_text(moved), moved.rows)


@claim(15)
def _images_move_more(results: Results) -> ClaimResult:
    return _moves(one_goal(results, ATTACK_2, model="poisoned"), is_larger)


@claim(50)
def _texts_move_more(results: Results) -> ClaimResult:
    return _moves(one_goal(results, ATTACK_2, model="poisoned"), is_smaller)


@claim(53)
def _images_move_more_on_balanced_data(results: Results) -> ClaimResult:
    return _moves(balanced(results)[1], is_larger)


# -- one encoder frozen ----------------------------------------------------------------------------


def _frozen(results: Results, what: str) -> Results:
    rows = results.where(attack_2).where(lambda row: trained(row) == what, model="poisoned")
    return main_goal(reference(rows.whole_data()))


@claim(17)
def _rank_image_below_text(results: Results) -> ClaimResult:
    image, text = (_frozen(results, what).measured("min_rank") for what in ("image", "text"))
    return versus(image, text, is_larger, 2)


@claim(18)
def _hit_1_text_above_image(results: Results) -> ClaimResult:
    text, image = (_frozen(results, what).measured("hit@1") for what in ("text", "image"))
    return versus(text, image, is_smaller)


@claim(44)
def _what_each_modality_does(results: Results) -> ClaimResult:
    rank, hit = _rank_image_below_text(results), _hit_1_text_above_image(results)
    said = f"MinRank image, text: {rank.number}; Hit@1 text, image: {hit.number}"
    return ClaimResult(every([rank.verdict, hit.verdict]), said, (*rank.rows, *hit.rows))


@claim(19)
def _both_is_best(results: Results) -> ClaimResult:
    kinds = {what: _frozen(results, what) for what in ("both", "image", "text")}
    parts: list[Verdict] = []
    best: list[str] = []
    used: list[Row] = []
    for column in DEEP_HITS:
        both, *others = (rows.measured(column) for rows in kinds.values())
        need(both.mean is not None and all(other.mean is not None for other in others))
        better = [change(other, both) for other in others]
        if column == "min_rank":
            better = [negated(one) for one in better]
        parts.append(every(is_at_least(interval(one), 0) for one in better))
        if parts[-1] is Verdict.HOLDS:
            best.append(column)
        used += both.rows
    open_ones = parts.count(Verdict.UNDECIDED)
    said = (
        f"best in {len(best)} of {len(parts)}: {', '.join(best) or 'none'}; undecided: {open_ones}"
    )
    return ClaimResult(most(parts), said, tuple(used))


@claim(51)
def _tests_of_table_12(results: Results) -> ClaimResult:
    rows = results.where(attack_2).whole_data()
    picks = {line.name: main_goal(reference(line.pick(rows))) for line in FROZEN}
    one, other = (picks[name].measured("hit@1") for name in ("both trained", "text encoder"))
    special = change(one, other)
    mean(special)
    significant, untested, number = 0, 0, 0
    for (first, a), (second, b) in itertools.combinations(picks.items(), 2):
        for column in DEEP_HITS:
            if (first, second, column) == ("both trained", "text encoder", "hit@1"):
                continue
            number += 1
            changed = change(a.measured(column), b.measured(column))
            if changed.exact:
                significant += changed.mean != 0
            elif (p := p_of(changed)) is None:
                untested += 1
            else:
                significant += p < 0.05
    need(untested < number, "needs table 5 with several seeds (table 12)")
    rest = Verdict.HOLDS
    if significant < number:
        # a comparison without a test is no reason to say that the others fail
        rest = Verdict.FAILS if significant + untested < number else Verdict.UNDECIDED
    said = (
        f"Hit@1 of both less that of text {shown(negated(special))}{p_text(special)}; of {number} others "
        f"{significant} below 0.05, {untested} without a test (no spread, or fewer than two seeds)"
    )
    alike = is_within(interval(special), SAME_HIT_1)
    return ClaimResult(every([alike, rest]), said, special.rows)


# -- Rules of the claims about the two defences: section 5.


GONE = 0.1
"""Hit@10 at which an attack counts as gone."""

LIKE_CLEAN = 0.05
"""A defended model finds the goal as little as the clean one: the limit that `sterilize --canary-goal` uses."""

UTILITY_LOSS = 0.02
"""What `sterilize` may cost, its default `--max-utility-loss`: a loss of no more counts as none."""


@claim(32)
def _poison_lies_farther_apart(results: Results) -> ClaimResult:
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
def _filter_works(results: Results) -> ClaimResult:
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
    return ClaimResult(verdict, said, more.rows)


def _utility_stays(results: Results, model: str, part: str, most: float) -> ClaimResult:
    rows = _defended(results, model, part)
    clean, after = rows.where(model="clean_model"), rows.where(model=model)
    columns = [f"utility.{way}_retrieval.hit@10" for way in ("text", "image")]
    changes = [change(clean.measured(column), after.measured(column)) for column in columns]
    for changed in changes:
        mean(changed)
    said = ", ".join(f"{n} {shown(c)}" for n, c in zip(("TR", "IR"), changes, strict=True))
    verdict = every(is_at_least(interval(changed), -most) for changed in changes)
    return ClaimResult(verdict, f"change of {said}", changes[0].rows)


@claim(35)
def _filter_keeps_utility(results: Results) -> ClaimResult:
    return _utility_stays(results, "filtered", "filter", 0.01)


@claim(38)
def _repair_keeps_utility(results: Results) -> ClaimResult:
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
def _one_epoch_is_enough(results: Results) -> ClaimResult:
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
    return ClaimResult(verdict, said, later.rows)


@claim(40)
def _fifty_steps_are_enough(results: Results) -> ClaimResult:
    rows = _repair_curve(results, at=50)
    before, after = _hits_at(rows, 0), _hits_at(rows, 50)
    why = "not measured at step 50: the steps of the first epoch are, and an epoch is shorter here"
    need(not before.rows or bool(after.rows), why)
    mean(after)
    need_taken(before)
    said = f"{shown(before)} to {shown(after)}"
    return ClaimResult(is_at_most(interval(after), GONE), said, (*before.rows, *after.rows))


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
def _best_rate(results: Results) -> ClaimResult:
    rates = _by_repair_rate(results)
    need(bool(rates))
    rate, at = min(rates, key=lambda pair: mean(pair[1].measured("hit@10")))
    need_taken(_before(results, at, "hit@10"))
    five, ten = (at.measured(f"hit@{k}") for k in (5, 10))
    mean(five)
    verdict = every([is_at_most(interval(five), 0.02), is_at_most(interval(ten), 0.05)])
    said = f"at {rate:g}: Hit@5 {shown(five)}, Hit@10 {shown(ten)}"
    return ClaimResult(verdict, said, ten.rows)


@claim(43)
def _worst_rate(results: Results) -> ClaimResult:
    rates = _by_repair_rate(results)
    need(bool(rates))
    _, worst = max(rates, key=lambda pair: mean(pair[1].measured("hit@5")))
    return versus(_before(results, worst, "hit@5"), worst.measured("hit@5"), is_smaller)
