"""Embeddings that do not depend on the attack, cached for the next run with the same model and data."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from mmpoison.base.array_files import read_arrays
from mmpoison.base.files import atomic_file
from mmpoison.evaluation.test_set import TestEmbeddings, TestSet
from mmpoison.models.compute_environment import compute_environment
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, Progress, files_digest


def cached_embeddings(
    encoder: DualEncoder,
    inputs: PairInputs,
    test: TestSet,
    folder: Path,
    progress: Progress | None = None,
) -> TestEmbeddings:
    """`TestEmbeddings.of`, or what it gave before for the same weights, captions and image files.

    Args:
        encoder: The model.
        inputs: The data's inputs prepared for it.
        test: The test part.
        folder: Where embeddings are kept.
        progress: Called with (done, total) if the model has to run.
    """
    stored = folder / f"test-embeddings-{_key(encoder, inputs, test)}.npz"
    kept = read_arrays(stored, "images", "texts")
    if kept is not None:
        return TestEmbeddings(*kept)
    embeddings = TestEmbeddings.of(encoder, inputs, test, progress)
    with atomic_file(stored) as temporary, temporary.open("wb") as stream:
        np.savez(stream, images=embeddings.images, texts=embeddings.texts)
    return embeddings


def _key(encoder: DualEncoder, inputs: PairInputs, test: TestSet) -> str:
    """Return the cache key: everything that decides the embeddings."""
    parts = {
        "computed": compute_environment(encoder.device, __name__),
        "inputs": type(inputs).__name__,
        "weights": encoder.digest(),
        # what weights alone do not say: activation, pooling, context
        "model": encoder.config.get("model_cfg"),
        "preparation": str(encoder.preparation),
        "images": files_digest(test.pairs, test.gallery),
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    for caption in test.pairs.captions:
        digest.update(str(caption).encode() + b"\0")
    return digest.hexdigest()[:32]
