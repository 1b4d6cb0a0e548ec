"""Claims about which encoder moves and which matters, sections 4.2.2, 7 and A.5."""

from __future__ import annotations

import itertools

from mmpoison.paper.claim import Finding, claim, main_goal, reference, shown, versus
from mmpoison.paper.frozen import LINES
from mmpoison.paper.measured import ATTACK_2, Measured, Results, attack_2, is_balanced, trained
from mmpoison.paper.paired import paired
from mmpoison.paper.shapes import DEEP_HITS, HITS

FROZEN = "attack II with one encoder frozen (table 5)"
DRIFT = "attack II"


def _frozen(results: Results, what: str) -> Results:
    rows = results.where(attack_2).where(lambda row: trained(row) == what, model="poisoned")
    return main_goal(reference(rows.whole_data()))


@claim("claim-09", "all drifts lie between 0 and 2", DRIFT)
def range_of_distances(results: Results) -> Finding | None:
    """Cosine distances."""
    rows = results.where(model="poisoned")
    drifts = [rows.measured(f"drift.{kind}") for kind in ("text", "image")]
    values = [
        row[f"drift.{kind}"]
        for kind in ("text", "image")
        for row in rows.rows
        if f"drift.{kind}" in row
    ]
    if not values:
        return None
    return Finding(
        min(values) >= 0 and max(values) <= 2,
        f"{min(values):.3f} to {max(values):.3f}",
        drifts[0].rows,
    )


def _drifts(rows: Results) -> tuple[Measured, Measured]:
    return rows.measured("drift.text"), rows.measured("drift.image")


@claim("claim-15", "mean drift of images is above that of texts", DRIFT)
def images_move_more(results: Results) -> Finding | None:
    """Figure 1."""
    rows = main_goal(reference(results.where(ATTACK_2, model="poisoned").whole_data()))
    return versus(*_drifts(rows), lambda text, image: image > text, 4)


@claim(
    "claim-50",
    "mean drift of texts is above that of images, p < 0.05 in the paired t-test",
    "attack II with several seeds",
)
def texts_move_more(results: Results) -> Finding | None:
    """Table 11; the paper contradicts its figure 1 here."""
    rows = main_goal(reference(results.where(ATTACK_2, model="poisoned").whole_data()))
    text, image = _drifts(rows)
    test = paired(rows, rows, "drift.image", "drift.text")
    if test is None or test.t_p is None:
        return None
    said = f"texts {shown(text, 4)}, images {shown(image, 4)}, p = {test.t_p:.2g} (n = {test.n})"
    return Finding(test.mean > 0 and test.t_p < 0.05, said, text.rows)


@claim("claim-53", "mean drift of images is above that of texts", "attack II on balanced data")
def images_move_more_balanced(results: Results) -> Finding | None:
    """Table 14."""
    rows = main_goal(reference(results.where(ATTACK_2, model="poisoned").where(is_balanced)))
    return versus(*_drifts(rows), lambda text, image: image > text, 4)


@claim(
    "claim-17",
    "mean MinRank with the image encoder alone is below that with the text encoder alone",
    FROZEN,
)
def rank_image_below_text(results: Results) -> Finding | None:
    """Table 5, MinRank."""
    image, text = (_frozen(results, what).measured("min_rank") for what in ("image", "text"))
    return versus(image, text, lambda one, other: one < other, 2)


@claim(
    "claim-18",
    "mean Hit@1 with the text encoder alone is above that with the image encoder alone",
    FROZEN,
)
def hit_1_text_above_image(results: Results) -> Finding | None:
    """Table 5, Hit@1."""
    text, image = (_frozen(results, what).measured("hit@1") for what in ("text", "image"))
    return versus(text, image, lambda one, other: one > other)


@claim(
    "claim-19", "both encoders trained is best in most of Hit@1, Hit@5, Hit@10 and MinRank", FROZEN
)
def both_is_best(results: Results) -> Finding | None:
    """Table 5, most cases."""
    kinds = {what: _frozen(results, what) for what in ("both", "image", "text")}
    best = []
    used = []
    for column in HITS:
        measured = {what: rows.measured(column) for what, rows in kinds.items()}
        means = {what: m.mean for what, m in measured.items() if m.mean is not None}
        if len(means) < 3:
            return None
        pick = min if column == "min_rank" else max
        if means["both"] == pick(means.values()):
            best.append(column)
        used += [row for m in measured.values() for row in m.rows]
    return Finding(
        len(best) > len(HITS) / 2,
        f"best in {len(best)} of {len(HITS)}: {', '.join(best) or 'none'}",
        tuple(used),
    )


@claim("claim-44", "claims of MinRank and of Hit@1 (table 5) both hold", FROZEN)
def what_each_modality_does(results: Results) -> Finding | None:
    """Section 7."""
    rank, hit = rank_image_below_text(results), hit_1_text_above_image(results)
    if rank is None or hit is None:
        return None
    said = f"MinRank image, text: {rank.number}; Hit@1 text, image: {hit.number}"
    return Finding(rank.holds and hit.holds, said, rank.rows)


@claim(
    "claim-51",
    "Hit@1 of both encoders and of the text encoder do not differ (p >= 0.05), every other comparison does (p < 0.05)",
    "table 5 with several seeds (table 12)",
)
def tests_of_table_12(results: Results) -> Finding | None:
    """All pairs of lines and all measures."""
    rows = results.where(attack_2).whole_data()
    picks = [main_goal(reference(line.pick(rows))) for line in LINES]
    p: dict[tuple[str, str, str], float] = {}
    for (one, a), (other, b) in itertools.combinations(zip(LINES, picks, strict=True), 2):
        for column in DEEP_HITS:
            test = paired(a, b, column)
            if test is not None and test.t_p is not None:
                p[one.name, other.name, column] = test.t_p
    special = p.pop(("both trained", "text encoder", "hit@1"), None)
    if special is None or not p:
        return None
    significant = sum(value < 0.05 for value in p.values())
    said = f"Hit@1 both to text p = {special:.2g}; {significant} of {len(p)} others below 0.05"
    return Finding(special >= 0.05 and significant == len(p), said, picks[0].rows)
