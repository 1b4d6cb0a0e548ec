"""Selects the number format to compute in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from mmpoison.training.settings import Precision

FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(
    device: torch.device, precision: Precision
) -> tuple[Callable[[], AbstractContextManager[Any]], str]:
    """Make a factory of autocast contexts; return it with the precision that it uses.

    `auto` is bf16 on a GPU and on a processor with bf16 instructions; elsewhere bf16 would be emulated and slow.
    """
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
    if precision == "fp32":
        return nullcontext, "fp32"
    return lambda: torch.autocast(device.type, FORMATS[precision]), precision


def has_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies bf16 matrices in hardware."""
    if device.type == "cuda":
        # older GPUs emulate it, which is slow
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # private in torch, so absent in some releases; then 32-bit is the safe answer
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(device.type == "cpu" and check is not None and check())
