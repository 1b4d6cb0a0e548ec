"""Claims about rate, epochs, encoders, size, goals, transfer and length of queries, sections 4.2.3, A.3 and A.6."""

from __future__ import annotations

import numpy as np

from mmpoison.paper.claim import Finding, claim, main_goal, reference, shown, versus
from mmpoison.paper.measured import ATTACK_1, ATTACK_2, Results, attack_2
from mmpoison.paper.shapes import AMOUNTS, difference

RATE = "run.poisoning_rate"


def _rates(results: Results) -> list[tuple[float, Results]]:
    """Poisoned rows by poisoning rate of the setting that has most rates, rising."""
    rows = results.where(ATTACK_2, model="poisoned").whole_data()
    groups = [group for _, group in rows.settings(varies=AMOUNTS)]
    by_amount: list[list[tuple[float, Results]]] = []
    for group in groups:
        amounts: dict[tuple[object, ...], list[dict[str, object]]] = {}
        for row in main_goal(group).rows:
            amounts.setdefault(tuple(row.get(a) for a in AMOUNTS), []).append(row)
        found = [group.only(rows) for rows in amounts.values()]
        by_amount.append(
            sorted(
                ((rate, at) for at in found if (rate := at.measured(RATE).mean) is not None),
                key=lambda pair: pair[0],
            )
        )
    return max(by_amount, key=len, default=[])


@claim(
    "claim-22",
    "at the lowest rate tried, 0.1 % or less, mean MinRank is at most 6",
    "attack II at several rates (figure 2)",
)
def rank_at_a_low_rate(results: Results) -> Finding | None:
    """Figure 2."""
    rates = _rates(results)
    if len(rates) < 2 or rates[0][0] > 0.001:
        return None
    rate, at = rates[0]
    rank = at.measured("min_rank")
    if rank.mean is None:
        return None
    return Finding(rank.mean <= 6, f"at {rate:.3%}: {shown(rank, 1)}", rank.rows)


@claim(
    "claim-23",
    "rank correlation of rate and mean Hit@10 at least 0.8, of rate and mean MinRank at most -0.8",
    "attack II at several rates (figure 2)",
)
def more_poison_more_attack(results: Results) -> Finding | None:
    """Figure 2."""
    rates = _rates(results)
    if len(rates) < 3:
        return None
    hit = _spearman([at.measured("hit@10").mean for _, at in rates])
    rank = _spearman([at.measured("min_rank").mean for _, at in rates])
    if hit is None or rank is None:
        return None
    rows = tuple(row for _, at in rates for row in at.rows)
    said = f"over {len(rates)} rates: Hit@10 {hit:+.2f}, MinRank {rank:+.2f}"
    return Finding(hit >= 0.8 and rank <= -0.8, said, rows)


def _spearman(values: list[float | None]) -> float | None:
    from scipy import stats  # takes half a second to import

    known = [v for v in values if v is not None]
    if len(known) < len(values) or len(set(known)) < 2:
        return None
    return float(stats.spearmanr(range(len(known)), known).statistic)


@claim(
    "claim-24",
    "Hit@10 after two epochs is at least half of the largest of all epochs, and never falls below half of it later",
    "attack II with the study epochs (figure 3)",
)
def early_and_lasting(results: Results) -> Finding | None:
    """Figure 3."""
    rows = results.where(ATTACK_2, study="epochs", model="poisoned").whole_data()
    at = {float(epoch): found.measured("hit@10") for epoch, found in rows.by("x")}
    means = {epoch: m.mean for epoch, m in at.items() if m.mean is not None}
    if len(means) < 3 or 2.0 not in means:
        return None
    half = max(means.values()) / 2
    said = ", ".join(f"{epoch:g}: {value:.2f}" for epoch, value in sorted(means.items()))
    holds = all(value >= half for epoch, value in means.items() if epoch >= 2)
    return Finding(holds, f"Hit@10 by epoch: {said}", rows.rows)


@claim(
    "claim-25",
    "mean MinRank of the encoders differs by a factor of two at most",
    "attack II on several models (figure 4)",
)
def encoders_alike(results: Results) -> Finding | None:
    """Figure 4."""
    rows = results.where(ATTACK_2, model="poisoned").whole_data()
    groups = [g for _, g in rows.settings(varies=("model", "training"))]
    best = max(groups, key=lambda g: len(g.values("model.name")), default=rows)
    ranks = {str(name): at.measured("min_rank") for name, at in main_goal(best).by("model.name")}
    means = {name: m.mean for name, m in ranks.items() if m.mean is not None}
    if len(means) < 2:
        return None
    said = ", ".join(f"{name} {value:.1f}" for name, value in means.items())
    used = tuple(row for m in ranks.values() for row in m.rows)
    return Finding(max(means.values()) <= 2 * max(min(means.values()), 1e-9), said, used)


@claim(
    "claim-26",
    "mean Hit@10 neither rises nor falls with every step in size, or changes by less than 0.1 over all",
    "attack II on data of several sizes at one rate (figure 5 a)",
)
def size_does_not_matter(results: Results) -> Finding | None:
    """Figure 5 (a)."""
    sized = []
    rows = results.where(ATTACK_2, model="poisoned").whole_data()
    rows = rows.where(lambda row: row.get("attack.rate") is not None)
    for _, at in rows.settings(varies=()):
        for _, on_data in main_goal(at).by("data.name"):
            size, hit = on_data.measured("run.training_pairs"), on_data.measured("hit@10")
            if size.mean is not None and hit.mean is not None:
                sized.append((size.mean, hit.mean, on_data))
    sized.sort(key=lambda one: one[0])
    if len(sized) < 3:
        return None
    hits = [hit for _, hit, _ in sized]
    steps = np.diff(hits)
    monotone = bool((steps > 0).all() or (steps < 0).all())
    said = ", ".join(f"{size:,.0f} pairs {hit:.2f}" for size, hit, _ in sized)
    used = tuple(row for _, _, at in sized for row in at.rows)
    return Finding(not monotone or max(hits) - min(hits) < 0.1, said, used)


def _all_goals(results: Results) -> dict[str, tuple[str, float]]:
    """MinRank by goal with its target class, of the setting with the most goals."""
    rows = results.where(attack_2, model="poisoned").whole_data()
    groups = [g for _, g in rows.settings()]
    best = max(groups, key=lambda g: len(g.values("goal")), default=rows)
    found = {}
    for goal, at in best.by("goal"):
        mean = at.measured("min_rank").mean
        if mean is not None:
            found[str(goal)] = (str(at.rows[0]["target"]), mean)
    return found


ALL = "attack II with every goal (figure 5 b)"


@claim("claim-27", "MinRank is at most 10 for more than half of the goals", ALL)
def most_goals_work(results: Results) -> Finding | None:
    """Figure 5 (b)."""
    goals = _all_goals(results)
    if len(goals) < 20:
        return None
    ranks = np.array([rank for _, rank in goals.values()])
    share = float((ranks <= 10).mean())
    said = f"{share:.0%} of {len(ranks)} goals at 10 or below, median {np.median(ranks):.1f}"
    rows = results.where(attack_2, model="poisoned").rows
    return Finding(share > 0.5, said, tuple(r for r in rows if r["goal"] in goals))


@claim(
    "claim-28",
    "the mean MinRank of goals that end in person is among the three largest of all target classes",
    ALL,
)
def person_is_hard(results: Results) -> Finding | None:
    """Figure 5 (b), column 14."""
    columns: dict[str, list[float]] = {}
    for target, rank in _all_goals(results).values():
        columns.setdefault(target, []).append(rank)
    if "person" not in columns or len(columns) < 10:
        return None
    means = {target: sum(ranks) / len(ranks) for target, ranks in columns.items()}
    place = sorted(means.values(), reverse=True).index(means["person"]) + 1
    middle = float(np.median(list(means.values())))
    said = f"{means['person']:.1f}, place {place} of {len(means)}; the median class {middle:.1f}"
    rows = results.where(attack_2, model="poisoned", target="person").rows
    return Finding(place <= 3, said, rows)


@claim(
    "claim-31",
    "mean Hit@5 on the other data is at least 0.35 above the clean model's (0.704 in the paper)",
    "attack II with a section transfer (table 6)",
)
def transfer_gain(results: Results) -> Finding | None:
    """Table 6."""
    rows = results.where(ATTACK_2, study="transfer")
    clean, poisoned = (rows.where(model=m, study="transfer") for m in ("clean_model", "poisoned"))
    gain = difference(clean, poisoned, "hit@5")
    if gain.mean is None:
        return None
    hit = poisoned.measured("hit@5")
    return Finding(gain.mean >= 0.35, f"Hit@5 {shown(hit)}, gain {shown(gain)}", hit.rows)


@claim(
    "claim-49",
    "the order of FLOPs and of parameters of the three encoders",
    "runs of the three CLIP models (table 10)",
)
def order_of_sizes(results: Results) -> Finding | None:
    """Table 10."""
    names = ("clip-vit-b32", "clip-vit-b16", "clip-vit-l14")
    rows = results.where()
    sizes = []
    for name in names:
        of_model = rows.only(row for row in rows.rows if row.get("model.name") == name)
        flops = of_model.measured("run.model.flops_g").mean
        parameters = of_model.measured("run.model.parameters_m").mean
        if flops is None or parameters is None:
            return None
        sizes.append((flops, parameters))
    (f32, p32), (f16, p16), (f14, p14) = sizes
    said = ", ".join(f"{n}: {f:.1f} G, {p:.1f} M" for n, (f, p) in zip(names, sizes, strict=True))
    return Finding(f14 > f16 > f32 and p14 > p32 > p16, said, rows.rows)


@claim(
    "claim-55",
    "mean Hit@5 with each caption said three times is below that with it said once",
    "attack I with the study query-length (table 15)",
)
def longer_is_worse(results: Results) -> Finding | None:
    """Table 15."""
    rows = results.where(ATTACK_1, study="query-length", model="poisoned").whole_data()
    rows = main_goal(reference(rows))
    said = {float(x): at.measured("hit@5") for x, at in rows.by("x")}
    if 1.0 not in said or 3.0 not in said:
        return None
    return versus(said[1.0], said[3.0], lambda once, thrice: thrice < once)
