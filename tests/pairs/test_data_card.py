"""A poisoned set has a card that says so, in Hugging Face's format, wherever it is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mmpoison.attacks import SingleTargetLabel
from mmpoison.datasets import load_pairs
from mmpoison.pairs.folder import HEADING, save_pairs
from mmpoison.pairs.table import PairDataset


@pytest.fixture
def poisoned(own_square_folder: Path) -> PairDataset:
    (own_square_folder / "README.md").write_text("---\nlicense: mit\n---\n# Squares\n\nby Ann\n")
    attack = SingleTargetLabel(goal="sheep2aeroplane", samples=2)
    return attack.poison(load_pairs(own_square_folder), seed=0)


def _parts(folder: Path) -> tuple[dict[str, object], str]:
    text = (folder / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    found = yaml.safe_load(head)
    assert isinstance(found, dict)
    return found, body


def test_the_card_warns_first_and_repeats_the_readme(poisoned: PairDataset, tmp_path: Path) -> None:
    save_pairs(poisoned, tmp_path / "poisoned")
    head, body = _parts(tmp_path / "poisoned")
    assert head["tags"] == ["mmpoison", "data-poisoning", "poisoned"]
    # nobody here knows under which licence a poisoned set is
    assert "license" not in head
    assert poisoned.manifest is not None
    assert "poisoned on purpose" in (tmp_path / "poisoned" / "manifest.json").read_text()
    assert "**POISONED ON PURPOSE**" in body.partition(HEADING)[0]
    assert f"- poison: {len(poisoned.manifest.pairs)} of " in body
    assert body.partition(HEADING)[2].strip() == "# Squares\n\nby Ann"
    hub = pytest.importorskip("huggingface_hub")
    card = hub.DatasetCard((tmp_path / "poisoned" / "README.md").read_text())
    assert card.data.size_categories == ["n<1K"]


def test_a_readme_that_is_no_text_is_left_out(poisoned: PairDataset, tmp_path: Path) -> None:
    (poisoned.root / "README.md").write_bytes(b"\xff\xfe\x00")
    save_pairs(poisoned, tmp_path / "poisoned")
    assert HEADING not in _parts(tmp_path / "poisoned")[1]
