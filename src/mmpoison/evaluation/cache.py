"""Embeddings that do not depend on the attack, cached for the next run with the same model and data."""

from __future__ import annotations

from pathlib import Path

from mmpoison.base.content_cache import CacheKey, ContentCache
from mmpoison.evaluation.test_set import TestEmbeddings, TestSet
from mmpoison.models.compute_environment import compute_environment, encoder_identity
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.embedding import Embeddings
from mmpoison.models.inputs import PairInputs, Progress, files_digest, texts_digest


def cached_embeddings(
    encoder: DualEncoder,
    inputs: PairInputs,
    test: TestSet,
    cache: Path,
    progress: Progress | None = None,
) -> TestEmbeddings:
    """`TestEmbeddings.of`, or what it gave before for the same weights, captions and image files.

    Args:
        encoder: The model.
        inputs: The data's inputs prepared for it.
        test: The test part.
        cache: Folder of a content cache.
        progress: Called with (done, total) if the model has to run.
    """

    def compute() -> dict[str, Embeddings]:
        embeddings = TestEmbeddings.of(encoder, inputs, test, progress)
        return {"images": embeddings.images, "texts": embeddings.texts}

    key = embeddings_key(encoder, inputs, test)
    return TestEmbeddings(*ContentCache(cache).arrays(key, compute, "images", "texts"))


def embeddings_key(encoder: DualEncoder, inputs: PairInputs, test: TestSet) -> CacheKey:
    """Return all that the embeddings of a test part depend on."""
    return CacheKey(
        "embeddings",
        {
            "computed": compute_environment(encoder.device),
            **encoder_identity(encoder),
            "inputs": type(inputs).__name__,
            "images": files_digest(test.pairs, test.gallery),
            "captions": texts_digest(map(str, test.pairs.captions)),
        },
        f"test embeddings of {encoder.name}",
    )
