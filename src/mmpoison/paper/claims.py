"""The claims of the paper, as predicates over rows of our runs.

The claims themselves, with the paper's values, the rule by which each holds and the runs that it needs, are in
`paper_values.json`; one without a predicate here is a setting or a fact of the paper's data.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mmpoison.paper.measured import (
    AMOUNTS,
    ATTACK_1,
    ATTACK_2,
    ATTACK_3,
    CURVE,
    Measured,
    Results,
    attack_2,
    by_amount,
    difference,
    is_balanced,
    paired,
    trained,
    with_model,
)
from mmpoison.paper.paper_values import paper
from mmpoison.paper.tables import DEEP_HITS, FROZEN, HITS, RATE
from mmpoison.reporting.parameters import Row
from mmpoison.reporting.text import as_number, decimal
from mmpoison.statistics import compare


@dataclass(frozen=True)
class Finding:
    """The verdict of our runs on a claim, on one data set.

    Attributes:
        holds: Whether it holds.
        number: What was measured, in words and digits.
        rows: Where it comes from.
    """

    holds: bool
    number: str
    rows: tuple[Row, ...]


class Absent(Exception):
    """Raised if the rows do not hold what a predicate needs."""


@dataclass(frozen=True)
class Claim:
    """A claim that can be tested.

    Attributes:
        rule: When it counts as holding.
        needs: Which runs it needs, for a reader who has none.
        test: Gives a finding for the rows of one data set, or None where they do not hold what it takes.
    """

    rule: str
    needs: str
    test: Callable[[Results], Finding | None]


CLAIMS: dict[str, Claim] = {}
"""The predicates by the id that a claim has in the paper's numbers: `claim-12`."""


Test = Callable[[Results], Finding]


def claim(number: int) -> Callable[[Test], Test]:
    """Add the predicate of a claim to `CLAIMS`; one that raises `Absent` has no finding."""

    def decorate(test: Test) -> Test:
        def find(results: Results) -> Finding | None:
            try:
                return test(results)
            except Absent:
                return None

        (said,) = (one for one in paper()["claims"] if one["id"] == f"claim-{number:02}")
        CLAIMS[said["id"]] = Claim(said["rule"], said["needs"], find)
        return test

    return decorate


def need(given: bool) -> None:
    """Give up where the rows do not hold enough."""
    if not given:
        raise Absent


def mean(measured: Measured) -> float:
    """Return the mean of a number, which some run must have."""
    if measured.mean is None:
        raise Absent
    return measured.mean


def reference(
    results: Results, *, varies: tuple[str, ...] = (), keep: tuple[str, ...] = ()
) -> Results:
    """Return the setting with the most seeds among several, so that a sweep over a parameter does not blur its default.

    Args:
        results: Rows of one data set.
        varies: Parameters in which the rows may differ.
        keep: Parameters of defences that distinguish settings.
    """
    groups = [group for _, group in results.settings(varies=varies, keep=keep)]
    return max(groups, key=lambda group: len(group.values("seed")), default=results)


def main_goal(results: Results) -> Results:
    """Return the rows of the goal with the most seeds; of the first of several."""
    goals = [rows for _, rows in results.by("goal")]
    return max(goals, key=lambda rows: len(rows.values("seed")), default=results)


def shown(measured: Measured, digits: int = 3) -> str:
    """Format a mean, with its interval if there are several seeds.

    >>> from mmpoison.statistics import summarize
    >>> shown(Measured(summarize([0.5])))
    '0.500'
    """
    summary = measured.summary
    if summary is None:
        return "–"
    text = decimal(summary.mean, digits)
    if summary.low is not None:
        text += f" [{decimal(summary.low, digits)}, {decimal(summary.high, digits)}]"
    return text


def versus(
    first: Measured, second: Measured, holds: Callable[[float, float], bool], digits: int = 3
) -> Finding:
    """Make a finding about the means of two numbers, with the p of a paired t-test over seeds.

    The verdict is that of the means: the paper's claims are of one run. The p says whether it may be chance.
    """
    holding = holds(mean(first), mean(second))
    said = f"{shown(first, digits)} to {shown(second, digits)}"
    common = sorted(set(first.by_seed) & set(second.by_seed))
    if len(common) > 1:
        test = compare(
            [first.by_seed[seed] for seed in common], [second.by_seed[seed] for seed in common]
        )
        if test.t_p is not None:
            said += f", p = {test.t_p:.2g} (n = {test.n})"
    return Finding(holding, said, (*first.rows, *second.rows))


def at_least(measured: Measured, least: float, name: str = "") -> Finding:
    """Make a finding about one number."""
    return Finding(mean(measured) >= least, f"{name}{shown(measured)}", measured.rows)


def above(first: float, second: float) -> bool:
    """Test whether the second number is the larger one."""
    return second > first


def below(first: float, second: float) -> bool:
    """Test whether the second number is the smaller one."""
    return second < first


def one_goal(results: Results, attack: Callable[[Row], bool], **keys: str) -> Results:
    """Select rows of one attack's reference setting and goal, on the whole data set."""
    return main_goal(reference(results.where(attack, **keys).whole_data()))


def both_models(rows: Results, column: str) -> tuple[Measured, Measured]:
    """Return a column of the clean and of the poisoned model."""
    clean, poisoned = (rows.where(model=m).measured(column) for m in ("clean_model", "poisoned"))
    return clean, poisoned


# -- the attacks: sections 1, 4.2.1 and A.5.3 ------------------------------------------------------


@claim(13)
def _hit_1_falls(results: Results) -> Finding:
    rows = one_goal(results, ATTACK_2)
    measured = [both_models(rows, column) for column in HITS]
    means = [(mean(clean), mean(poisoned)) for clean, poisoned in measured]
    (clean_1, poisoned_1), *hits, (clean_rank, poisoned_rank) = means
    holds = (
        poisoned_1 <= clean_1
        and all(after > before for before, after in hits)
        and poisoned_rank < clean_rank
    )
    first, second = measured[0]
    said = (
        f"Hit@1 {shown(first)} to {shown(second)}, MinRank {clean_rank:.1f} to {poisoned_rank:.1f}"
    )
    return Finding(holds, said, (*first.rows, *second.rows))


@claim(14)
def _both_goals(results: Results) -> Finding:
    rows = reference(results.where(ATTACK_3).whole_data())
    said, holds, used = [], True, []
    for goal, at in rows.by("goal"):
        clean, poisoned = both_models(at, "min_rank")
        holds = holds and mean(poisoned) < mean(clean)
        said.append(f"{goal} {clean.mean:.1f} to {poisoned.mean:.1f}")
        used += [*clean.rows, *poisoned.rows]
    need(len(said) > 1)
    return Finding(holds, "; ".join(said), tuple(used))


def _balanced(results: Results) -> tuple[Results, Results]:
    """Return the clean and poisoned rows of attack II on balanced data."""
    rows = main_goal(reference(results.where(ATTACK_2).where(is_balanced)))
    return rows.where(model="clean_model"), rows.where(model="poisoned")


# -- which encoder moves, and which matters: sections 4.2.2, 7 and A.5 -----------------------------


def _frozen(results: Results, what: str) -> Results:
    rows = results.where(attack_2).where(lambda row: trained(row) == what, model="poisoned")
    return main_goal(reference(rows.whole_data()))


def _drifts(rows: Results) -> tuple[Measured, Measured]:
    return rows.measured("drift.text"), rows.measured("drift.image")


@claim(9)
def _range_of_distances(results: Results) -> Finding:
    rows = results.where(model="poisoned")
    columns = ("drift.text", "drift.image")
    values = [row[column] for column in columns for row in rows.rows if column in row]
    need(bool(values))
    said = f"{min(values):.3f} to {max(values):.3f}"
    return Finding(min(values) >= 0 and max(values) <= 2, said, rows.measured(columns[0]).rows)


@claim(50)
def _texts_move_more(results: Results) -> Finding:
    """Compare the drift of texts and images in table 11; the paper contradicts its figure 1 here."""
    rows = one_goal(results, ATTACK_2, model="poisoned")
    text, image = _drifts(rows)
    test = paired(rows, rows, "drift.image", "drift.text")
    if test is None or test.t_p is None:
        raise Absent
    said = f"texts {shown(text, 4)}, images {shown(image, 4)}, p = {test.t_p:.2g} (n = {test.n})"
    return Finding(test.mean > 0 and test.t_p < 0.05, said, text.rows)


def _rank_image_below_text(results: Results) -> Finding:
    image, text = (_frozen(results, what).measured("min_rank") for what in ("image", "text"))
    return versus(image, text, above, 2)


def _hit_1_text_above_image(results: Results) -> Finding:
    text, image = (_frozen(results, what).measured("hit@1") for what in ("text", "image"))
    return versus(text, image, below)


@claim(19)
def _both_is_best(results: Results) -> Finding:
    kinds = {what: _frozen(results, what) for what in ("both", "image", "text")}
    best, used = [], []
    for column in HITS:
        measured = {what: rows.measured(column) for what, rows in kinds.items()}
        means = {what: m.mean for what, m in measured.items() if m.mean is not None}
        need(len(means) >= len(kinds))
        pick = min if column == "min_rank" else max
        if means["both"] == pick(means.values()):
            best.append(column)
        used += [row for m in measured.values() for row in m.rows]
    said = f"best in {len(best)} of {len(HITS)}: {', '.join(best) or 'none'}"
    return Finding(len(best) > len(HITS) / 2, said, tuple(used))


@claim(44)
def _what_each_modality_does(results: Results) -> Finding:
    rank, hit = _rank_image_below_text(results), _hit_1_text_above_image(results)
    said = f"MinRank image, text: {rank.number}; Hit@1 text, image: {hit.number}"
    return Finding(rank.holds and hit.holds, said, rank.rows)


@claim(51)
def _tests_of_table_12(results: Results) -> Finding:
    rows = results.where(attack_2).whole_data()
    picks = [main_goal(reference(line.pick(rows))) for line in FROZEN]
    p: dict[tuple[str, str, str], float] = {}
    for (one, a), (other, b) in itertools.combinations(zip(FROZEN, picks, strict=True), 2):
        for column in DEEP_HITS:
            test = paired(a, b, column)
            if test is not None and test.t_p is not None:
                p[one.name, other.name, column] = test.t_p
    special = p.pop(("both trained", "text encoder", "hit@1"), None)
    if special is None or not p:
        raise Absent
    significant = sum(value < 0.05 for value in p.values())
    said = f"Hit@1 both to text p = {special:.2g}; {significant} of {len(p)} others below 0.05"
    return Finding(special >= 0.05 and significant == len(p), said, picks[0].rows)


# -- rate, epochs, encoders, size, goals, transfer, length of queries: sections 4.2.3, A.3 and A.6 --


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
def _rank_at_a_low_rate(results: Results) -> Finding:
    rates = _rates(results)
    need(len(rates) >= 2 and rates[0][0] <= 0.001)
    rate, at = rates[0]
    rank = at.measured("min_rank")
    return Finding(mean(rank) <= 6, f"at {rate:.3%}: {shown(rank, 1)}", rank.rows)


@claim(23)
def _more_poison_more_attack(results: Results) -> Finding:
    rates = _rates(results)
    need(len(rates) >= 3)
    hit, rank = (
        _spearman([mean(at.measured(column)) for _, at in rates])
        for column in ("hit@10", "min_rank")
    )
    rows = tuple(row for _, at in rates for row in at.rows)
    said = f"over {len(rates)} rates: Hit@10 {hit:+.2f}, MinRank {rank:+.2f}"
    return Finding(hit >= 0.8 and rank <= -0.8, said, rows)


def _spearman(values: list[float]) -> float:
    from scipy import stats  # takes half a second to import

    need(len(set(values)) > 1)
    return float(stats.spearmanr(range(len(values)), values).statistic)


@claim(24)
def _early_and_lasting(results: Results) -> Finding:
    rows = results.where(ATTACK_2, study="epochs", model="poisoned").whole_data()
    means = _means_by(rows, "x", "hit@10")
    need(len(means) >= 3 and 2.0 in means)
    half = max(means.values()) / 2
    said = ", ".join(f"{epoch:g}: {value:.2f}" for epoch, value in sorted(means.items()))
    holds = all(value >= half for epoch, value in means.items() if epoch >= 2)
    return Finding(holds, f"Hit@10 by epoch: {said}", rows.rows)


def _means_by(rows: Results, by: str, column: str) -> Mapping[float, float]:
    """Return the mean of a column at each value of another; those without one are left out."""
    found = {float(value): at.measured(column).mean for value, at in rows.by(by)}
    return {value: mean for value, mean in found.items() if mean is not None}


@claim(25)
def _encoders_alike(results: Results) -> Finding:
    rows = results.where(ATTACK_2, model="poisoned").whole_data()
    groups = [g for _, g in rows.settings(varies=("model", "training"))]
    best = max(groups, key=lambda g: len(g.values("model.name")), default=rows)
    ranks = {str(name): at.measured("min_rank") for name, at in main_goal(best).by("model.name")}
    means = {name: m.mean for name, m in ranks.items() if m.mean is not None}
    need(len(means) >= 2)
    said = ", ".join(f"{name} {value:.1f}" for name, value in means.items())
    used = tuple(row for m in ranks.values() for row in m.rows)
    return Finding(max(means.values()) <= 2 * max(min(means.values()), 1e-9), said, used)


@claim(26)
def _size_does_not_matter(results: Results) -> Finding:
    sized = []
    rows = results.where(ATTACK_2, model="poisoned").whole_data()
    rows = rows.where(lambda row: row.get("attack.rate") is not None)
    for _, at in rows.settings(varies=()):
        for _, on_data in main_goal(at).by("data.name"):
            size, hit = on_data.measured("run.training_pairs"), on_data.measured("hit@10")
            if size.mean is not None and hit.mean is not None:
                sized.append((size.mean, hit.mean, on_data))
    sized.sort(key=lambda one: one[0])
    need(len(sized) >= 3)
    hits = [hit for _, hit, _ in sized]
    steps = np.diff(hits)
    monotone = bool((steps > 0).all() or (steps < 0).all())
    said = ", ".join(f"{size:,.0f} pairs {hit:.2f}" for size, hit, _ in sized)
    used = tuple(row for _, _, at in sized for row in at.rows)
    return Finding(not monotone or max(hits) - min(hits) < 0.1, said, used)


def _all_goals(results: Results) -> dict[str, tuple[str, float]]:
    """Return the MinRank by goal with its target class, of the setting with the most goals."""
    rows = results.where(attack_2, model="poisoned").whole_data()
    groups = [g for _, g in rows.settings()]
    best = max(groups, key=lambda g: len(g.values("goal")), default=rows)
    found = {}
    for goal, at in best.by("goal"):
        mean = at.measured("min_rank").mean
        if mean is not None:
            found[str(goal)] = (str(at.rows[0]["target"]), mean)
    return found


@claim(27)
def _most_goals_work(results: Results) -> Finding:
    goals = _all_goals(results)
    need(len(goals) >= 20)
    ranks = np.array([rank for _, rank in goals.values()])
    share = float((ranks <= 10).mean())
    said = f"{share:.0%} of {len(ranks)} goals at 10 or below, median {np.median(ranks):.1f}"
    rows = results.where(attack_2, model="poisoned").rows
    return Finding(share > 0.5, said, tuple(r for r in rows if r["goal"] in goals))


@claim(28)
def _person_is_hard(results: Results) -> Finding:
    columns: dict[str, list[float]] = {}
    for target, rank in _all_goals(results).values():
        columns.setdefault(target, []).append(rank)
    need("person" in columns and len(columns) >= 10)
    means = {target: sum(ranks) / len(ranks) for target, ranks in columns.items()}
    place = sorted(means.values(), reverse=True).index(means["person"]) + 1
    middle = float(np.median(list(means.values())))
    said = f"{means['person']:.1f}, place {place} of {len(means)}; the median class {middle:.1f}"
    rows = results.where(attack_2, model="poisoned", target="person").rows
    return Finding(place <= 3, said, rows)


@claim(31)
def _transfer_gain(results: Results) -> Finding:
    rows = results.where(ATTACK_2, study="transfer")
    clean, poisoned = (rows.where(model=m, study="transfer") for m in ("clean_model", "poisoned"))
    gain = difference(clean, poisoned, "hit@5")
    hit = poisoned.measured("hit@5")
    return Finding(mean(gain) >= 0.35, f"Hit@5 {shown(hit)}, gain {shown(gain)}", hit.rows)


@claim(49)
def _order_of_sizes(results: Results) -> Finding:
    names = ("clip-vit-b32", "clip-vit-b16", "clip-vit-l14")
    rows = results.where()
    sizes = []
    for name in names:
        of_model = rows.only(row for row in rows.rows if row.get("model.name") == name)
        flops, parameters = (
            mean(of_model.measured(f"run.model.{key}")) for key in ("flops_g", "parameters_m")
        )
        sizes.append((flops, parameters))
    (f32, p32), (f16, p16), (f14, p14) = sizes
    said = ", ".join(f"{n}: {f:.1f} G, {p:.1f} M" for n, (f, p) in zip(names, sizes, strict=True))
    return Finding(f14 > f16 > f32 and p14 > p32 > p16, said, rows.rows)


@claim(55)
def _longer_is_worse(results: Results) -> Finding:
    rows = one_goal(results, ATTACK_1, study="query-length", model="poisoned")
    said = {float(x): at.measured("hit@5") for x, at in rows.by("x")}
    need({1.0, 3.0} <= said.keys())
    return versus(said[1.0], said[3.0], below)


# -- the two defences: section 5 -------------------------------------------------------------------

GONE = 0.1


def _defended(results: Results, model: str, part: str) -> Results:
    runs = with_model(results.where(ATTACK_2).whole_data(), model)
    return main_goal(reference(runs, keep=(part,)))


@claim(34)
def _filter_works(results: Results) -> Finding:
    rows = _defended(results, "filtered", "filter")
    before, after = (rows.where(model=m).measured("min_rank") for m in ("poisoned", "filtered"))
    clean, filtered = rows.where(model="clean_model"), rows.where(model="filtered")
    more = difference(clean, filtered, "hit@10").summary
    if more is None:
        raise Absent
    rises = mean(after) >= 10 * mean(before)
    said = (
        f"MinRank {before.mean:.1f} to {after.mean:.1f}; "
        f"Hit@10 {shown(filtered.measured('hit@10'))}, clean {shown(clean.measured('hit@10'))}"
    )
    not_above = more.mean <= 0 or (more.low is not None and more.low <= 0)
    return Finding(rises and not_above, said, filtered.rows)


def _utility_stays(results: Results, model: str, part: str, most: float) -> Finding:
    rows = _defended(results, model, part)
    clean, after = rows.where(model="clean_model"), rows.where(model=model)
    columns = [f"utility.{way}_retrieval.hit@10" for way in ("text", "image")]
    changes = [difference(clean, after, column) for column in columns]
    said = ", ".join(f"{n} {shown(c)}" for n, c in zip(("TR", "IR"), changes, strict=True))
    means = [mean(change) for change in changes]
    return Finding(min(means) >= -most, f"change of {said}", changes[0].rows)


def _repair_curve(results: Results) -> Results:
    """Return the rows of the repair that was measured for the most steps."""
    rows = results.where(ATTACK_2, study=CURVE).whole_data()
    groups = [g for _, g in rows.settings(keep=("sterilize",))]
    return max(groups, key=lambda g: max((r["x"] or 0.0) for r in g.rows), default=rows)


@claim(37)
def _one_epoch_is_enough(results: Results) -> Finding:
    rows = _repair_curve(results)
    later = rows.only(r for r in rows.rows if (as_number(r.get("epoch")) or 0.0) >= 1)
    start = rows.only(r for r in rows.rows if r["x"] == 0).measured("hit@10")
    means = _means_by(later, "x", "hit@10")
    need(bool(means) and start.mean is not None)
    first, worst = means[min(means)], max(means.values())
    said = f"from {shown(start)} to {first:.3f} after one epoch, {worst:.3f} at most from then on"
    return Finding(worst <= GONE, said, later.rows)


def _by_repair_rate(results: Results) -> list[tuple[float, Results]]:
    rows = results.where(ATTACK_2, model="sterilized").whole_data()
    rows = main_goal(reference(rows, varies=("sterilize",)))
    rates = [(float(rate), at) for rate, at in rows.by(RATE)]
    return sorted(rates, key=lambda pair: pair[0]) if len(rates) > 1 else []


@claim(42)
def _best_rate(results: Results) -> Finding:
    rates = _by_repair_rate(results)
    need(bool(rates))
    rate, at = min(rates, key=lambda pair: pair[1].measured("hit@10").mean or 0.0)
    five, ten = (at.measured(f"hit@{k}") for k in (5, 10))
    holds = mean(five) <= 0.02 and mean(ten) <= 0.05
    said = f"at {rate:g}: Hit@5 {shown(five)}, Hit@10 {shown(ten)}"
    return Finding(holds, said, ten.rows)


@claim(43)
def _worst_rate(results: Results) -> Finding:
    rates = _by_repair_rate(results)
    need(bool(rates))
    _, worst = max(rates, key=lambda pair: pair[1].measured("hit@5").mean or 0.0)
    runs = {row["run"] for row in worst.rows}
    poisoned = results.where(lambda row: row["run"] in runs, model="poisoned")
    return versus(poisoned.measured("hit@5"), worst.measured("hit@5"), below)


# -- claims about one number, or about two that are compared ---------------------------------------


def _repair_at(results: Results, step: int) -> Measured:
    rows = _repair_curve(results)
    return rows.only(row for row in rows.rows if row["x"] == step).measured("hit@10")


SIMPLE: dict[int, Test] = {
    1: lambda runs: at_least(
        one_goal(runs, ATTACK_1, model="poisoned").measured("hit@5"), 0.918 - 0.1
    ),
    11: lambda runs: versus(
        *both_models(one_goal(runs, ATTACK_2), "utility.image_retrieval.hit@10"), above
    ),
    12: lambda runs: versus(
        *both_models(one_goal(runs, ATTACK_1), "min_rank"), lambda a, b: b <= a / 10, 1
    ),
    15: lambda runs: versus(*_drifts(one_goal(runs, ATTACK_2, model="poisoned")), above, 4),
    17: _rank_image_below_text,
    18: _hit_1_text_above_image,
    # figure 6: an area above a half says that the poisoned pair of a random couple is the farther one
    32: lambda runs: at_least(
        runs.where(ATTACK_2, model="filtered").whole_data().measured("run.filter.auroc"),
        0.9,
        "AUROC ",
    ),
    35: lambda runs: _utility_stays(runs, "filtered", "filter", 0.01),
    38: lambda runs: _utility_stays(runs, "sterilized", "sterilize", 0.0),
    40: lambda runs: versus(_repair_at(runs, 0), _repair_at(runs, 50), lambda _, b: b <= GONE),
    52: lambda runs: at_least(difference(*_balanced(runs), "hit@10"), 0.5, "gain "),
    53: lambda runs: versus(*_drifts(_balanced(runs)[1]), above, 4),
}
for _number, _test in SIMPLE.items():
    claim(_number)(_test)
