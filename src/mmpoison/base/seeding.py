"""Derives all random generators from a run's seed.

Every use has its own named stream, so a new use does not change the numbers of others.
"""

from __future__ import annotations

import hashlib

import numpy as np

from mmpoison.base.registry import check_seed


def stream_key(stream: str) -> int:
    """Hash a stream's name to 64 bits, independently of machine and Python version."""
    return int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8], "big")


def seed_sequence(seed: int, stream: str) -> np.random.SeedSequence:
    """Return the seed sequence for one named stream of a run's seed."""
    check_seed(seed)
    return np.random.SeedSequence((seed, stream_key(stream)))


def generator(seed: int, stream: str) -> np.random.Generator:
    """Return a NumPy generator for one named stream.

    >>> bool(generator(0, "attack").integers(1 << 30) == generator(0, "attack").integers(1 << 30))
    True
    >>> bool(generator(0, "attack").integers(1 << 30) == generator(0, "order").integers(1 << 30))
    False
    """
    return np.random.default_rng(seed_sequence(seed, stream))


def torch_seed(seed: int, stream: str) -> int:
    """Return a 63-bit seed for `torch.manual_seed` from one named stream."""
    return int(seed_sequence(seed, stream).generate_state(1, np.uint64)[0] >> np.uint64(1))
