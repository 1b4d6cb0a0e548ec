"""What the outputs of a model hang on beside its weights and its input."""

from __future__ import annotations

import torch


def arithmetic(device: torch.device) -> str:
    """What the last bits of an output hang on beside the input; a part of the key of outputs that are kept.

    Training makes a difference of the last bit large. Numbers must therefore never hang on which of two runs, of one
    and of two threads, came first and filled the cache.

    Args:
        device: Where it is computed.
    """
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"torch {torch.__version__}, {device.type}{threads}"
