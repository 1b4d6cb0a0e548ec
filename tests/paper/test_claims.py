"""The paper's claims against made-up runs: every predicate is asked, and both verdicts can come out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmpoison.cli.app import app
from mmpoison.paper import CLAIMS, Results, claims_page, render_paper
from mmpoison.paper.paper_values import paper
from mmpoison.reporting.table import Link

MakeRun = Callable[..., Path]
IDS = [one["id"] for one in paper()["claims"]]


def verdict(name: str, *runs: Path) -> bool | None:
    finding = CLAIMS[name].test(Results.read(list(runs)))
    if finding is None:
        return None
    assert finding.number
    assert finding.rows
    return finding.holds


def test_predicates_are_of_the_papers_claims() -> None:
    assert len(IDS) == len(set(IDS)) == 55
    assert set(CLAIMS) <= set(IDS)
    assert len(CLAIMS) >= 28


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_each_gives_a_finding_or_says_what_it_needs(name: str, every_run: Path) -> None:
    claim = CLAIMS[name]
    assert claim.rule
    assert claim.needs
    finding = claim.test(Results.read([every_run]))
    assert finding is None or (finding.number and finding.rows)
    assert claim.test(Results((), {})) is None


def test_every_claim_has_a_verdict(every_run: Path, tmp_path: Path) -> None:
    tested, others = claims_page(Results.read([every_run])).tables
    claims = [row[1] for row in (*tested.rows, *others.rows)]
    assert all(any(str(one["claim"]) in str(c) for c in claims) for one in paper()["claims"])
    for row in tested.rows:
        assert row[3] in ("holds", "does not hold")
        assert isinstance(row[4], Link)
        assert row[4].address.startswith("#claims-source-")
    assert any(
        row[2] == "a setting or a fact of the paper's data, not a result" for row in others.rows
    )
    done = CliRunner().invoke(
        app, ["report", str(every_run), "--claims", "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    content = json.loads((tmp_path / "out/claims.json").read_text())
    assert sum(row["verdict"] == "holds" for row in content["tables"][0]["rows"]) > 5


def test_the_number_of_attack_1(make_run: MakeRun) -> None:
    strong = make_run("strong", attack="single-target-image", hit=1.0)  # Hit@5 0.8
    assert verdict("claim-01", strong) is False
    assert verdict("claim-12", strong) is True
    assert verdict("claim-01", make_run("label")) is None


def test_which_moves_more(make_run: MakeRun) -> None:
    runs = [make_run(f"t{seed}", seed=seed) for seed in range(3)]
    assert verdict("claim-15", *runs) is False
    more = make_run("image", seed=9, metrics={"drift": {"text": 0.1, "image": 0.2}})
    assert verdict("claim-15", more) is True
    # all differences alike: no spread to test against
    assert verdict("claim-50", *runs) is None
    drifts = [(0.10, 0.07), (0.11, 0.085), (0.12, 0.09)]
    several = [
        make_run(f"s{seed}", seed=seed, metrics={"drift": {"text": t, "image": i}})
        for seed, (t, i) in enumerate(drifts)
    ]
    assert verdict("claim-50", *several) is True


def test_more_poison_more_attack(make_run: MakeRun) -> None:
    def at(rate: float, hit: float, name: str) -> Path:
        attack = {"name": "single-target-label", "goal": "sheep2aeroplane", "rate": rate}
        return make_run(name, hit=hit, settings={"attack": attack}, run={"poisoning_rate": rate})

    rising = [at(0.0004 * n, 0.2 * n, f"up{n}") for n in (1, 2, 3, 4)]
    assert verdict("claim-23", *rising) is True
    assert verdict("claim-22", *rising) is False
    falling = [at(0.0004 * n, 1 - 0.2 * n, f"down{n}") for n in (1, 2, 3, 4)]
    assert verdict("claim-23", *falling) is False
    assert verdict("claim-23", *rising[:2]) is None


def test_runs_of_a_sweep_do_not_blur_the_reference(make_run: MakeRun) -> None:
    runs = [
        make_run(f"ref{seed}", seed=seed, attack="single-target-image", hit=1.0) for seed in (0, 1)
    ]
    few = {"name": "single-target-image", "goal": "sheep2aeroplane", "samples": 1}
    runs.append(make_run("few", attack="single-target-image", hit=0.0, settings={"attack": few}))
    finding = CLAIMS["claim-01"].test(Results.read(runs))
    assert finding is not None
    assert {Path(str(row["run"])).name for row in finding.rows} == {"ref0", "ref1"}


def test_a_repair_that_leaves_the_poison_fails(make_run: MakeRun) -> None:
    def repaired(name: str, left: float) -> Path:
        row = {"hit@1": 0.0, "hit@5": 0.0, "hit@10": left, "min_rank": 3.0}
        probes: list[dict[str, Any]] = [
            {
                "step": step,
                "epoch": epoch,
                "utility": {},
                "test": {"goal": {"sheep2aeroplane": one}},
            }
            for step, epoch, one in ((0, 0, {**row, "hit@10": 0.9}), (50, 0, row), (100, 1, row))
        ]
        run = make_run(name)
        curve = {"branches": [{"learning_rate": 1e-5, "looks": probes}]}
        (run / "sterilize-curve.json").write_text(json.dumps(curve))
        return run

    gone, left = repaired("gone", 0.02), repaired("left", 0.5)
    assert (verdict("claim-37", gone), verdict("claim-37", left)) == (True, False)
    assert (verdict("claim-40", gone), verdict("claim-40", left)) == (True, False)


def test_a_model_that_was_not_trained_was_not_attacked(make_run: MakeRun) -> None:
    trained = make_run("trained", settings={"model": {"name": "small"}})
    other = make_run("other", settings={"model": {"name": "mini"}})
    untouched = {"model": {"name": "mini"}, "training": {"epochs": 0, "trainable": "both"}}
    assert verdict("claim-25", trained, make_run("untouched", settings=untouched)) is None
    assert verdict("claim-25", trained, other) is True


def test_goals_count_whatever_was_trained(make_run: MakeRun) -> None:
    classes = ["bird", "boat", "cat", "cow", "dog", "horse"]
    goals = [f"{a}2{b}" for a in classes for b in classes if a != b]
    settings = {"training": {"epochs": 4, "trainable": "text-head"}}
    runs = [make_run(f"goals/{goal}", goals=(goal,), settings=settings) for goal in goals]
    assert verdict("claim-27", *runs) is not None
    page = render_paper("figure-5b", Results.read(runs))
    assert f"{len(goals)} goals" in page.notes[0]


def test_a_direction_comes_with_the_p_of_a_paired_test(make_run: MakeRun) -> None:
    runs = []
    for seed, (clean, poisoned) in enumerate([(0.90, 0.93), (0.91, 0.90), (0.92, 0.93)]):
        rows = {
            name: {f"{way}_retrieval": {"hit@10": value} for way in ("image", "text")}
            for name, value in (("clean_model", clean), ("poisoned", poisoned))
        }
        runs.append(make_run(f"s{seed}", seed=seed, metrics={"utility": rows}))
    finding = CLAIMS["claim-11"].test(Results.read(runs))
    assert finding is not None
    assert finding.holds
    # paired differences 0.03, -0.01, 0.01: t = 0.01 / (0.02 / sqrt(3)), two degrees of freedom
    assert finding.number.endswith(", p = 0.48 (n = 3)")
    one = CLAIMS["claim-11"].test(Results.read(runs[:1]))
    assert one is not None
    assert "p =" not in one.number


@pytest.mark.parametrize(
    ("filtered", "holds"),
    [((0.0, 0.01, 0.0), True), ((0.02, 0.01, 0.04), True), ((0.3,) * 3, False)],
)
def test_the_filtered_model_is_held_against_the_clean_one(
    make_run: MakeRun, filtered: tuple[float, ...], holds: bool
) -> None:
    runs = []
    for seed, hit in enumerate(filtered):
        rows = {
            "clean_model": {"hit@10": 0.01, "min_rank": 50.0},
            "poisoned": {"hit@10": 0.9, "min_rank": 3.0},
            "filtered": {"hit@10": hit + seed / 1000, "min_rank": 40.0},
        }
        goal = {"goal": {"sheep2aeroplane": rows}}
        settings = {"filter": {"encoder": "openmoji-mini"}}
        runs.append(make_run(f"s{seed}", seed=seed, metrics=goal, settings=settings))
    assert verdict("claim-34", *runs) is holds
