"""Rules of the claims about the attacks: sections 1, 4.1, 4.2.1 and A.5.3."""

from __future__ import annotations

from mmpoison.paper.claim import (
    Finding,
    both_models,
    claim,
    main_goal,
    mean,
    need,
    one_goal,
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
)
from mmpoison.paper.measured import ATTACK_1, ATTACK_2, ATTACK_3, Results, change, is_balanced
from mmpoison.paper.tables import HITS
from mmpoison.reporting.parameters import Row


@claim(1)
def _hit_5_of_attack_1(results: Results) -> Finding:
    hits = one_goal(results, ATTACK_1, model="poisoned").measured("hit@5")
    mean(hits)
    return Finding(is_at_least(interval(hits), 0.918 - 0.1), shown(hits), hits.rows)


@claim(9)
def _range_of_distances(results: Results) -> Finding:
    rows = results.where(model="poisoned")
    columns = ("drift.text", "drift.image")
    values = [row[column] for column in columns for row in rows.rows if row.get(column) is not None]
    need(bool(values))
    said = f"{min(values):.3f} to {max(values):.3f}"
    verdict = Verdict.HOLDS if min(values) >= 0 and max(values) <= 2 else Verdict.FAILS
    return Finding(verdict, said, rows.measured(columns[0]).rows)


@claim(11)
def _retrieval_gets_better(results: Results) -> Finding:
    rows = one_goal(results, ATTACK_2)
    return versus(*both_models(rows, "utility.image_retrieval.hit@10"), is_larger)


@claim(12)
def _rank_falls_to_a_tenth(results: Results) -> Finding:
    clean, poisoned = both_models(one_goal(results, ATTACK_1), "min_rank")
    found = versus(poisoned, clean, lambda c: is_at_least(interval(c), 0), 1, times=10)
    return Finding(found.verdict, f"{shown(clean, 1)} to {shown(poisoned, 1)}", found.rows)


@claim(13)
def _hit_1_falls(results: Results) -> Finding:
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
    return Finding(every(parts), "; ".join(said), tuple(used))


@claim(14)
def _both_goals(results: Results) -> Finding:
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
    return Finding(every(parts), "; ".join(said), tuple(used))


def balanced(results: Results) -> tuple[Results, Results]:
    """Return the clean and poisoned rows of attack II on balanced data."""
    rows = main_goal(reference(results.where(ATTACK_2).where(is_balanced)))
    return rows.where(model="clean_model"), rows.where(model="poisoned")


@claim(52)
def _balanced_data_are_attacked(results: Results) -> Finding:
    clean, poisoned = (rows.measured("hit@10") for rows in balanced(results))
    gain = change(clean, poisoned)
    mean(gain)
    return Finding(is_at_least(interval(gain), 0.5), f"gain {shown(gain)}", gain.rows)
