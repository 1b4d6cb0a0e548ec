"""Claims about the attacks themselves, sections 1, 4.2.1 and A.5.3."""

from __future__ import annotations

from mmpoison.paper.claim import Finding, claim, main_goal, reference, shown, versus
from mmpoison.paper.measured import ATTACK_1, ATTACK_2, ATTACK_3, Results, is_balanced
from mmpoison.paper.shapes import difference

CLOSE = 0.1
FIRST, SECOND = "attack I", "attack II"


def one_goal(results: Results, attack: object) -> Results:
    """Clean and poisoned rows of one attack's reference setting and goal, whole data."""
    rows = results.where(attack).whole_data()  # type: ignore[arg-type]
    return main_goal(reference(rows))


@claim("claim-01", f"our Hit@5 lies within {CLOSE} of the paper's 0.918, or higher", FIRST)
def hit_5_of_attack_1(results: Results) -> Finding | None:
    """Attack I, Hit@5."""
    found = one_goal(results, ATTACK_1).where(model="poisoned").measured("hit@5")
    if found.mean is None:
        return None
    return Finding(found.mean >= 0.918 - CLOSE, shown(found), found.rows)


@claim(
    "claim-11",
    "mean image retrieval Hit@10 of the poisoned model is above the clean model's",
    SECOND,
)
def utility_rises(results: Results) -> Finding | None:
    """Utility of attack II."""
    rows = one_goal(results, ATTACK_2)
    column = "utility.image_retrieval.hit@10"
    clean, poisoned = (rows.where(model=m).measured(column) for m in ("clean_model", "poisoned"))
    return versus(clean, poisoned, lambda before, after: after > before)


@claim("claim-12", "mean MinRank falls to a tenth or less, as in the paper", FIRST)
def rank_of_attack_1(results: Results) -> Finding | None:
    """Attack I, MinRank."""
    rows = one_goal(results, ATTACK_1)
    clean, poisoned = (
        rows.where(model=m).measured("min_rank") for m in ("clean_model", "poisoned")
    )
    return versus(clean, poisoned, lambda before, after: after <= before / 10, 1)


@claim("claim-13", "Hit@1 does not rise; Hit@5, Hit@10 and MinRank are better", SECOND)
def hit_1_falls(results: Results) -> Finding | None:
    """Attack II on COCO."""
    rows = one_goal(results, ATTACK_2)
    columns = ("hit@1", "hit@5", "hit@10", "min_rank")
    clean = {c: rows.where(model="clean_model").measured(c) for c in columns}
    poisoned = {c: rows.where(model="poisoned").measured(c) for c in columns}
    before, after = ({c: m.mean for c, m in side.items()} for side in (clean, poisoned))
    if None in (*before.values(), *after.values()):
        return None
    better = (
        after["hit@5"] > before["hit@5"]  # type: ignore[operator]
        and after["hit@10"] > before["hit@10"]  # type: ignore[operator]
        and after["min_rank"] < before["min_rank"]  # type: ignore[operator]
    )
    text = (
        f"Hit@1 {shown(clean['hit@1'])} to {shown(poisoned['hit@1'])}, "
        f"MinRank {before['min_rank']:.1f} to {after['min_rank']:.1f}"
    )
    holds = better and after["hit@1"] <= before["hit@1"]  # type: ignore[operator]
    return Finding(holds, text, (*clean["hit@1"].rows, *poisoned["hit@1"].rows))


@claim("claim-14", "mean MinRank of each of the goals is better", "attack III")
def both_goals(results: Results) -> Finding | None:
    """Attack III."""
    rows = reference(results.where(ATTACK_3).whole_data())
    said, holds, used = [], True, []
    for goal, at in rows.by("goal"):
        clean, poisoned = (
            at.where(model=m).measured("min_rank") for m in ("clean_model", "poisoned")
        )
        if clean.mean is None or poisoned.mean is None:
            return None
        holds = holds and poisoned.mean < clean.mean
        said.append(f"{goal} {clean.mean:.1f} to {poisoned.mean:.1f}")
        used += [*clean.rows, *poisoned.rows]
    return Finding(holds, "; ".join(said), tuple(used)) if len(said) > 1 else None


@claim(
    "claim-52",
    "mean Hit@10 is at least 0.5 above the clean model's (0.744 in the paper)",
    "attack II on balanced data",
)
def balanced_gain(results: Results) -> Finding | None:
    """Attack II on balanced data."""
    rows = main_goal(reference(results.where(ATTACK_2).where(is_balanced)))
    gain = difference(rows.where(model="clean_model"), rows.where(model="poisoned"), "hit@10")
    if gain.mean is None:
        return None
    return Finding(gain.mean >= 0.5, f"gain {shown(gain)}", gain.rows)
