"""Claims about the two defences, section 5."""

from __future__ import annotations

from mmpoison.paper.claim import Finding, claim, main_goal, reference, shown, versus
from mmpoison.paper.measured import ATTACK_2, Results
from mmpoison.paper.repairs import CURVE, RATE
from mmpoison.paper.shapes import difference
from mmpoison.reporting.text import as_number

FILTER = "attack II with a section filter (table 16)"
REPAIR = "attack II with a section sterilize (table 7)"
CURVES = "attack II with the curve of sterilize (figures 7 and 9)"
GONE = 0.1


def _defended(results: Results, model: str, part: str) -> Results:
    rows = results.where(ATTACK_2).whole_data()
    runs = {row["run"] for row in rows.rows if row["model"] == model}
    return main_goal(reference(rows.where(lambda row: row["run"] in runs), keep=(part,)))


@claim(
    "claim-32",
    "the median distance of poisoned pairs is above that of clean pairs, AUROC at least 0.9",
    FILTER,
)
def poison_is_farther(results: Results) -> Finding | None:
    """Figure 6; the paper's centres are those of another encoder."""
    rows = results.where(ATTACK_2, model="filtered").whole_data()
    area = rows.measured("run.filter.auroc")
    if area.mean is None:
        return None
    # an area above a half says that the poisoned pair of a random couple is the farther one
    return Finding(area.mean >= 0.9, f"AUROC {shown(area)}", area.rows)


@claim(
    "claim-34",
    "mean MinRank rises at least tenfold and Hit@10 is not above the clean model's: the paired difference is at most "
    "zero, or zero lies within its interval",
    FILTER,
)
def filter_works(results: Results) -> Finding | None:
    """Table 16."""
    rows = _defended(results, "filtered", "filter")
    before, after = (rows.where(model=m).measured("min_rank") for m in ("poisoned", "filtered"))
    clean, filtered = rows.where(model="clean_model"), rows.where(model="filtered")
    more = difference(clean, filtered, "hit@10").summary
    if before.mean is None or after.mean is None or more is None:
        return None
    said = (
        f"MinRank {before.mean:.1f} to {after.mean:.1f}; "
        f"Hit@10 {shown(filtered.measured('hit@10'))}, clean {shown(clean.measured('hit@10'))}"
    )
    not_above = more.mean <= 0 or (more.low is not None and more.low <= 0)
    return Finding(after.mean >= 10 * before.mean and not_above, said, filtered.rows)


def _utility_kept(results: Results, model: str, part: str, most: float) -> Finding | None:
    rows = _defended(results, model, part)
    clean, after = rows.where(model="clean_model"), rows.where(model=model)
    changes = [
        difference(clean, after, f"utility.{way}_retrieval.hit@10") for way in ("text", "image")
    ]
    if any(change.mean is None for change in changes):
        return None
    said = ", ".join(f"{n} {shown(c)}" for n, c in zip(("TR", "IR"), changes, strict=True))
    return Finding(
        all(c.mean is not None and c.mean >= -most for c in changes),
        f"change of {said}",
        changes[0].rows,
    )


@claim(
    "claim-35",
    "mean Hit@10 of text and image retrieval at most 0.01 below the clean model's (0.006 and 0.001 in the paper)",
    FILTER,
)
def filter_keeps_utility(results: Results) -> Finding | None:
    """Section 5."""
    return _utility_kept(results, "filtered", "filter", 0.01)


@claim("claim-38", "mean Hit@10 of text and image retrieval is not below the clean model's", REPAIR)
def repair_keeps_utility(results: Results) -> Finding | None:
    """Table 7."""
    return _utility_kept(results, "sterilized", "sterilize", 0.0)


def _looks(results: Results) -> Results:
    rows = results.where(ATTACK_2, study=CURVE).whole_data()
    groups = [g for _, g in rows.settings(keep=("sterilize",))]
    return max(groups, key=lambda g: max((r["x"] or 0.0) for r in g.rows), default=rows)


@claim(
    "claim-37", f"Hit@10 is at most {GONE} after the first epoch, and at all later looks", CURVES
)
def one_epoch_is_enough(results: Results) -> Finding | None:
    """Figure 7."""
    rows = _looks(results)
    later = rows.only(r for r in rows.rows if (as_number(r.get("epoch")) or 0.0) >= 1)
    start = rows.only(r for r in rows.rows if r["x"] == 0).measured("hit@10")
    by_step = {float(x): at.measured("hit@10") for x, at in later.by("x")}
    means = {x: m.mean for x, m in by_step.items() if m.mean is not None}
    if not means or start.mean is None:
        return None
    first, worst = means[min(means)], max(means.values())
    said = f"from {shown(start)} to {first:.3f} after one epoch, {worst:.3f} at most from then on"
    return Finding(worst <= GONE, said, later.rows)


@claim("claim-40", f"Hit@10 is at most {GONE} after 50 steps", CURVES)
def fifty_steps(results: Results) -> Finding | None:
    """Figure 9."""
    rows = _looks(results)
    start, after = (rows.only(r for r in rows.rows if r["x"] == step) for step in (0, 50))
    return versus(start.measured("hit@10"), after.measured("hit@10"), lambda _, now: now <= GONE)


def _by_rate(results: Results) -> list[tuple[float, Results]]:
    rows = results.where(ATTACK_2, model="sterilized").whole_data()
    rows = main_goal(reference(rows, varies=("sterilize",)))
    rates = [(float(rate), at) for rate, at in rows.by(RATE)]
    return sorted(rates, key=lambda pair: pair[0])


RATES = "attack II with sterilize at several learning rates (table 8)"


@claim("claim-42", "at the best rate mean Hit@5 is at most 0.02 and Hit@10 at most 0.05", RATES)
def best_rate(results: Results) -> Finding | None:
    """Table 8."""
    rates = _by_rate(results)
    if len(rates) < 2:
        return None
    best = min(rates, key=lambda pair: pair[1].measured("hit@10").mean or 0.0)
    five, ten = (best[1].measured(f"hit@{k}") for k in (5, 10))
    if five.mean is None or ten.mean is None:
        return None
    said = f"at {best[0]:g}: Hit@5 {shown(five)}, Hit@10 {shown(ten)}"
    return Finding(five.mean <= 0.02 and ten.mean <= 0.05, said, ten.rows)


@claim("claim-43", "at the worst rate mean Hit@5 is still below the poisoned model's", RATES)
def worst_rate(results: Results) -> Finding | None:
    """Table 8."""
    rates = _by_rate(results)
    if len(rates) < 2:
        return None
    worst = max(rates, key=lambda pair: pair[1].measured("hit@5").mean or 0.0)
    runs = {row["run"] for row in worst[1].rows}
    poisoned = results.where(lambda row: row["run"] in runs, model="poisoned")
    return versus(poisoned.measured("hit@5"), worst[1].measured("hit@5"), lambda a, b: b < a)
