"""Rules of the claims about rate, epochs, encoders, size, goals, transfer and queries: sections 4.2.3, A.3 and A.6."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from mmpoison.paper.claim import (
    ClaimResult,
    Interval,
    claim,
    every,
    interval,
    is_above,
    is_at_least,
    is_at_most,
    is_larger,
    is_smaller,
    is_within,
    log_ratio,
    main_goal,
    mean,
    need,
    need_taken,
    one_goal,
    p_text,
    reference,
    shown,
    versus,
)
from mmpoison.paper.measured import AMOUNTS, ATTACK_1, ATTACK_2, attack_2, by_amount
from mmpoison.reporting.results import SHARE, Measured, Results, Row, change
from mmpoison.statistics import clustered_mean, clustered_share

ENCODERS = 3
"""As many image encoders the paper compares: two sizes of one family say little of the kind of encoder."""

MOST_CUT = 0.05
"""A larger share of repeated captions that are cut at the model's context is no longer a test of their length."""

SAME_SIZE = 0.1
"""Hit@10 that differs by less between sizes of the data is the same: seeds have a standard deviation of about 0.05."""


# -- rate and epochs -------------------------------------------------------------------------------


def _rates(results: Results) -> list[tuple[float, Results]]:
    """Return the poisoned rows by poisoning rate of the setting that has most rates, rising."""
    rows = results.where(ATTACK_2, model="poisoned").whole_data()
    by_setting = [
        sorted(
            (
                (rate, at)
                for at in by_amount(main_goal(group))
                if (rate := at.measured("run.poisoning_rate").mean) is not None
            ),
            key=lambda pair: pair[0],
        )
        for _, group in rows.settings(varies=AMOUNTS)
    ]
    return max(by_setting, key=len, default=[])


@claim(22)
def _rank_at_a_low_rate(results: Results) -> ClaimResult:
    rates = _rates(results)
    need(len(rates) >= 2 and rates[0][0] <= 0.001)
    rate, at = rates[0]
    rank = at.measured("min_rank")
    mean(rank)
    return ClaimResult(is_at_most(interval(rank), 6), f"at {rate:.3%}: {shown(rank, 1)}", rank.rows)


@claim(23)
def _more_poison_more_attack(results: Results) -> ClaimResult:
    rates = _rates(results)
    need(len(rates) >= 3)
    hit, rank = (
        _slope([at.measured(column) for _, at in rates]) for column in ("hit@10", "min_rank")
    )
    verdict = every([is_larger(hit), is_smaller(rank)])
    said = (
        f"{len(rates)} rates, change from each to the next: Hit@10 {shown(hit)}{p_text(hit)}, "
        f"MinRank {shown(rank, 1)}{p_text(rank)}"
    )
    return ClaimResult(verdict, said, hit.rows)


def _slope(points: Sequence[Measured]) -> Measured:
    """Fit a line to the numbers of each seed, one step apart: its slope, over the seeds that have every number."""
    common = sorted(set.intersection(*(set(point.by_seed) for point in points)))
    places = np.arange(len(points))
    by_seed = {
        seed: float(np.polyfit(places, [point.by_seed[seed] for point in points], 1)[0])
        for seed in common
    }
    rows = [row for point in points for row in point.rows]
    return Measured.of(by_seed, rows, exact=all(point.exact for point in points))


@claim(24)
def _early_and_lasting(results: Results) -> ClaimResult:
    rows = reference(results.where(ATTACK_2, study="epochs", model="poisoned").whole_data())
    hits = {float(x): at.measured("hit@10") for x, at in main_goal(rows).by("x")}
    need(len(hits) >= 3 and 2.0 in hits)
    need_taken(max(hits.values(), key=mean))
    later = [hit for epoch, hit in hits.items() if epoch >= 2]
    by_seed = {}
    for seed in sorted(set.intersection(*(set(hit.by_seed) for hit in hits.values()))):
        best = max(hit.by_seed[seed] for hit in hits.values())
        by_seed[seed] = min(hit.by_seed[seed] for hit in later) / best if best else 0.0
    lowest = Measured.of(by_seed, rows.rows, exact=rows.exact, bounds=SHARE)
    curve = ", ".join(f"{epoch:g}: {mean(hit):.2f}" for epoch, hit in sorted(hits.items()))
    said = f"Hit@10 by epoch: {curve}; lowest from epoch 2 on, as a share of the largest: {shown(lowest)}"
    return ClaimResult(is_at_least(interval(lowest), 0.5), said, rows.rows)


# -- encoders and sizes of data that make no difference ----------------------------------------------


@claim(25)
def _encoders_alike(results: Results) -> ClaimResult:
    rows = results.where(ATTACK_2, model="poisoned").whole_data()
    groups = [g for _, g in rows.settings(varies=("model", "training"))]

    def size(group: Results) -> tuple[int, int]:
        return len(group.values("model.name")), len(group.values("seed"))

    best = max(groups, key=size, default=rows)
    by_name = {str(name): at for name, at in main_goal(best).by("model.name")}
    ranks = {name: at.measured("min_rank") for name, at in by_name.items()}
    need(len(ranks) >= 2)
    named = ", ".join(ranks)
    need(
        len(ranks) >= ENCODERS,
        f"needs {ENCODERS} image encoders on the same seeds; measured: {named}",
    )
    need_taken(max((at.measured("hit@10") for at in by_name.values()), key=mean))
    ratios = [log_ratio(a, b) for a, b in itertools.combinations(ranks.values(), 2)]
    said = ", ".join(f"{name} {shown(rank, 1)}" for name, rank in ranks.items())
    used = tuple(row for rank in ranks.values() for row in rank.rows)
    return ClaimResult(every(is_within(interval(one), 1.0) for one in ratios), said, used)


@claim(26, sizes=True)
def _size_does_not_matter(results: Results) -> ClaimResult:
    rows = results.where(ATTACK_2, model="poisoned").whole_data()
    rows = rows.where(lambda row: row.get("attack.rate") is not None)
    sized: list[tuple[float, Measured]] = []
    for _, at in rows.settings():
        at_goal = main_goal(at)
        size, hit = at_goal.measured("run.training_pairs"), at_goal.measured("hit@10")
        if size.mean is not None and hit.mean is not None:
            sized.append((size.mean, hit))
    sized.sort(key=lambda one: one[0])
    need(len(sized) >= 3)
    need_taken(max((hit for _, hit in sized), key=mean))
    said = ", ".join(f"{size:,.0f} pairs {shown(hit, 2)}" for size, hit in sized)
    pairs = itertools.combinations([hit for _, hit in sized], 2)
    verdict = every(is_within(interval(change(a, b)), SAME_SIZE) for a, b in pairs)
    return ClaimResult(verdict, said, tuple(row for _, hit in sized for row in hit.rows))


# -- all goals -------------------------------------------------------------------------------------


def _all_goals(results: Results) -> tuple[dict[str, tuple[Row, float]], tuple[Row, ...]]:
    """Return a row and the MinRank of each goal, of the setting with the most goals, and its rows."""
    rows = results.where(attack_2, model="poisoned").whole_data()
    groups = [g for _, g in rows.settings()]
    best = max(groups, key=lambda g: len(g.values("goal")), default=rows)
    found = {}
    for goal, at in best.by("goal"):
        rank = at.measured("min_rank").mean
        if rank is not None:
            found[str(goal)] = (at.rows[0], rank)
    return found, best.rows


@claim(27)
def _most_goals_work(results: Results) -> ClaimResult:
    goals, rows = _all_goals(results)
    need(len(goals) >= 20)
    ranks = np.array([rank for _, rank in goals.values()])
    # goals with one target class succeed and fail together
    share = clustered_share(ranks <= 10, [str(row["target"]) for row, _ in goals.values()])
    ends: Interval | None = None
    said = f"{share.value:.0%} of {share.n} goals at 10 or below"
    if share.low is not None and share.high is not None:
        ends = (share.low, share.high)
        said += f" [{share.low:.0%}, {share.high:.0%}, by target class]"
    return ClaimResult(is_above(ends, 0.5), f"{said}, median {np.median(ranks):.1f}", rows)


@claim(28)
def _person_is_hard(results: Results) -> ClaimResult:
    goals, rows = _all_goals(results)
    by_original: dict[str, dict[str, float]] = {}
    for row, rank in goals.values():
        by_original.setdefault(str(row["original"]), {})[str(row["target"])] = rank
    targets = {target for ranks in by_original.values() for target in ranks}
    need("person" in targets and len(targets) >= 10)
    more = [
        ranks["person"] - float(np.mean([r for target, r in ranks.items() if target != "person"]))
        for ranks in by_original.values()
        if "person" in ranks and len(ranks) > 1
    ]
    need(len(more) > 1)
    found = clustered_mean(more, list(range(len(more))))
    ends = None if found.low is None or found.high is None else (found.low, found.high)
    at = "" if ends is None else f" [{ends[0]:.1f}, {ends[1]:.1f}]"
    said = f"MinRank {found.value:.1f}{at} above the other targets, over {found.n} original classes"
    return ClaimResult(is_above(ends, 0.0), said, rows)


# -- transfer, sizes of models, length of queries ------------------------------------------------------


@claim(31)
def _transfer_gain(results: Results) -> ClaimResult:
    # the paper's recipe trains on one data set and has the other as its test part
    rows = results.where(ATTACK_2).where(lambda row: row.get("data.name") == "vg-pascal")
    if not rows:
        rows = results.where(ATTACK_2, study="transfer")
    rows = main_goal(reference(rows))
    of_study = tuple(rows.values("study"))
    clean, poisoned = (
        rows.where(model=m, study=of_study).measured("hit@5") for m in ("clean_model", "poisoned")
    )
    gain = change(clean, poisoned)
    mean(gain)
    said = f"Hit@5 {shown(poisoned)}, gain {shown(gain)}"
    return ClaimResult(is_at_least(interval(gain), 0.35), said, gain.rows)


@claim(49)
def _order_of_sizes(results: Results) -> ClaimResult:
    names = ("clip-vit-b32", "clip-vit-b16", "clip-vit-l14")
    rows = results.where()
    sizes: dict[str, Mapping[str, Measured]] = {}
    for name in names:
        of_model = rows.only(row for row in rows.rows if row.get("model.name") == name)
        # counts, the same in every run
        sizes[name] = {
            key: replace(of_model.measured(f"run.model.{key}"), exact=True)
            for key in ("flops_g", "parameters_m")
        }
        mean(sizes[name]["flops_g"])
        mean(sizes[name]["parameters_m"])
    b32, b16, l14 = sizes.values()
    rising = [
        (b16, l14, "flops_g"), (b32, b16, "flops_g"),
        (b32, l14, "parameters_m"), (b16, b32, "parameters_m"),
    ]  # fmt: skip
    verdict = every(is_larger(change(less[key], more[key])) for less, more, key in rising)
    said = ", ".join(
        f"{name}: {of['flops_g'].mean:.1f} G, {of['parameters_m'].mean:.1f} M"
        for name, of in sizes.items()
    )
    return ClaimResult(verdict, said, rows.rows)


@claim(55)
def _longer_is_worse(results: Results) -> ClaimResult:
    rows = one_goal(results, ATTACK_1, study="query-length", model="poisoned")
    by_times = {float(x): at for x, at in rows.by("x")}
    need({1.0, 3.0} <= by_times.keys())
    once, thrice = (by_times[times] for times in (1.0, 3.0))
    cut = thrice.measured("full_context").mean
    need(
        cut is None or cut <= MOST_CUT,
        f"{cut or 0:.0%} of the captions said three times fill what the model reads: they are cut, not longer",
    )
    return versus(once.measured("hit@5"), thrice.measured("hit@5"), is_smaller)
