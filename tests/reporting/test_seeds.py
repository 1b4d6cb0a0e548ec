"""Runs that differ only in their seed become one block, with means and deviations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from tests.reporting.conftest import shown_lines

from mmpoison.errors import InputError
from mmpoison.reporting.seeds import metrics_tables, seed_tables
from mmpoison.reporting.table import markdown
from mmpoison.reporting.terminal_tables import first_tables, terminal


def as_json(runs: list[Path]) -> list[dict[str, Any]]:
    return [table.to_json() for table in seed_tables(runs)]


HITS = {0: 0.2, 1: 0.5, 2: 0.7}


def write_run(folder: Path, seed: int, mode: str = "add") -> Path:
    """A run folder with a poisoned model whose Hit@10 depends on the seed."""
    row = {"hit@1": 0.0, "hit@5": 0.1, "hit@10": HITS.get(seed, 0.7), "min_rank": 10.0 * seed}
    utility = {"image_retrieval": {"hit@10": 0.9}, "text_retrieval": {"hit@10": 0.8}}
    metrics: dict[str, Any] = {
        "goal": {"sheep2aeroplane": {"poisoned": row}},
        "utility": {"poisoned": utility},
        "run": {"recipe": "small", "seed": seed, "mode": mode, "poisoned_pairs": 125},
    }
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_mean_and_deviation_over_seeds(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(seed), seed) for seed in HITS]
    text = markdown(seed_tables(runs))
    hits = list(HITS.values())
    mean, sd = np.mean(hits), np.std(hits, ddof=1)
    half = stats.t.ppf(0.975, 2) * sd / 3**0.5
    assert f"| 3 | {0:.3f} ± 0.000" in text
    # an interval ends where the number ends: a share at 0 and 1, a rank at 0
    assert mean - half < 0
    assert mean + half > 1
    assert f"| {mean:.3f} ± {sd:.3f} [0.000, 1.000] |" in text
    assert "| 10.00 ± 10.00 [0.00, 34.84] |" in text
    assert "seeds 0, 1, 2" in text
    assert "125 poisoned pairs" in text
    # a model that no run measured has no row
    assert "Filtered" not in text


def test_a_folder_without_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metrics\.json"):
        terminal(first_tables(seed_tables([tmp_path])))


# -- what else is in the tables --------------------------------------------------------------------


def test_settings_are_kept_apart(tmp_path: Path) -> None:
    runs = []
    for name, change in (
        ("both", {"trainable": "both"}),
        ("image", {"trainable": "image"}),
        ("five", {"trainable": "both", "attack_options": {"samples": 5}}),
        ("one", {"trainable": "both", "attack": "single-target-image"}),
    ):
        runs.append(change_run(write_run(tmp_path / name, 0), run=change))
    side_by_side, *tables = as_json(runs)
    assert len(side_by_side["rows"]) == 4
    assert len(tables) == 4
    titles = " ".join(table["title"] for table in tables)
    assert "trained: image" in titles
    assert "single-target-image" in titles


def change_run(folder: Path, **sections: dict[str, Any]) -> Path:
    """Put more into a run's metrics."""
    file = folder / "metrics.json"
    metrics = json.loads(file.read_text())
    for name, value in sections.items():
        metrics[name] = {**metrics.get(name, {}), **value}
    file.write_text(json.dumps(metrics))
    return folder


def test_drift_and_which_kind_moved_more(tmp_path: Path) -> None:
    drift = {0: (0.09, 0.05), 1: (0.08, 0.05), 2: (0.10, 0.06), 3: (0.09, 0.05)}
    for seed, (text, image) in drift.items():
        change_run(write_run(tmp_path / str(seed), seed), drift={"text": text, "image": image})
    few, table = (
        next(t for t in as_json(runs) if "drift" in t["title"])
        for runs in ([tmp_path / "0", tmp_path / "1", tmp_path / "2"], [tmp_path])
    )
    assert "Too few seeds to say which moved more (n = 3" in few["note"]
    assert [row["Embeddings of"] for row in table["rows"]] == ["texts", "images"]
    assert table["rows"][0]["drift"]["mean"] == pytest.approx(0.09)
    expected = stats.ttest_rel([0.09, 0.08, 0.10, 0.09], [0.05, 0.05, 0.06, 0.05]).pvalue
    assert (
        f"The texts moved more: difference 0.0375, paired t-test, two-tailed, p = {expected:.2g}"
        in (table["note"])
    )
    assert "n = 4" in table["note"]


def test_study_tables(tmp_path: Path) -> None:
    row = {"hit@1": 0.1, "hit@5": 0.2, "hit@10": 0.3, "min_rank": 7.0}
    change = {"clean_model": 3.0, "poisoned": 1.0, "change": -2.0}
    goal = "sheep2aeroplane"
    for seed in HITS:
        change_run(
            write_run(tmp_path / str(seed), seed),
            study={
                "queries": {goal: {"poisoned": {"test": row, "misused": row}}},
                "query_length": {
                    goal: {"poisoned": {"2": {**row, "words": 18.0, "full_context": 0.5}}}
                },
                "collateral": {goal: {"sofa": {"own": change, "target": change}}},
                "distribution": {"poisoned": {"text_silhouette": 0.1, "image_silhouette": 0.3}},
            },
            transfer={"elsewhere": {"goal": {"sofa2bird": {"poisoned": row}}}},
        )
    text = markdown(seed_tables([tmp_path]))
    for said in (
        "| Poisoned, captions of the poison | 3 |",
        "| Poisoned, 2x | 3 |",
        "| sofa | 3 |",
        "-2.00 ± 0.00",
        "silhouette by class",
        "tested on elsewhere: sofa2bird",
    ):
        assert said in text, said
    shown_lines(terminal(first_tables(seed_tables([tmp_path]))))


def test_equal_texts_have_a_table_of_their_own(tmp_path: Path) -> None:
    part = {"image_retrieval": {"hit@10": 0.7}, "text_retrieval": {"hit@10": 0.6}}
    folder = change_run(write_run(tmp_path / "0", 0), utility_equal_texts={"poisoned": part})
    tables = metrics_tables(json.loads((folder / "metrics.json").read_text()))
    assert [table.of_models for table in tables] == [True, False]
    assert "an equal caption of another image counts as right" in tables[1].title
    # the note names what it is about: the table above it may be any other
    assert "above" not in tables[1].note
    assert tables[1].note.startswith("Utility in the other tables counts only")


def test_utility_and_drift_of_a_run_are_shown_once_for_all_its_goals(tmp_path: Path) -> None:
    part = {"image_retrieval": {"hit@10": 0.7}, "text_retrieval": {"hit@10": 0.6}}
    folder = change_run(
        write_run(tmp_path / "0", 0),
        utility_equal_texts={"poisoned": part},
        drift={"text": 0.1, "image": 0.2},
        goal={"sofa2bird": {"poisoned": {"hit@10": 0.5}}},
    )
    titles = [table["title"] for table in as_json([folder])]
    shared = "sheep2aeroplane, sofa2bird"
    assert sum("drift" in title for title in titles) == 1
    assert f"{shared}: drift" in titles
    assert sum(title.startswith(f"{shared}: utility where") for title in titles) == 1
    assert sum("seeds 0" in title for title in titles) == 2


def test_text_from_outside_is_harmless(tmp_path: Path) -> None:
    evil = "\x1b[31mred | [bold]x"
    folder = change_run(write_run(tmp_path / "0", 0), run={"recipe": evil})
    text = markdown(seed_tables([folder]))
    assert "\x1b" not in text
    shown = "\n".join(shown_lines(terminal(first_tables(seed_tables([folder])))))
    assert "\x1b" not in shown
    assert "[bold]x" in shown
