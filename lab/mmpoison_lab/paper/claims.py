"""The testable claims of the paper: the rule by which each holds, and the registry of all of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from mmpoison.reporting import (
    DISTANCE,
    SHARE,
    Measured,
    Results,
    Row,
    as_number,
    change,
    is_balanced,
)
from mmpoison.statistics import clustered_mean, clustered_share
from mmpoison_lab.paper.claim import (
    Claim,
    ClaimResult,
    Rule,
    Verdict,
    all_of,
    both_models,
    ends,
    every,
    interval,
    is_above,
    is_between,
    is_larger,
    is_smaller,
    largest,
    main_goal,
    mean,
    most,
    need,
    need_taken,
    one_goal,
    p_text,
    paired_formula,
    reference,
    shown,
    versus,
)
from mmpoison_lab.paper.figures import median_distance
from mmpoison_lab.paper.measured import (
    AMOUNTS,
    ATTACK_1,
    ATTACK_2,
    ATTACK_3,
    CURVE,
    attack_2,
    beyond_order,
    by_amount,
    of_model,
    p_of,
    trained,
    with_model,
)
from mmpoison_lab.paper.paper_values import ENCODERS, paper
from mmpoison_lab.paper.tables import DEEP_HITS, FROZEN, RATE, REPAIR_RATE

SAME_HIT_1 = 0.1
"""Models whose Hit@1 differs by less are alike: the paper's five runs have a standard deviation of 0.065 (table 12)."""

GONE = 0.1
"""Hit@10 at which an attack counts as gone."""

LIKE_CLEAN = 0.05
"""A defended model finds the goal as little as the clean one: the limit that `sterilize --canary-goal` uses."""

UTILITY_LOSS = 0.02
"""What `sterilize` may cost, its default `--max-utility-loss`: a loss of no more counts as none."""

FEWEST_ENCODERS = 3
"""As many image encoders the paper compares: two sizes of one family say little of the kind of encoder."""

MOST_CUT = 0.05
"""A larger share of repeated captions that are cut at the model's context is no longer a test of their length."""

SAME_SIZE = 0.1
"""Hit@10 that differs by less between sizes of the data is the same: seeds have a standard deviation of about 0.05."""

NO_ORDER_DRIFT = (
    "needs the drift between two clean models that differ in order alone (study: [order-drift]): poisoned pairs change "
    "the order of the whole training too"
)

Says = Callable[[Measured], Verdict]


# -- Kinds of rules that several claims have.


def models_of(attack: Callable[[Row], bool], column: str, says: Says, digits: int = 3) -> Rule:
    """Compare a column of the clean and of the poisoned model of an attack."""
    return lambda results: versus(*both_models(one_goal(results, attack), column), says, digits)


def frozen(column: str, first: str, second: str, says: Says, digits: int = 3) -> Rule:
    """Compare a column of two models of which one encoder was trained."""

    def test(results: Results) -> ClaimResult:
        one, other = (_frozen(results, what).measured(column) for what in (first, second))
        return versus(one, other, says, digits)

    return test


def _frozen(results: Results, what: str) -> Results:
    rows = results.where(attack_2).where(lambda row: trained(row) == what, model="poisoned")
    return main_goal(reference(rows.whole_data()))


def parts(rules: Mapping[str, Rule]) -> Rule:
    """Combine rules that must all hold; each finding is shown after its name."""
    return lambda results: all_of({name: rule(results) for name, rule in rules.items()})


def gain(rows: Results, column: str, least: float, words: str) -> ClaimResult:
    """Ask of the poisoned model a gain over the clean one."""
    clean, poisoned = both_models(rows, column)
    gained = change(clean, poisoned)
    mean(gained)
    said = words.format(poisoned=shown(poisoned), gain=shown(gained))
    return ClaimResult(is_between(interval(gained), least), said, gained.rows)


def balanced(results: Results) -> Results:
    """Return the rows of attack II on balanced data."""
    return main_goal(reference(results.where(ATTACK_2).where(is_balanced)))


def moves(says: Says, *, on_balanced: bool = False) -> Rule:
    """Compare the drift of texts and of images, each beyond that of a second clean model in another order."""

    def test(results: Results) -> ClaimResult:
        if on_balanced:
            rows = balanced(results).where(model="poisoned")
        else:
            rows = one_goal(results, ATTACK_2, model="poisoned")
        text, image = (_excess(rows, kind) for kind in ("text", "image"))
        moved = change(text, image)
        said = f"texts {shown(text, 4)}, images {shown(image, 4)} beyond a change of order"
        return ClaimResult(says(moved), said + p_text(moved), moved.rows)

    return test


def _excess(rows: Results, kind: str) -> Measured:
    mean(rows.measured(f"drift.{kind}"))
    need(rows.measured(f"order_drift.{kind}").mean is not None, NO_ORDER_DRIFT)
    return beyond_order(rows, kind)


def utility_stays(model: str, part: str, loss: float) -> Rule:
    """Ask that a defended model loses no more than this of Hit@10 of text and of image retrieval."""

    def test(results: Results) -> ClaimResult:
        rows = _defended(results, model, part)
        clean, after = of_model(rows, "clean_model"), of_model(rows, model)
        columns = [f"utility.{way}_retrieval.hit@10" for way in ("text", "image")]
        changes = [change(clean.measured(column), after.measured(column)) for column in columns]
        for changed in changes:
            mean(changed)
        said = ", ".join(f"{n} {shown(c)}" for n, c in zip(("TR", "IR"), changes, strict=True))
        verdict = every(is_between(interval(changed), -loss) for changed in changes)
        return ClaimResult(verdict, f"change of {said}", changes[0].rows)

    return test


def _defended(results: Results, model: str, part: str) -> Results:
    runs = with_model(results.where(ATTACK_2).whole_data(), model)
    return main_goal(reference(runs, keep=(part,)))


# -- The attacks: sections 1, 4.1, 4.2.1 and A.5.3.


def _hit_5_of_attack_1(results: Results) -> ClaimResult:
    hits = one_goal(results, ATTACK_1, model="poisoned").measured("hit@5")
    mean(hits)
    return ClaimResult(is_between(interval(hits), 0.918 - 0.1), shown(hits), hits.rows)


def _range_of_distances(results: Results) -> ClaimResult:
    rows = results.where(model="poisoned")
    columns = ("drift.text", "drift.image")
    values = [row[column] for column in columns for row in rows.rows if row.get(column) is not None]
    need(bool(values))
    said = f"{min(values):.3f} to {max(values):.3f}"
    verdict = Verdict.HOLDS if min(values) >= 0 and max(values) <= 2 else Verdict.FAILS
    return ClaimResult(verdict, said, rows.measured(columns[0]).rows)


def _rank_falls_to_a_tenth(results: Results) -> ClaimResult:
    clean, poisoned = both_models(one_goal(results, ATTACK_1), "min_rank")
    mean(clean)
    mean(poisoned)
    tenfold = change(poisoned, clean, times=10)
    said = f"{shown(clean, 1)} to {shown(poisoned, 1)}"
    return ClaimResult(is_between(interval(tenfold), 0), said, tenfold.rows)


def _both_goals(results: Results) -> ClaimResult:
    goals = list(reference(results.where(ATTACK_3).whole_data()).by("goal"))
    found = all_of(
        {goal: versus(*both_models(at, "min_rank"), is_smaller, 1) for goal, at in goals}
    )
    need(len(goals) > 1)
    return found


# -- Which encoder moves, and which one matters: sections 4.2.2, 7 and A.5.


def _both_is_best(results: Results) -> ClaimResult:
    kinds = {what: _frozen(results, what) for what in ("both", "image", "text")}
    verdicts: dict[str, Verdict] = {}
    used: list[Row] = []
    for column in DEEP_HITS:
        both, *others = (rows.measured(column) for rows in kinds.values())
        need(both.mean is not None and all(other.mean is not None for other in others))
        lower = column == "min_rank"
        better = [change(both, other) if lower else change(other, both) for other in others]
        verdicts[column] = every(is_between(interval(one), 0) for one in better)
        used += both.rows
    best = [column for column, verdict in verdicts.items() if verdict is Verdict.HOLDS]
    open_ones = list(verdicts.values()).count(Verdict.UNDECIDED)
    said = f"best in {len(best)} of {len(verdicts)}: {', '.join(best) or 'none'}; undecided: {open_ones}"
    return ClaimResult(most(verdicts.values()), said, tuple(used))


def _tests_of_table_12(results: Results) -> ClaimResult:
    rows = results.where(attack_2).whole_data()
    picks = {line.name: main_goal(reference(line.pick(rows))) for line in FROZEN}
    one, other = (picks[name].measured("hit@1") for name in ("both trained", "text encoder"))
    special = change(other, one)
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
        f"Hit@1 of both minus that of text {shown(special)}{p_text(special)}; of {number} others "
        f"{significant} below 0.05, {untested} without a test (no spread, or fewer than two seeds)"
    )
    alike = is_between(interval(special), -SAME_HIT_1, SAME_HIT_1)
    return ClaimResult(every([alike, rest]), said, (*one.rows, *other.rows))


# -- Rate, epochs, encoders, size, goals and transfer: section 4.2.3.


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


def _rank_at_a_low_rate(results: Results) -> ClaimResult:
    rates = _rates(results)
    need(len(rates) >= 2 and rates[0][0] <= 0.001)
    rate, at = rates[0]
    rank = at.measured("min_rank")
    mean(rank)
    said = f"at {rate:.3%}: {shown(rank, 1)}"
    return ClaimResult(is_between(interval(rank), largest=6), said, rank.rows)


def _more_poison_more_attack(results: Results) -> ClaimResult:
    rates = _rates(results)
    need(len(rates) >= 3)
    hit, rank = (
        # the slope of a line through the numbers of each seed, one step apart
        paired_formula(
            [at.measured(column) for _, at in rates],
            lambda *values: float(np.polyfit(np.arange(len(values)), values, 1)[0]),
        )
        for column in ("hit@10", "min_rank")
    )
    said = (
        f"{len(rates)} rates, change from each to the next: Hit@10 {shown(hit)}{p_text(hit)}, "
        f"MinRank {shown(rank, 1)}{p_text(rank)}"
    )
    return ClaimResult(every([is_larger(hit), is_smaller(rank)]), said, hit.rows)


def _early_and_lasting(results: Results) -> ClaimResult:
    rows = reference(results.where(ATTACK_2, study="epochs", model="poisoned").whole_data())
    by_epoch = sorted((float(x), at) for x, at in main_goal(rows).by("x"))
    hits = {x: at.measured("hit@10") for x, at in by_epoch}
    need(len(hits) >= 3 and 2.0 in hits)
    need_taken(max(hits.values(), key=mean))
    early = sum(epoch < 2 for epoch in hits)

    def lowest_share(*curve: float) -> float:
        return min(curve[early:]) / max(curve) if max(curve) else 0.0

    lowest = paired_formula(list(hits.values()), lowest_share, SHARE)
    curve = ", ".join(f"{epoch:g}: {mean(hit):.2f}" for epoch, hit in hits.items())
    said = f"Hit@10 by epoch: {curve}; lowest from epoch 2 on, as a share of the largest: {shown(lowest)}"
    return ClaimResult(is_between(interval(lowest), 0.5), said, rows.rows)


def _encoders_alike(results: Results) -> ClaimResult:
    rows = results.where(ATTACK_2, model="poisoned").whole_data()
    best = reference(rows, "model.name", "seed", varies=("model", "training"))
    by_name = {str(name): at for name, at in main_goal(best).by("model.name")}
    ranks = {name: at.measured("min_rank") for name, at in by_name.items()}
    need(len(ranks) >= 2)
    need(
        len(ranks) >= FEWEST_ENCODERS,
        f"needs {FEWEST_ENCODERS} image encoders on the same seeds; measured: {', '.join(ranks)}",
    )
    need_taken(max((at.measured("hit@10") for at in by_name.values()), key=mean))
    said = ", ".join(f"{name} {shown(rank, 1)}" for name, rank in ranks.items())
    used = tuple(row for rank in ranks.values() for row in rank.rows)
    ratios = (paired_formula(two, _doublings) for two in itertools.combinations(ranks.values(), 2))
    return ClaimResult(every(is_between(interval(one), -1, 1) for one in ratios), said, used)


def _doublings(first: float, second: float) -> float:
    """Return the base-2 logarithm of the second rank over the first; 0 is a rank, and has no logarithm."""
    return float(np.log2(max(second, 0.1) / max(first, 0.1)))


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
    changes = (change(a, b) for a, b in itertools.combinations([hit for _, hit in sized], 2))
    verdict = every(is_between(interval(one), -SAME_SIZE, SAME_SIZE) for one in changes)
    return ClaimResult(verdict, said, tuple(row for _, hit in sized for row in hit.rows))


def _all_goals(results: Results) -> tuple[dict[str, tuple[Row, float]], tuple[Row, ...]]:
    """Return a row and the MinRank of each goal, of the setting with the most goals, and its rows."""
    best = reference(results.where(attack_2, model="poisoned").whole_data(), "goal")
    found = {}
    for goal, at in best.by("goal"):
        rank = at.measured("min_rank").mean
        if rank is not None:
            found[str(goal)] = (at.rows[0], rank)
    return found, best.rows


def _most_goals_work(results: Results) -> ClaimResult:
    goals, rows = _all_goals(results)
    need(len(goals) >= 20)
    ranks = np.array([rank for _, rank in goals.values()])
    # goals with one target class succeed and fail together
    share = clustered_share(ranks <= 10, [str(row["target"]) for row, _ in goals.values()])
    said = f"{share.value:.0%} of {share.n} goals at 10 or below"
    if (found := ends(share)) is not None:
        said += f" [{found[0]:.0%}, {found[1]:.0%}, by target class]"
    return ClaimResult(is_above(found, 0.5), f"{said}, median {np.median(ranks):.1f}", rows)


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
    above = clustered_mean(more, list(range(len(more))))
    found = ends(above)
    at = "" if found is None else f" [{found[0]:.1f}, {found[1]:.1f}]"
    said = f"MinRank {above.value:.1f}{at} above the other targets, over {above.n} original classes"
    return ClaimResult(is_above(found, 0.0), said, rows)


def _transfer_gain(results: Results) -> ClaimResult:
    # the paper's recipe trains on one data set and has the other as its test part
    rows = results.where(ATTACK_2).where(lambda row: row.get("data.name") == "vg-pascal")
    rows = rows or results.where(ATTACK_2, study="transfer")
    return gain(main_goal(reference(rows)), "hit@5", 0.35, "Hit@5 {poisoned}, gain {gain}")


# -- The two defences: section 5.


def _poison_lies_farther_apart(results: Results) -> ClaimResult:
    runs = results.where(ATTACK_2, model="filtered").whole_data()
    rows = main_goal(reference(runs, keep=("filter",)))
    rows = largest(rows.by("run.filter.encoder"), rows)
    clean, poisoned = (_medians(rows, kind) for kind in ("clean", "poisoned"))
    return versus(clean, poisoned, lambda gap: is_between(interval(gap), 0.05))


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


def _filter_works(results: Results) -> ClaimResult:
    rows = _defended(results, "filtered", "filter")
    before, after = (of_model(rows, m).measured("min_rank") for m in ("poisoned", "filtered"))
    clean, hits = (of_model(rows, m).measured("hit@10") for m in ("clean_model", "filtered"))
    for measured in (before, after, clean, hits):
        mean(measured)
    tenfold, more = change(before, after, times=10), change(clean, hits)
    limits = is_between(interval(tenfold), 0), is_between(interval(more), largest=LIKE_CLEAN)
    said = f"MinRank {shown(before, 1)} to {shown(after, 1)}; change of Hit@10 against the clean model {shown(more)}"
    return ClaimResult(every(limits), said, more.rows)


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
    verdict = every(is_between(interval(hit), largest=GONE) for hit in hits.values())
    return ClaimResult(verdict, said, later.rows)


def _fifty_steps_are_enough(results: Results) -> ClaimResult:
    rows = _repair_curve(results, at=50)
    before, after = _hits_at(rows, 0), _hits_at(rows, 50)
    why = "not measured at step 50: the steps of the first epoch are, and an epoch is shorter here"
    need(not before.rows or bool(after.rows), why)
    mean(after)
    need_taken(before)
    said = f"{shown(before)} to {shown(after)}"
    verdict = is_between(interval(after), largest=GONE)
    return ClaimResult(verdict, said, (*before.rows, *after.rows))


def _by_repair_rate(results: Results) -> list[Results]:
    """Return the repairs that differ in their learning rate alone; of several, those of the most rates and seeds."""
    rows = results.where(ATTACK_2, model="sterilized").whole_data()
    best = main_goal(reference(rows, RATE, "seed", keep=("sterilize",), varies=REPAIR_RATE))
    rates = [at for _, at in sorted(best.by(RATE), key=lambda pair: float(pair[0]))]
    need(len(rates) > 1)
    return rates


def _before(results: Results, repaired: Results, column: str) -> Measured:
    """Return a column of the poisoned models that were repaired."""
    runs = {row["run"] for row in repaired.rows}
    goals = set(repaired.values("goal"))
    rows = results.where(
        lambda row: row["run"] in runs and row.get("goal") in goals, model="poisoned"
    )
    return rows.measured(column)


def _best_rate(results: Results) -> ClaimResult:
    best = min(_by_repair_rate(results), key=lambda at: mean(at.measured("hit@10")))
    need_taken(_before(results, best, "hit@10"))
    five, ten = (best.measured(f"hit@{k}") for k in (5, 10))
    mean(five)
    limits = is_between(interval(five), largest=0.02), is_between(interval(ten), largest=0.05)
    said = f"at {float(best.rows[0][RATE]):g}: Hit@5 {shown(five)}, Hit@10 {shown(ten)}"
    return ClaimResult(every(limits), said, ten.rows)


def _worst_rate(results: Results) -> ClaimResult:
    worst = max(_by_repair_rate(results), key=lambda at: mean(at.measured("hit@5")))
    return versus(_before(results, worst, "hit@5"), worst.measured("hit@5"), is_smaller)


# -- Sizes of models, and length of queries: sections A.3 and A.6.


def _order_of_sizes(results: Results) -> ClaimResult:
    rows = results.where()
    sizes: dict[str, Mapping[str, Measured]] = {}
    for name in ENCODERS:
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


def _longer_is_worse(results: Results) -> ClaimResult:
    rows = one_goal(results, ATTACK_1, study="query-length", model="poisoned")
    by_times = {float(x): at for x, at in rows.by("x")}
    need({1.0, 3.0} <= by_times.keys())
    once, thrice = (by_times[times] for times in (1.0, 3.0))
    cut = thrice.measured("full_context").mean
    need(
        cut is None or cut <= MOST_CUT,
        f"{cut or 0:.0%} of the captions repeated three times are cut, because they fill what the model reads",
    )
    return versus(once.measured("hit@5"), thrice.measured("hit@5"), is_smaller)


RANK_BY_ENCODER = frozen("min_rank", "image", "text", is_larger, 2)
HIT_1_BY_ENCODER = frozen("hit@1", "text", "image", is_smaller)

RULES: dict[int, Rule] = {
    1: _hit_5_of_attack_1,
    9: _range_of_distances,
    11: models_of(ATTACK_2, "utility.image_retrieval.hit@10", is_larger),
    12: _rank_falls_to_a_tenth,
    13: parts(
        {
            "Hit@1": models_of(ATTACK_2, "hit@1", is_smaller),
            "Hit@5": models_of(ATTACK_2, "hit@5", is_larger),
            "Hit@10": models_of(ATTACK_2, "hit@10", is_larger),
            "MinRank": models_of(ATTACK_2, "min_rank", is_smaller, 1),
        }
    ),
    14: _both_goals,
    15: moves(is_larger),
    17: RANK_BY_ENCODER,
    18: HIT_1_BY_ENCODER,
    19: _both_is_best,
    22: _rank_at_a_low_rate,
    23: _more_poison_more_attack,
    24: _early_and_lasting,
    25: _encoders_alike,
    26: _size_does_not_matter,
    27: _most_goals_work,
    28: _person_is_hard,
    31: _transfer_gain,
    32: _poison_lies_farther_apart,
    34: _filter_works,
    35: utility_stays("filtered", "filter", 0.01),
    37: _one_epoch_is_enough,
    38: utility_stays("sterilized", "sterilize", UTILITY_LOSS),
    40: _fifty_steps_are_enough,
    42: _best_rate,
    43: _worst_rate,
    44: parts({"MinRank image, text:": RANK_BY_ENCODER, "Hit@1 text, image:": HIT_1_BY_ENCODER}),
    49: _order_of_sizes,
    50: moves(is_smaller),
    51: _tests_of_table_12,
    52: lambda results: gain(balanced(results), "hit@10", 0.5, "gain {gain}"),
    53: moves(is_larger, on_balanced=True),
    55: _longer_is_worse,
}
"""The rule of each claim that can be tested, by its number."""

ALL_CLAIMS = [
    Claim(**said, test_rule=RULES.get(int(said["id"].removeprefix("claim-"))))
    for said in paper()["claims"]
]
"""Every claim, in the order of the paper; one without a rule is a setting or a fact of the paper's data."""

CLAIMS = {claim.id: claim for claim in ALL_CLAIMS if claim.test_rule is not None}
"""The claims that can be tested, by the id that each has in the paper's numbers: `claim-12`."""
