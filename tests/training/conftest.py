"""The training pairs of the coloured squares, and their inputs for the small encoders."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mmpoison.datasets import PairDataset
from mmpoison.models import DualEncoder, PixelInputs, prepare_pixels


@pytest.fixture(scope="module")
def train(squares: PairDataset) -> PairDataset:
    return squares.select(split="train")


@pytest.fixture(scope="module")
def inputs(make_encoder: Callable[..., DualEncoder], squares: PairDataset) -> PixelInputs:
    return prepare_pixels(make_encoder(), squares)
