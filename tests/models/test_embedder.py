"""The surrogate that attacks get: embeddings, and gradients by pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mmpoison.attacks.catalogue import PixelSurrogate
from mmpoison.datasets import PairDataset
from mmpoison.models import DualEncoder
from mmpoison.models.embedding import Embedder, embed_pixels


@pytest.mark.parametrize("architecture", ["resnet", "transformer"])
def test_gradient_by_pixels(
    make_encoder: Callable[..., DualEncoder],
    vit_config: dict[str, Any],
    squares: PairDataset,
    architecture: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against differences of a loss, and against the embeddings of whole pixels; three images in two parts."""
    monkeypatch.setattr("mmpoison.models.embedding.DIFFERENTIATED", 2)
    encoder = make_encoder(config=None if architecture == "resnet" else vit_config)
    surrogate = Embedder(encoder)
    assert isinstance(surrogate, PixelSurrogate)
    whole = surrogate.pixels(squares, np.array([7, 3, 7], np.int32))
    assert whole.shape == (3, 32, 32, 3)
    np.testing.assert_array_equal(whole[0], whole[2])
    pixels = whole.astype(np.float32)
    before = pixels.copy()
    vectors, pull_back = surrogate.differentiate(pixels)
    np.testing.assert_allclose(vectors, embed_pixels(encoder, whole), atol=1e-5)
    np.testing.assert_allclose(
        vectors, surrogate(squares, np.array([7, 3, 7], np.int32)), atol=1e-5
    )
    weights = np.random.default_rng(0).standard_normal(vectors.shape).astype(np.float32)
    gradient = pull_back(weights)
    np.testing.assert_array_equal(pixels, before)

    def loss(values: Any) -> float:
        return float((surrogate.differentiate(values)[0].astype(float) * weights).sum())

    way = np.sign(gradient)
    ahead, behind = loss(pixels + 0.05 * way), loss(pixels - 0.05 * way)
    assert (ahead - behind) / 0.1 == pytest.approx(np.abs(gradient).sum(), rel=0.02)


def test_the_encoder_is_as_it_was(encoder: DualEncoder) -> None:
    encoder.module.train()
    before = encoder.digest()
    surrogate = Embedder(encoder)
    pixels = np.full((2, 32, 32, 3), 100, np.float32)
    # statistics of a batch would make the first image depend on the second
    vectors, pull_back = surrogate.differentiate(pixels)
    pull_back(vectors)
    np.testing.assert_allclose(surrogate.differentiate(pixels[:1])[0], vectors[:1], atol=1e-6)
    assert encoder.digest() == before
    assert encoder.module.training
    assert all(parameter.grad is None for parameter in encoder.module.parameters())
    assert surrogate.name == encoder.name
    assert surrogate.identity["weights"] == before
    assert surrogate.logit_scale == pytest.approx(float(encoder.logit_scale.detach().exp()))
