"""Rules of the claims about which encoder moves, and which one matters: sections 4.2.2, 7 and A.5."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from mmpoison.paper.attack_claims import balanced
from mmpoison.paper.claim import (
    Finding,
    claim,
    main_goal,
    mean,
    need,
    one_goal,
    p_text,
    reference,
    shown,
    versus,
)
from mmpoison.paper.evidence import (
    Verdict,
    every,
    interval,
    is_at_least,
    is_larger,
    is_smaller,
    is_within,
    most,
    negated,
)
from mmpoison.paper.measured import (
    ATTACK_2,
    Measured,
    Results,
    attack_2,
    beyond_order,
    change,
    p_of,
    trained,
)
from mmpoison.paper.tables import DEEP_HITS, FROZEN
from mmpoison.reporting.parameters import Row

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


def _moves(rows: Results, says: Callable[[Measured], Verdict]) -> Finding:
    text, image = (_excess(rows, kind) for kind in ("text", "image"))
    moved = change(text, image)
    said = f"texts {shown(text, 4)}, images {shown(image, 4)} beyond a change of order"
    return Finding(says(moved), said + p_text(moved), moved.rows)


@claim(15)
def _images_move_more(results: Results) -> Finding:
    return _moves(one_goal(results, ATTACK_2, model="poisoned"), is_larger)


@claim(50)
def _texts_move_more(results: Results) -> Finding:
    return _moves(one_goal(results, ATTACK_2, model="poisoned"), is_smaller)


@claim(53)
def _images_move_more_on_balanced_data(results: Results) -> Finding:
    return _moves(balanced(results)[1], is_larger)


# -- one encoder frozen ----------------------------------------------------------------------------


def _frozen(results: Results, what: str) -> Results:
    rows = results.where(attack_2).where(lambda row: trained(row) == what, model="poisoned")
    return main_goal(reference(rows.whole_data()))


@claim(17)
def _rank_image_below_text(results: Results) -> Finding:
    image, text = (_frozen(results, what).measured("min_rank") for what in ("image", "text"))
    return versus(image, text, is_larger, 2)


@claim(18)
def _hit_1_text_above_image(results: Results) -> Finding:
    text, image = (_frozen(results, what).measured("hit@1") for what in ("text", "image"))
    return versus(text, image, is_smaller)


@claim(44)
def _what_each_modality_does(results: Results) -> Finding:
    rank, hit = _rank_image_below_text(results), _hit_1_text_above_image(results)
    said = f"MinRank image, text: {rank.number}; Hit@1 text, image: {hit.number}"
    return Finding(every([rank.verdict, hit.verdict]), said, (*rank.rows, *hit.rows))


@claim(19)
def _both_is_best(results: Results) -> Finding:
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
    return Finding(most(parts), said, tuple(used))


@claim(51)
def _tests_of_table_12(results: Results) -> Finding:
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
    return Finding(every([alike, rest]), said, special.rows)
