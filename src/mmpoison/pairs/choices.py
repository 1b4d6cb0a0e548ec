"""Random choices of data (splits, labels, subsets) that never change: by hashing, not by a generator.

The streams of NumPy's generators may change between versions, and they depend on the number of draws before. A hash of
(seed, stream, id) depends on nothing else, so two people who hold the same ids make the same choice, on any machine,
with any version, and with any order of the ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def _digest(key: str, seed: int, stream: str) -> bytes:
    return hashlib.sha256(f"{seed}/{stream}/{key}".encode()).digest()


def hash_order(ids: Sequence[str], seed: int, stream: str) -> list[int]:
    """Order positions of ``ids`` at random, depending only on the seed, the stream and each id.

    Args:
        ids: Identifiers, for example image ids. Equal ids keep their order.
        seed: Any integer.
        stream: A word for the purpose of the choice, so that two choices over the same ids are independent.

    Returns:
        A permutation of ``range(len(ids))``.
    """
    digests = [_digest(identifier, seed, stream) for identifier in ids]
    return sorted(range(len(ids)), key=digests.__getitem__)


def hash_pick(n: int, key: str, seed: int, stream: str) -> int:
    """Draw uniformly from ``range(n)``, depending only on the seed, the stream and the key.

    Raises:
        ValueError: If ``n`` is less than one.
    """
    if n < 1:
        raise ValueError(f"Nothing to choose from: n is {n}.")
    return int.from_bytes(_digest(key, seed, stream), "big") % n
