"""Chooses the device to compute on, and lists the GPUs that several processes share."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from mmpoison.base.phrasing import count_of
from mmpoison.errors import InputError

if TYPE_CHECKING:
    import torch

CUDA_GPUS, HIP_GPUS = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"
MIG = "MIG-"
"""How the id of a part of a GPU begins."""


def gpu_number(name: str) -> int | None:
    """Return the N of `cuda:N`, None of another device.

    Raises:
        InputError: If the name is no device.

    >>> gpu_number("cuda:2"), gpu_number("cuda")
    (2, None)
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d{1,6}))?", name)
    if match is None:
        raise InputError(f"--device {name!r}: write auto, cpu, cuda or cuda:N")
    return None if match[1] is None else int(match[1])


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

    chosen = gpu_number(name)
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise InputError(
            f"--device {name}: torch finds no GPU: leave the option out, or install torch for your GPU"
        )
    number = int(os.environ.get("LOCAL_RANK", "0")) if chosen is None else chosen
    if number >= count:
        raise InputError(
            f"--device {name}: this machine has {count_of(count, 'GPU')}, counted from 0"
        )
    return torch.device("cuda", number)


def find_gpus(name: str = "auto") -> tuple[str, ...]:
    """List the GPUs for the processes of a sweep, each of which computes on one; empty for the CPU.

    A GPU is named as `CUDA_VISIBLE_DEVICES` names it: by its number, or as that variable has it now, which may be the
    id of a GPU or of a part of one (MIG).

    Args:
        name: As for `find_device`; `cuda:N` is that one GPU.

    Raises:
        InputError: As for `find_device`.

    >>> find_gpus("cpu")
    ()
    """
    import torch

    if find_device("cuda" if (chosen := gpu_number(name)) is not None else name).type == "cpu":
        return ()
    count = torch.cuda.device_count()
    # ROCm obeys its own variable before that of CUDA, which it reads too
    own = os.environ.get(HIP_GPUS) if torch.version.hip else None
    listed = own if own is not None else os.environ.get(CUDA_GPUS)
    if listed is None:
        gpus = tuple(str(number) for number in range(count))
    else:
        entries = [entry.strip() for entry in listed.split(",")]
        # an entry that is no GPU ends the list; of parts of GPUs a process sees one, whatever their number
        gpus = tuple(entries if entries[0].startswith(MIG) else entries[:count])
    if chosen is None:
        return gpus
    if chosen >= len(gpus):
        raise InputError(
            f"--device {name}: this machine has {count_of(len(gpus), 'GPU')}, counted from 0"
        )
    return (gpus[chosen],)


def only_gpu(gpu: str) -> dict[str, str]:
    """Return the environment of a process that sees one GPU, as `find_gpus` names it."""
    import torch

    return {CUDA_GPUS: gpu, **({HIP_GPUS: gpu} if torch.version.hip else {})}
