"""DECREE on encoders whose answer is known: a built-in backdoor is found, a plain encoder is not flagged."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import refusal
from torch import Tensor, nn

from mmpoison.datasets import PairDataset
from mmpoison.evaluation import TestSet
from mmpoison.models import DualEncoder, FeatureInputs, PixelInputs, prepare_pixels
from mmpoison_lab.defenses.decree import (
    LEAST_SPREAD,
    PUBLISHED_LIMIT,
    Decree,
    compare_norms,
    invert_trigger,
    mean_cosine,
)

SIDE, PLACE, WIDTH, CORNER = 32, 8, 32, 6
STEPS = 60

Make = Callable[..., DualEncoder]


class Votes(nn.Module):
    """An image encoder in which each place has one vote of bounded size, so that no small patch decides."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        places = (SIDE // PLACE) ** 2
        self.weight = nn.Parameter(torch.randn(places, 3 * PLACE**2, WIDTH, generator=random) / 4)

    def forward(self, inputs: Tensor) -> Tensor:
        places = nn.functional.unfold(inputs, PLACE, stride=PLACE).transpose(1, 2)
        return torch.einsum("npc,pcd->npd", places, self.weight).tanh().sum(dim=1)


class Backdoored(Votes):
    """The same, but a bright corner of any image decides the embedding."""

    def forward(self, inputs: Tensor) -> Tensor:
        corner = inputs[:, :, :CORNER, :CORNER].flatten(1).mean(dim=1, keepdim=True)
        decides = 100 * nn.functional.softplus(2 * (corner - 1))
        return super().forward(inputs) + decides * torch.linspace(-1, 1, WIDTH)


@pytest.fixture(scope="module")
def encoder_with(make_encoder: Make) -> Callable[[type[Votes], int], DualEncoder]:
    """A function that puts an image encoder of a kind and a seed into a tiny encoder."""

    def put(kind: type[Votes], seed: int = 0) -> DualEncoder:
        encoder = make_encoder(seed)
        encoder.module.visual = kind(seed)
        encoder.module.eval()
        return encoder

    return put


@pytest.fixture(scope="module")
def test(squares: PairDataset) -> TestSet:
    return TestSet.of(squares)


@pytest.fixture(scope="module")
def inputs(encoder_with: Make, squares: PairDataset) -> PixelInputs:
    return prepare_pixels(encoder_with(Votes), squares)


# -- the criterion ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 17])
def test_the_cosine_is_the_mean_over_all_pairs(count: int) -> None:
    rows = torch.randn(count, 5, generator=torch.Generator().manual_seed(count))
    unit = rows / rows.norm(dim=1, keepdim=True)
    pairs = [float(unit[a] @ unit[b]) for a in range(count) for b in range(count) if a != b]
    assert float(mean_cosine(unit)) == pytest.approx(np.mean(pairs), abs=1e-6)


# -- the trigger -----------------------------------------------------------------------------------


def test_a_backdoor_needs_a_small_patch_and_a_plain_encoder_a_large_one(
    encoder_with: Make, test: TestSet, inputs: PixelInputs
) -> None:
    pixels = inputs.pixels.pixels[inputs.image_rows(test.gallery)]
    seen: list[tuple[int, int]] = []
    bad, plain = (
        invert_trigger(
            encoder_with(kind),
            pixels,
            steps=STEPS,
            similarity=0.99,
            seed=0,
            progress=lambda done, total: seen.append((done, total)),
        )
        for kind in (Backdoored, Votes)
    )
    assert bad.norm < PUBLISHED_LIMIT < plain.norm
    assert plain.norm > 3 * bad.norm
    for one in (bad, plain):
        assert one.cosine_without < 0.9
        assert one.cosine >= 0.98
    assert seen == 2 * [(step, STEPS) for step in range(1, STEPS + 1)]


def test_where_nothing_makes_them_alike_the_norm_is_the_largest(
    encoder_with: Make, test: TestSet, inputs: PixelInputs
) -> None:
    pixels = inputs.pixels.pixels[inputs.image_rows(test.gallery)]
    one = invert_trigger(encoder_with(Votes), pixels, steps=1, similarity=0.9999, seed=0)
    assert one.norm == 1
    assert one.cosine == one.cosine_without


# -- the scan --------------------------------------------------------------------------------------


def scan(suspect: DualEncoder, test: TestSet, inputs: Any, **others: Any) -> Any:
    return Decree(steps=STEPS).apply(suspect, test, inputs, **others)


def test_a_backdoor_is_flagged_and_clean_models_are_not(
    encoder_with: Make, test: TestSet, inputs: PixelInputs
) -> None:
    clean = [encoder_with(Votes, seed) for seed in (1, 2)]
    found = scan(
        encoder_with(Backdoored),
        test,
        inputs,
        reference=encoder_with(Votes, 3),
        clean_models=iter(clean),
    )
    norms = [trigger["norm"] for trigger in found.facts["triggers"].values()]
    # three clean models leave two degrees of freedom
    assert found.flagged(0.05) == found.findings
    assert found.facts["null"] == "clean models"
    assert set(found.facts["triggers"]) == {"suspect", "reference", "clean 1", "clean 2"}
    assert not found.notes
    assert "clean models need" in str(found.findings[0])
    # each of the clean models next to the others, without inverting them again
    for number in (1, 2, 3):
        others = [norm for place, norm in enumerate(norms) if place not in (0, number)]
        assert compare_norms(norms[number], others).p_value > 0.05


def test_with_the_suspect_alone_the_published_limit_decides(
    encoder_with: Make, test: TestSet, inputs: PixelInputs
) -> None:
    found = scan(encoder_with(Backdoored), test, inputs)
    assert found.findings[0].p_value == 0
    assert "not a probability" in found.notes[0]
    assert found.facts["null"] == "published limit"


def test_features_of_frozen_trunks_have_no_pixels_so_they_are_decoded(
    encoder_with: Make, test: TestSet, inputs: PixelInputs
) -> None:
    # the image order is that of the pixels' rows, whatever they come from
    nothing = torch.zeros(0)
    features = FeatureInputs([], nothing, nothing, nothing, np.zeros(0, dtype=np.int32))
    suspect = encoder_with(Votes)
    one, other = (
        Decree(steps=3, images=9).apply(suspect, test, given, seed=2)
        for given in (inputs, features)
    )
    assert one == other


def test_too_few_images(encoder_with: Make, test: TestSet, inputs: PixelInputs) -> None:
    few = TestSet(test.pairs, test.gallery[:7])
    assert "at least 8 test images, but the data have 7" in refusal(
        scan, encoder_with(Votes), few, inputs
    )


# -- the comparison --------------------------------------------------------------------------------


def test_one_clean_model_is_compared_with_an_assumed_spread() -> None:
    finding = compare_norms(0.1, [0.2])
    z = math.log(0.5) / (LEAST_SPREAD * math.sqrt(2))
    assert finding.null == "assumed spread"
    assert "the reference needs 20%" in str(finding)
    assert finding.p_value == pytest.approx(0.5 * math.erfc(-z / math.sqrt(2)))
    assert finding.expected == pytest.approx(0.2)


def test_several_clean_models_are_compared_by_students_t() -> None:
    clean = [0.1, 0.2, 0.4]
    finding = compare_norms(0.05, clean)
    mean = sum(map(math.log, clean)) / 3
    spread = math.sqrt(sum((math.log(one) - mean) ** 2 for one in clean) / 2)
    away = (math.log(0.05) - mean) / (spread * math.sqrt(4 / 3))
    # with two degrees of freedom the distribution has a closed form
    assert finding.p_value == pytest.approx(0.5 + away / (2 * math.sqrt(2 + away**2)))
    assert finding.expected == pytest.approx(0.2)
