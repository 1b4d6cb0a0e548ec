"""Every rule of a claim: each verdict can come out, and few seeds never decide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mmpoison.reporting.results import Row
from mmpoison.reporting.table import Compared
from mmpoison_lab.paper import CLAIMS, Results, render_paper
from mmpoison_lab.paper.claim import FAILS, HOLDS, UNDECIDED, UNTESTED, Verdict
from mmpoison_lab.paper.paper_values import paper
from mmpoison_lab.paper.tables import HITS, RATE, REPAIR_CURVE
from mmpoison_lab.paper.write import in_order

from .claim_cases import (
    CASES,
    FLAT,
    REPAIR_EPOCHS,
    about,
    curve,
    goals,
    poisoning,
    rates_of_repair,
    results,
    rows,
)

MakeRun = Callable[..., Path]
IDS = [one["id"] for one in paper()["claims"]]

COUNTS = ("claim-49", "claim-09")
"""Counts, and what cannot fail: nothing of them is random, so nothing is undecided."""


def verdict(name: str, found: Results) -> Verdict | None:
    finding = CLAIMS[name].test(found)
    if finding is None:
        return None
    assert finding.number
    return finding.verdict


# -- each rule, in each direction -------------------------------------------------------------------------


def test_every_claim_has_a_case_for_each_verdict() -> None:
    assert len(IDS) == len(set(IDS)) == 55
    assert set(CASES) == set(CLAIMS) <= set(IDS)
    for name, cases in CASES.items():
        wanted = {HOLDS, FAILS} | ({UNDECIDED} if name not in COUNTS else set())
        assert set(cases) == wanted, f"{name}: a reversed or constant rule would go unnoticed"


@pytest.mark.parametrize(
    ("name", "wanted"), [(name, wanted) for name, cases in CASES.items() for wanted in cases]
)
def test_a_rule_gives_its_verdict(name: str, wanted: Verdict) -> None:
    finding = CLAIMS[name].test(CASES[name][wanted])
    assert finding is not None
    assert (finding.verdict, bool(finding.rows)) == (wanted, True), finding.number


@pytest.mark.parametrize("name", sorted(set(CASES) - {*COUNTS, "claim-27", "claim-28"}))
def test_one_seed_decides_nothing(name: str) -> None:
    """A mean without a test is no verdict, whatever it is; claims on all goals have other goals in place of seeds."""
    for found in CASES[name].values():
        first = found.only(row for row in found.rows if row["seed"] == 0)
        assert verdict(name, first) in (UNDECIDED, UNTESTED, None)


@pytest.mark.parametrize("name", sorted(CASES))
def test_nothing_is_nothing(name: str) -> None:
    assert CLAIMS[name].test(Results((), {})) is None


# -- what a rule needs --------------------------------------------------------------------------------------


def test_repairs_of_two_lengths_are_not_averaged() -> None:
    """Five epochs at one rate leave nothing of the attack, one epoch at two rates does."""
    short = rates_of_repair([0.1] * 5, [0.4] * 5, **{REPAIR_EPOCHS: 1})
    long = rows(
        {"hit@5": [0.0] * 5, "hit@10": [0.0] * 5}, "sterilized", **{RATE: 1e-3, REPAIR_EPOCHS: 5}
    )
    found = results([*short.rows, *long])
    assert verdict("claim-42", found) == FAILS
    (table,) = render_paper("table-8", found).tables
    lines = {(str(row[0]), row[1]): row[4] for row in table.rows if row[0]}
    hits = {
        (REPAIR_EPOCHS + "=5" in title, name): cell.measured.mean
        for (title, name), cell in lines.items()
        if isinstance(cell, Compared) and cell.measured
    }
    assert hits == {
        (False, "attack II"): pytest.approx(0.8),
        (False, "defence, 0.001"): pytest.approx(0.1),
        (False, "defence, 0.0001"): pytest.approx(0.4),
        (True, "defence, 0.001"): 0.0,
    }


def test_a_claim_is_about_the_repair_of_its_figure() -> None:
    """Figure 9 is of one epoch, figure 7 of several: they differ at the same step."""
    before, gone, left = [0.9] * 5, [0.02] * 5, [0.5] * 5
    one = curve({0.0: (0, before), 50.0: (0, gone), 60.0: (1, gone)}, **{REPAIR_EPOCHS: 1})
    points = {0.0: (0, before), 50.0: (0, left), 60.0: (1, left), 120.0: (2, left)}
    two = curve(points, **{REPAIR_EPOCHS: 2})
    too_short = curve({0.0: (0, before), 40.0: (1, left)}, **{REPAIR_EPOCHS: 0})
    found = results(one.rows, two.rows, too_short.rows)
    assert verdict("claim-40", found) == HOLDS
    assert verdict("claim-37", found) == FAILS
    assert verdict("claim-40", results(two.rows, too_short.rows)) == FAILS
    assert verdict("claim-37", results(one.rows, too_short.rows)) == HOLDS


def test_measuring_a_repair_on_its_way_makes_no_other_repair() -> None:
    seen, unseen = (
        rows(
            {"hit@5": [0.0] * 5, "hit@10": [0.0] * 5},
            "sterilized",
            **{RATE: rate, REPAIR_CURVE: rate > 5e-4},
        )
        for rate in (1e-3, 1e-4)
    )
    before = [
        rows({"hit@5": [0.8] * 5, "hit@10": [0.9] * 5}, **{RATE: r, REPAIR_CURVE: r > 5e-4})
        for r in (1e-3, 1e-4)
    ]
    assert verdict("claim-42", results(seen, unseen, *before)) == HOLDS


@pytest.mark.parametrize("column", HITS)
def test_each_column_of_attack_2_counts(column: str) -> None:
    """Claim 13 fails if one of Hit@1, 5, 10 and MinRank goes the other way."""
    found = CASES["claim-13"][HOLDS]
    other = {"clean_model": "poisoned", "poisoned": "clean_model"}
    values = {(row["model"], row["seed"]): row[column] for row in found.rows}
    swapped = ({**row, column: values[other[row["model"]], row["seed"]]} for row in found.rows)
    assert verdict("claim-13", found.only(swapped)) == FAILS


def test_raw_drift_does_not_decide() -> None:
    """Texts drift more, but they do so without poison too: what is left is that images do."""
    found = CASES["claim-15"][HOLDS]
    text, image = (found.measured(f"drift.{kind}").mean for kind in ("text", "image"))
    assert text is not None
    assert image is not None
    assert text > image
    assert verdict("claim-15", found) == HOLDS


def without_order(row: Row) -> Row:
    return {key: value for key, value in row.items() if "order" not in key}


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("claim-15", without_order, "order-drift"),
        ("claim-50", without_order, "order-drift"),
        ("claim-40", lambda row: {**row, "hit@10": row["hit@10"] / 10}, "the attack failed"),
        ("claim-40", lambda row: row if row["x"] != 50 else {}, "step 50"),
        (
            "claim-25",
            lambda row: row if row["model.name"] != "clip-vit-l14" else {},
            "needs 3 image encoders",
        ),
        (
            "claim-55",
            lambda row: {**row, "full_context": 0.85 if row["x"] == 3 else 0.0},
            "85% of the captions",
        ),
    ],
)
def test_what_a_rule_misses_is_said(name: str, change: Callable[[Row], Row], why: str) -> None:
    found = CASES[name][HOLDS]
    finding = CLAIMS[name].test(found.only(filter(None, map(change, found.rows))))
    assert finding is not None
    assert (finding.verdict, why in finding.number) == (UNTESTED, True)


def test_few_captions_that_are_cut_are_still_longer() -> None:
    found = CASES["claim-55"][HOLDS]
    cut = found.only({**row, "full_context": 0.02 * (row["x"] == 3)} for row in found.rows)
    assert verdict("claim-55", cut) == HOLDS


def test_encoders_are_compared_on_the_same_seeds() -> None:
    three = CASES["claim-25"][HOLDS]
    apart = three.only(
        {**row, "seed": row["seed"] + 10} if row["model.name"] == "clip-vit-l14" else row
        for row in three.rows
    )
    assert verdict("claim-25", apart) == UNDECIDED


def test_a_comparison_without_a_test_is_said() -> None:
    found = CASES["claim-51"][HOLDS]
    same = found.only({**row, "hit@50": 1.0} for row in found.rows)
    finding = CLAIMS["claim-51"].test(same)
    assert finding is not None
    assert finding.verdict == UNDECIDED
    assert "of 41 others 35 below 0.05, 6 without a test" in finding.number


SEVERAL = ("claim-09", "claim-22", "claim-23", "claim-26", "claim-27", "claim-28", "claim-49")
"""Claims about several settings, or about counts."""


FEWER_POISON, OTHER_GOAL = {"attack.samples": 1}, {"goal": "dog2cat"}


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        (name, changed)
        for name in sorted(set(CASES) - set(SEVERAL))
        for changed in (FEWER_POISON, OTHER_GOAL)
        # which is about every goal
        if (name, changed) != ("claim-14", OTHER_GOAL)
    ],
)
def test_a_run_of_another_setting_blurs_no_claim(name: str, changed: Row) -> None:
    """One run with another amount of poison, or of another goal, and wild numbers changes nothing."""
    for wanted, found in CASES[name].items():
        wild = [{**wilder(row), **changed} for row in found.rows if row["seed"] == 0]
        settings = {**found.parameters}
        for row in wild:
            own = changed if changed is FEWER_POISON else {}
            settings[row["run"]] = {**found.parameters[row["run"][:-5]], **own}
        # a setting is the same wherever its rows stand; of goals with as many seeds the first counts
        orders = [(*found.rows, *wild), (*wild, *found.rows)]
        for together in orders if changed is FEWER_POISON else orders[:1]:
            assert verdict(name, Results(together, settings)) == wanted


def test_the_order_of_folders_does_not_answer_a_claim() -> None:
    """Every goal of figure 5b has as many seeds as the goal of table 5, and the alphabet puts figures first."""
    found = CASES["claim-17"][FAILS]
    own = [{**row, "recipe": "table-5-openmoji"} for row in found.rows]
    others, settings = [], {**found.parameters}
    for row in own:
        for name in ("figure-5b-openmoji", "mine", "table-50"):
            if row["training.trainable"] == "text":
                others.append({**wilder(row), "recipe": name, "goal": name})
                settings[others[-1]["run"]] = found.parameters[row["run"]]
    for together in ([*own, *others], [*others, *own], [*reversed(others), *own]):
        ordered = in_order(Results(tuple(together), settings))
        assert verdict("claim-17", ordered) == FAILS


def wilder(row: Row) -> Row:
    """The row of another run, with numbers that are far away."""
    kept = {"x", "epoch", "seed", RATE}
    changed = {k: 3 * v + 1 for k, v in row.items() if isinstance(v, float) and k not in kept}
    return {**row, **changed, "run": f"{row['run']}/wild"}


def test_the_setting_with_most_rates_is_taken() -> None:
    three = CASES["claim-23"][HOLDS]
    two = poisoning([about(0.9, 0.02), about(0.1, 0.01)], [about(1, 0.5), about(40, 5)])
    longer = [{**row, "run": f"{row['run']}/longer", "training.epochs": 9} for row in two.rows]
    settings = {**three.parameters}
    for row in longer:
        settings[row["run"]] = {**two.parameters[row["run"][:-7]], "training.epochs": 9}
    for together in ((*three.rows, *longer), (*longer, *three.rows)):
        assert verdict("claim-23", Results(together, settings)) == HOLDS


def test_three_rates_are_a_trend() -> None:
    two = poisoning([about(0.2, 0.01), FLAT], [about(9, 0.5), about(2, 0.5)])
    assert verdict("claim-23", two) is None


def test_a_model_that_was_not_trained_was_not_attacked() -> None:
    found = CASES["claim-25"][HOLDS]
    untouched = found.only({**row, "training.epochs": 0} for row in found.rows)
    assert verdict("claim-25", untouched) is None


def test_differences_without_spread_are_no_test() -> None:
    made = results(
        rows({"utility.image_retrieval.hit@10": [0.8] * 3}, "clean_model"),
        rows({"utility.image_retrieval.hit@10": [0.9] * 3}),
    )
    finding = CLAIMS["claim-11"].test(made)
    assert finding is not None
    assert (finding.verdict, finding.number.endswith("no spread (n = 3)")) == (UNDECIDED, True)


def test_a_direction_comes_with_the_p_of_a_paired_test() -> None:
    column = "utility.image_retrieval.hit@10"
    clean, poisoned = [0.90, 0.91, 0.92], [0.93, 0.90, 0.93]
    made = results(rows({column: clean}, "clean_model"), rows({column: poisoned}))
    finding = CLAIMS["claim-11"].test(made)
    assert finding is not None
    # paired differences 0.03, -0.01, 0.01: t = 0.01 / (0.02 / sqrt(3)), two degrees of freedom
    assert finding.number.endswith(", p = 0.48 (n = 3)")
    assert finding.verdict == UNDECIDED


def test_goals_count_whatever_was_trained(make_run: MakeRun) -> None:
    classes = ["bird", "boat", "cat", "cow", "dog", "horse"]
    named = [f"{a}2{b}" for a in classes for b in classes if a != b]
    settings: dict[str, Any] = {"training": {"epochs": 4, "trainable": "text-head"}}
    runs = [make_run(f"goals/{goal}", goals=(goal,), settings=settings) for goal in named]
    assert verdict("claim-27", Results.read(runs)) is not None
    page = render_paper("figure-5b", Results.read(runs))
    assert f"{len(named)} goals" in page.notes[0]


def test_goals_of_one_target_are_one_piece_of_evidence() -> None:
    """Half of the target classes work, each for all its originals: 110 goals are not 110 pieces of evidence."""
    half = goals(lambda a, b, place: 3.0 if b in "abcdefg" else 40.0)
    share = np.mean([row["min_rank"] <= 10 for row in half.rows])
    binomial = stats.binomtest(round(share * 110), 110).proportion_ci().low
    assert binomial > 0.5
    assert verdict("claim-27", half) == UNDECIDED
