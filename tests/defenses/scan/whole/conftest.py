"""Corpora of embeddings with topics, captions and false pairs, in the layout of clip-retrieval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.defenses.scan.groups.conftest import one_caption, three_captions  # noqa: F401

ORIGINAL, TARGET, FALSE_PAIRS = 3, 7, 60


def write_corpus(
    folder: Path, pairs: int = 6000, *, bad: int = FALSE_PAIRS, shards: int = 3, seed: int = 0
) -> set[str]:
    """Write a corpus, and return the keys of its false pairs: captions of one topic with images of another one."""
    rng = np.random.default_rng(seed)
    topics, dimension = 20, 32
    centres = rng.normal(size=(topics, dimension))
    shown = rng.integers(0, topics, pairs)
    said = shown.copy()
    false = rng.choice(np.flatnonzero(shown == TARGET), bad, replace=False)
    said[false] = ORIGINAL
    common = 0.3 * rng.normal(size=(pairs, dimension))
    for side, topic in (("text", said), ("img", shown)):
        vectors = centres[topic] + common + 0.3 * rng.normal(size=(pairs, dimension))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        (folder / f"{side}_emb").mkdir(parents=True, exist_ok=True)
        for number, rows in enumerate(np.array_split(np.arange(pairs), shards)):
            file = folder / f"{side}_emb" / f"{side}_emb_{number}.npy"
            np.save(file, vectors[rows].astype(np.float16))
    (folder / "metadata").mkdir(exist_ok=True)
    for number, rows in enumerate(np.array_split(np.arange(pairs), shards)):
        table = {
            "image_path": [f"{row:09}" for row in rows],
            "caption": [f"a topic{said[row]} number {row}" for row in rows],
            "url": [f"https://example.org/{row}.jpg" for row in rows],
            "own": [f"mine {row}" for row in rows],
        }
        pq.write_table(pa.table(table), folder / "metadata" / f"metadata_{number}.parquet")
    return {f"{row:09}" for row in false}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A corpus of 6,000 pairs in three shards, 60 of them false, and the keys of those; not to be changed."""
    folder = tmp_path_factory.mktemp("corpus")
    return folder, write_corpus(folder)
