"""Every rule of a claim: each verdict can come out, few seeds never decide, and the paper's own numbers pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tests.paper.claim_cases import (
    CASES,
    FLAT,
    NOISE,
    OTHER_NOISE,
    about,
    filtered,
    goals,
    poisoning,
    results,
    rows,
)
from typer.testing import CliRunner

from mmpoison.cli.app import app
from mmpoison.paper import CLAIMS, Measured, Results, claims_page, render_paper
from mmpoison.paper.evidence import (
    FAILS,
    HOLDS,
    UNDECIDED,
    UNTESTED,
    Verdict,
    every,
    interval,
    is_at_least,
    is_at_most,
    is_larger,
    is_smaller,
    is_within,
    most,
)
from mmpoison.paper.measured import change
from mmpoison.paper.own_numbers import contradiction, own_finding, own_numbers, unprinted
from mmpoison.paper.paper_values import paper
from mmpoison.paper.verdicts import answer, answers, counted
from mmpoison.reporting.table import Link

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


def test_wider_is_not_equal() -> None:
    """Fewer seeds widen the interval: 'no difference' gets harder, where it once got easier."""
    five = CASES["claim-26"][HOLDS]
    two = five.only(row for row in five.rows if row["seed"] < 2)
    assert (verdict("claim-26", five), verdict("claim-26", two)) == (HOLDS, UNDECIDED)
    five = filtered(about(49, 1), about(0.1, 0.03))
    two = five.only(row for row in five.rows if row["seed"] < 2)
    assert verdict("claim-34", five) == HOLDS
    assert verdict("claim-34", two) == UNDECIDED


# -- the paper on itself ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_the_papers_own_numbers_hold(name: str) -> None:
    """Printed numbers are exact (see `own_numbers`); where they fail, the paper contradicts itself in words given."""
    finding = own_finding(name)
    if finding is None:
        assert unprinted(name), f"{name}: say why the paper's numbers cannot be tested"
        assert not contradiction(name)
        return
    assert not unprinted(name)
    wanted = FAILS if contradiction(name) else HOLDS
    assert finding.verdict == wanted, finding.number


def test_the_contradictions_are_named() -> None:
    assert {name for name in CLAIMS if contradiction(name)} == {"claim-15", "claim-51"}
    assert {name for name in CLAIMS if unprinted(name)} == {
        f"claim-{number}" for number in range(23, 29)
    }


def test_the_papers_numbers_are_those_of_its_tables() -> None:
    (flickr,) = own_numbers("claim-17").values()
    ranks = {
        row["training.trainable"]: row["min_rank"]
        for row in flickr.rows
        if row["model"] == "poisoned"
    }
    assert ranks == {"both": 2.192, "image": 3.016, "text": 3.472}
    (coco,) = own_numbers("claim-12").values()
    assert {row["model"]: row["min_rank"] for row in coco.rows} == {
        "clean_model": 153.852,
        "poisoned": 12.688,
    }


# -- the arithmetic, against SciPy ------------------------------------------------------------------------

VALUES = st.lists(st.integers(-50, 50).map(lambda n: n / 100), min_size=2, max_size=8)


def of(values: list[float]) -> Measured:
    return Measured.of(dict(enumerate(values)), ())


@given(VALUES, st.data())
def test_a_direction_is_the_paired_t_test(values: list[float], data: st.DataObject) -> None:
    others = data.draw(
        st.lists(st.sampled_from(values), min_size=len(values), max_size=len(values))
    )
    changed = change(of(values), of(others))
    said = is_larger(changed)
    assert said == {HOLDS: FAILS, FAILS: HOLDS, UNDECIDED: UNDECIDED}[is_smaller(changed)]
    differences = np.array(others) - values
    if np.ptp(differences) < 1e-9:
        assert said == UNDECIDED
        return
    p = float(stats.ttest_rel(others, values).pvalue)
    if abs(p - 0.05) > 1e-6:
        wanted = UNDECIDED if p > 0.05 else HOLDS if differences.mean() > 0 else FAILS
        assert said == wanted


@given(VALUES, st.floats(0.01, 0.4))
def test_no_difference_is_two_one_sided_tests(values: list[float], margin: float) -> None:
    said = is_within(interval(of(values)), margin)
    if np.ptp(values) < 1e-9:
        return
    below, above = (
        float(stats.ttest_1samp(values, limit, alternative=way).pvalue)
        for limit, way in ((margin, "less"), (-margin, "greater"))
    )
    worst = max(below, above)
    if abs(worst - 0.025) > 1e-6:
        assert (said == HOLDS) == (worst < 0.025)


@given(VALUES, st.floats(-0.5, 0.5))
def test_a_limit_is_asked_from_both_sides(values: list[float], limit: float) -> None:
    ends = interval(of(values))
    assert ends is not None
    low, high = ends
    assert (is_at_least(ends, limit) == HOLDS) == (low >= limit)
    assert (is_at_most(ends, limit) == HOLDS) == (high <= limit)
    assert {is_at_least(ends, limit), is_at_most(ends, limit)} != {FAILS}


@given(st.lists(st.sampled_from([HOLDS, FAILS, UNDECIDED]), min_size=1, max_size=7))
def test_undecided_parts_could_be_either(parts: list[Verdict]) -> None:
    """An undecided part is whatever it turns out to be: a combination is decided only if both ways give the same."""
    for combine in (every, most):
        certain = {
            combine([way if part == UNDECIDED else part for part in parts])
            for way in (HOLDS, FAILS)
        }
        assert combine(parts) == (certain.pop() if len(certain) == 1 else UNDECIDED)


# -- what a rule needs --------------------------------------------------------------------------------------


def test_drift_without_a_second_clean_model_is_not_tested() -> None:
    found = CASES["claim-50"][HOLDS]
    bare = found.only({k: v for k, v in row.items() if "order" not in k} for row in found.rows)
    for name in ("claim-15", "claim-50"):
        finding = CLAIMS[name].test(bare)
        assert finding is not None
        assert finding.verdict == UNTESTED
        assert "order-drift" in finding.number


def test_raw_drift_does_not_decide() -> None:
    """Texts drift more, but they do so without poison too: what is left is that images do."""
    found = CASES["claim-15"][HOLDS]
    text, image = (found.measured(f"drift.{kind}").mean for kind in ("text", "image"))
    assert text is not None
    assert image is not None
    assert text > image
    assert verdict("claim-15", found) == HOLDS


def test_an_attack_that_did_not_take_has_nothing_to_repair() -> None:
    weak = CASES["claim-40"][HOLDS]
    weak = weak.only({**row, "hit@10": row["hit@10"] / 10} for row in weak.rows)
    finding = CLAIMS["claim-40"].test(weak)
    assert finding is not None
    assert finding.verdict == UNTESTED
    assert "did not take" in finding.number


def test_two_sizes_of_one_model_are_no_three_encoders() -> None:
    three = CASES["claim-25"][HOLDS]
    two = three.only(row for row in three.rows if row["model.name"] != "clip-vit-l14")
    finding = CLAIMS["claim-25"].test(two)
    assert finding is not None
    assert (finding.verdict, "needs 3 image encoders" in finding.number) == (UNTESTED, True)


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


def test_runs_of_a_sweep_do_not_blur_the_reference() -> None:
    usual = rows({"hit@5": about(0.9, 0.02)}, attack="image")
    few = rows({"hit@5": [0.0]}, attack="image", **{"attack.rate": 0.0001})
    finding = CLAIMS["claim-01"].test(results(usual, few))
    assert finding is not None
    assert finding.verdict == HOLDS
    assert finding.rows == tuple(usual)


@pytest.mark.parametrize(("share", "wanted"), [(0.85, UNTESTED), (0.02, HOLDS)])
def test_captions_that_are_cut_are_not_longer(share: float, wanted: Verdict) -> None:
    found = CASES["claim-55"][HOLDS]
    cut = found.only({**row, "full_context": share if row["x"] == 3 else 0.0} for row in found.rows)
    finding = CLAIMS["claim-55"].test(cut)
    assert finding is not None
    assert finding.verdict == wanted
    assert wanted == HOLDS or "85% of the captions" in finding.number


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


# -- the data that a claim names ------------------------------------------------------------------------


def on(found: Results, data: str, model: str = "clip-vit-b32") -> Results:
    rows = tuple({**row, "data.name": data, "model.name": model} for row in found.rows)
    return replace(found, rows=rows)


def test_a_claim_is_bound_to_its_data() -> None:
    claim, holds = CLAIMS["claim-11"], CASES["claim-11"][HOLDS]
    named = answer(claim, on(holds, "coco-paper"))
    assert (named.finding.verdict, named.twins) == (HOLDS, {})
    twin = answer(claim, on(holds, "openmoji", "openmoji-small"))
    assert twin.finding.verdict == UNTESTED
    assert "on COCO, with CLIP" in twin.finding.number
    assert {data: one.verdict for data, one in twin.twins.items()} == {"openmoji": HOLDS}
    # another data set of the paper is not the one that is named, nor another model on the one that is
    assert answer(claim, on(holds, "flickr-pascal")).finding.verdict == UNTESTED
    other = answer(claim, on(holds, "coco-paper", "openmoji-small"))
    assert other.finding.verdict == UNTESTED
    assert list(other.twins) == ["COCO, openmoji-small"]


def test_a_claim_on_two_data_sets_needs_both() -> None:
    claim, cases = CLAIMS["claim-19"], CASES["claim-19"]

    def of_both(first: Verdict, second: Verdict) -> Verdict:
        parts = on(cases[first], "flickr-pascal"), on(cases[second], "coco-paper")
        merged = {**parts[0].parameters, **parts[1].parameters}
        return answer(claim, Results(parts[0].rows + parts[1].rows, merged)).finding.verdict

    assert of_both(HOLDS, HOLDS) == HOLDS
    assert of_both(HOLDS, FAILS) == FAILS
    assert answer(claim, on(cases[HOLDS], "flickr-pascal")).finding.verdict == UNTESTED
    assert answer(claim, on(cases[FAILS], "flickr-pascal")).finding.verdict == FAILS


def test_parts_of_coco_are_compared_and_are_nothing_else() -> None:
    assert answer(CLAIMS["claim-26"], CASES["claim-26"][HOLDS]).finding.verdict == HOLDS
    only_parts = on(CASES["claim-11"][HOLDS], "coco-m")
    assert answer(CLAIMS["claim-11"], only_parts).finding.verdict == UNTESTED


def test_invalid_tests_are_marked() -> None:
    person = answer(CLAIMS["claim-28"], on(CASES["claim-28"][HOLDS], "openmoji", "openmoji-small"))
    assert person.twins["openmoji"].verdict == UNTESTED
    own = answer(CLAIMS["claim-28"], CASES["claim-28"][HOLDS])
    assert own.finding.verdict == HOLDS


def test_what_excludes_or_contains_another_is_counted_once() -> None:
    found = answers(Results((), {}))
    not_counted = {one.claim.id for one in found if not one.counted}
    assert not_counted == {"claim-09", "claim-15", "claim-44"}
    assert counted(found) == {HOLDS: 0, FAILS: 0, UNDECIDED: 0, UNTESTED: 30}


def test_drift_has_one_winner() -> None:
    for found in CASES["claim-15"].values():
        one, other = verdict("claim-15", found), verdict("claim-50", found)
        assert (one, other) in ((HOLDS, FAILS), (FAILS, HOLDS), (UNDECIDED, UNDECIDED))


# -- the page ---------------------------------------------------------------------------------------------


def test_every_claim_has_a_verdict(every_run: Path, tmp_path: Path) -> None:
    page = claims_page(Results.read([every_run]))
    verdicts, compared, settings = page.tables
    claims = [row[2] for row in (*verdicts.rows, *settings.rows)]
    assert all(any(str(one["claim"]) in str(c) for c in claims) for one in paper()["claims"])
    assert len(claims) == len(IDS)
    for row in verdicts.rows:
        assert str(row[3]).startswith("not counted") or row[3] in set(Verdict)
    assert {row[2] for row in compared.rows} == {"openmoji"}
    linked = [row[4] for row in compared.rows if row[3] != UNTESTED]
    assert linked
    for cell in linked:
        assert isinstance(cell, Link)
        assert cell.address.startswith("#claims-source-")
    done = CliRunner().invoke(
        app, ["report", str(every_run), "--claims", "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    content = json.loads((tmp_path / "out/claims.json").read_text())
    assert content["tables"][0]["rows"]
    assert "Of 30 claims that count" in (tmp_path / "out/claims.md").read_text()


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


def test_noise_has_no_mean() -> None:
    assert sum(NOISE) == pytest.approx(0)
    assert sum(OTHER_NOISE) == pytest.approx(0)
