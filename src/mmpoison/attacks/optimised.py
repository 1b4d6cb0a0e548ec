"""What attacks that optimise pixels share: the cache of their results, and the note on their surrogate."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.attacks.surrogate import PixelSurrogate, Vectors
from mmpoison.base.code_version import code_version
from mmpoison.base.content_cache import CacheKey, ContentCache
from mmpoison.base.processes import freed_memory_kept

Array = npt.NDArray[Any]

AT_ONCE = 64
"""Images that are embedded at once."""


def optimised(
    surrogate: PixelSurrogate,
    attack: str,
    make: Callable[[], Array],
    *,
    inputs: Sequence[Array],
    settings: Mapping[str, Any],
    code: str,
) -> Array:
    """Compute the result of an optimisation, or read it from the cache.

    A run that resumes poisons its data again. It must get the same pixels, and need not wait for them.

    Args:
        surrogate: The model that the attacker knows.
        attack: Name of the attack.
        make: Computes the result.
        inputs: The arrays that it depends on.
        settings: What else it depends on, the seed among it, as JSON values.
        code: Module that computes it.
    """

    def result() -> dict[str, Array]:
        with freed_memory_kept():
            return {"result": make()}

    digest = hashlib.sha256()
    for array in inputs:
        digest.update(f"{array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    key = CacheKey(
        "attack-pixels",
        {
            "attack": attack,
            "surrogate": dict(surrogate.identity),
            "inputs": digest.hexdigest(),
            "settings": dict(settings),
            "code": code_version(code),
        },
        f"pixels of {attack} by {surrogate.name}",
    )
    return ContentCache().arrays(key, result, "result")[0]


def surrogate_note(surrogate: PixelSurrogate, measured: str) -> str:
    """Return the line of a manifest that says which surrogate an attack knew, and what it reached there.

    Args:
        surrogate: The model.
        measured: What was measured on it, for example "cosine 0.2 before, 0.7 after".
    """
    weights = str(surrogate.identity.get("weights", ""))[:12]
    return f"surrogate {surrogate.name} (weights {weights}…): {measured}"


def embed_pixels(surrogate: PixelSurrogate, pixels: Array) -> Vectors:
    """Embed images `(n, size, size, 3)` as they are, without gradients: unit embeddings `(n, d)`."""
    parts = [
        surrogate.differentiate(pixels[start : start + AT_ONCE].astype(np.float32))[0]
        for start in range(0, len(pixels), AT_ONCE)
    ]
    return np.concatenate(parts)
