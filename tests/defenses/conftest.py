"""A poisoned set, in memory and as a folder, and a judge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mmpoison.attacks import SingleTargetLabel
from mmpoison.datasets import PairDataset, save_pairs
from mmpoison.models import DualEncoder


@pytest.fixture(scope="session")
def poisoned(squares: PairDataset) -> PairDataset:
    """Attack II with 13 poisoned pairs."""
    return SingleTargetLabel("sheep2aeroplane", pairs=13).poison(squares, seed=1)


@pytest.fixture(scope="session")
def folder(poisoned: PairDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pairs(poisoned, tmp_path_factory.mktemp("poisoned") / "pairs")


@pytest.fixture(scope="session")
def judge(make_encoder: Callable[..., DualEncoder]) -> DualEncoder:
    return make_encoder(7)
