"""Runs that differ only in their seed become one block, with means and deviations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mmpoison.errors import InputError
from mmpoison.reporting import summary_markdown, summary_table

HITS = {0: 0.2, 1: 0.5, 2: 0.7}


def write_run(folder: Path, seed: int, mode: str = "add") -> Path:
    """A run folder with a poisoned model whose Hit@10 depends on the seed."""
    row = {"hit@1": 0.0, "hit@5": 0.1, "hit@10": HITS[seed], "min_rank": 10.0 * seed}
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
    text = summary_markdown(runs)
    hits = list(HITS.values())
    assert f"| {np.mean(hits):.3f} ± {np.std(hits, ddof=1):.3f} |" in text
    assert "| 10.00 ± 10.00 |" in text
    assert "seeds 0, 1, 2" in text
    assert "125 poisoned pairs" in text
    # a model that no run measured has no row
    assert "Filtered" not in text


def test_modes_are_kept_apart(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / mode, 0, mode) for mode in ("add", "replace")]
    text = summary_markdown(runs)
    assert text.index("mode add") < text.index("mode replace")
    assert "±" not in text  # one seed has no deviation


def test_a_seed_given_twice_is_refused(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, 1) for name in ("a", "b")]
    with pytest.raises(
        InputError, match=r"b: seed 1 of small, sheep2aeroplane, add was given twice"
    ):
        summary_markdown(runs)


def test_a_folder_without_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metrics\.json"):
        summary_table([tmp_path])


def test_the_terminal_table_fits_into_80_columns(tmp_path: Path) -> None:
    console = Console(width=80, record=True, file=None, force_terminal=False)
    console.print(summary_table([write_run(tmp_path / str(seed), seed) for seed in HITS]))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    assert any("± 0.252" in line for line in lines)
