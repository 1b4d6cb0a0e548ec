"""Says what a model's output depends on besides its weights and its input: a part of every cache key."""

from __future__ import annotations

import torch

from mmpoison.base.cache_folder import cache_folder
from mmpoison.base.code_version import code_version

LOADING = "mmpoison.models.loading"


def compute_environment(device: torch.device, *roots: object, alone: tuple[str, ...] = ()) -> str:
    """Describe code, library versions, device and threads that compute something.

    Training makes a difference of the last bit large. Numbers must therefore never depend on which of two runs, of one
    and of two threads, of one and of the next version of a library, came first and filled the cache.

    Args:
        device: Where it is computed.
        *roots: The functions, classes or modules that compute it; what they import counts too (`code_version`), and
            the code that loads models always.
        alone: Modules whose own text counts and not what they import.

    >>> compute_environment(torch.device("cpu"), "mmpoison.base.seeding").split(", ")[1]
    'cpu'
    """
    code = code_version(LOADING, *roots, alone=alone, folder=cache_folder() / "code")
    return (
        f"torch {torch.__version__}, {device.type}, {torch.get_num_threads()} threads, code {code}"
    )
