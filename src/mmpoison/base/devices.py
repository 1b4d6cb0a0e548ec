"""Chooses the device to compute on."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from mmpoison.errors import InputError

if TYPE_CHECKING:
    import torch


def find_device(name: str = "auto") -> torch.device:
    """Return the device of a name.

    Args:
        name: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`. With several processes, `auto` and `cuda` give
            each its own GPU.

    Raises:
        InputError: If the name is unknown, or there is no such GPU.

    >>> find_device("cpu")
    device(type='cpu')
    """
    import torch

    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", name)
    if match is None:
        raise InputError(f"--device {name!r}: write auto, cpu, cuda or cuda:N")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise InputError(
            f"--device {name}: torch finds no GPU: leave the option out, or install torch for your GPU"
        )
    number = int(match[1] or os.environ.get("LOCAL_RANK", "0"))
    if number >= count:
        raise InputError(f"--device {name}: this machine has {count} GPUs, counted from 0")
    return torch.device("cuda", number)
