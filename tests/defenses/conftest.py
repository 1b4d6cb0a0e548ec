"""A poisoned set, in memory and as a folder, and a judge; losses a number at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmpoison.attacks import SingleTargetLabel
from mmpoison.datasets import PairDataset, save_pairs
from mmpoison.defenses import ReadPairs
from mmpoison.defenses.scan.read.pass_runner import read_memory
from mmpoison.defenses.scan.read.vectors import memory_shard
from mmpoison.models import DualEncoder, PixelInputs, prepare_pixels


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


@pytest.fixture(scope="session")
def train(poisoned: PairDataset) -> PairDataset:
    return poisoned.select(split="train")


@pytest.fixture(scope="session")
def inputs(judge: DualEncoder, poisoned: PairDataset) -> PixelInputs:
    return prepare_pixels(judge, poisoned)


@pytest.fixture(scope="session")
def read(judge: DualEncoder, inputs: PixelInputs, train: PairDataset) -> ReadPairs:
    """The training pairs as a filter reads them."""
    return read_memory(memory_shard(judge, inputs, train, True))


def unit(seed: int, count: int = 6) -> Tensor:
    """Random rows of length one."""
    return F.normalize(torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)), dim=1)


def slow_cross_entropy(queries: Tensor, found: Tensor, scale: float) -> float:
    """Mean of -log softmax of the true partner, row by row."""
    total = 0.0
    for number, query in enumerate(queries):
        logits = [scale * float(query @ other) for other in found]
        total += math.log(sum(map(math.exp, logits))) - logits[number]
    return total / len(queries)


def slow_contrast(one: Tensor, other: Tensor, scale: float) -> float:
    """The mean over both directions."""
    there, back = slow_cross_entropy(one, other, scale), slow_cross_entropy(other, one, scale)
    return (there + back) / 2
