"""The bar of an embedding ends where the work ends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mmpoison.datasets import PairDataset
from mmpoison.evaluation import TestEmbeddings, TestSet
from mmpoison.models import DualEncoder
from mmpoison.models.inputs import prepare_pixels


def test_equal_captions_are_counted_once(squares: PairDataset, encoder: DualEncoder) -> None:
    test = TestSet.of(squares)
    captions = np.asarray(test.pairs.captions, dtype=object).copy()
    captions[:30] = captions[0]
    test = replace(test, pairs=replace(test.pairs, captions=captions))
    seen: list[tuple[int, int]] = []
    inputs = prepare_pixels(encoder, test.pairs, images=test.gallery)
    TestEmbeddings.of(encoder, inputs, test, lambda done, total: seen.append((done, total)))
    total = len(test.gallery) + len(set(captions))
    assert total == len(test.gallery) + len(captions) - 29
    assert seen[-1] == (total, total)
    assert {each for _, each in seen} == {total}
