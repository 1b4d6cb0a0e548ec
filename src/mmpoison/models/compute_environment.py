"""Says what a model's output depends on besides its input: a part of every cache key."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch

from mmpoison.base.code_version import code_version
from mmpoison.models.dual_encoder import SCALES, DualEncoder, Side

CPU_NAMES = ("model name", "CPU implementer", "CPU part")
"""Lines of `/proc/cpuinfo` that name a processor: the first on x86, the others on ARM."""
PROBE = ("", "A photo of a SHEEP, naïve &amp; 12,345.6\t#", "sheep " * 200)
"""Captions that show what a tokenizer does with case, accents, entities and length."""


def compute_environment(device: torch.device, *made_by: object) -> str:
    """Describe code, library versions, processor, device and threads that compute something.

    Training makes a difference of the last bit large. Numbers must therefore never depend on which of two runs came
    first and filled the cache: of one and of two threads, of two kinds of CPU, of two versions of a library.

    Args:
        device: Where it is computed.
        *made_by: Plug-ins, of this package or another, that compute it (`code_version`).

    >>> compute_environment(torch.device("cpu")).split(", ")[1]
    'cpu'
    """
    parts = [f"torch {torch.__version__}", device.type, cpu_kind()]
    if device.type == "cuda":
        parts.append(torch.cuda.get_device_name(device))
    parts += [
        f"{torch.get_num_threads()} threads",
        f"code {code_version(*made_by)}",
    ]
    return ", ".join(parts)


@cache
def cpu_kind() -> str:
    """Name the processor and the instructions that torch uses on it: libraries choose their kernels by them."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8", "replace").splitlines() if cpuinfo.is_file() else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith(CPU_NAMES)}
    name = " ".join(sorted(names)) or platform.processor()
    return f"{platform.machine()} {name} {torch.backends.cpu.get_cpu_capability()}"


def encoder_identity(encoder: DualEncoder) -> dict[str, Any]:
    """Weights, architecture (an activation has no weights), preparation and tokenizer of an encoder, as JSON values."""
    return {
        "weights": encoder.digest(),
        "model": encoder.config.get("model_cfg"),
        "preparation": preparation_key(encoder),
        "tokenizer": tokenizer_key(encoder),
    }


def tower_digest(encoder: DualEncoder, side: Side, *, head: bool) -> str:
    """sha256 of the weights of one encoder, its options (an activation has no weights) and its images' preparation.

    Args:
        encoder: The model.
        side: Which encoder.
        head: Whether its separate projection, if it has one, is a part.
    """
    other = "text_cfg" if side == "image" else "vision_cfg"
    model = {k: v for k, v in dict(encoder.config.get("model_cfg") or {}).items() if k != other}
    preparation = preparation_key(encoder) if side == "image" else ""
    digest = hashlib.sha256(repr((side, head, model, preparation)).encode())
    heads = encoder.image_head_parameters() if side == "image" else encoder.text_head_parameters()
    left_out = set() if head else {id(parameter) for parameter in heads}
    for name, tensor in encoder.module.state_dict(keep_vars=True).items():
        of_side = name.startswith("visual.") == (side == "image") and name not in SCALES
        if of_side and id(tensor) not in left_out:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def preparation_key(encoder: DualEncoder) -> str:
    """Return how an encoder has its images resized, cropped and normalized."""
    return f"{encoder.preparation}; {encoder.config.get('preprocess_cfg')!r}"


def tokenizer_key(encoder: DualEncoder) -> str:
    """Return the sha256 of what an encoder's captions become tokens by: its vocabulary, its rules, its context."""
    tokenizer: Any = encoder.tokenizer
    # first: it sets the length in the state that is written below
    tokens = encoder.tokens(PROBE)
    # of the tokenizers library; or open_clip's own
    backend = getattr(getattr(tokenizer, "tokenizer", None), "backend_tokenizer", None)
    own = [getattr(tokenizer, name, None) for name in ("encoder", "bpe_ranks")]
    table = repr(own) if backend is None else backend.to_str()
    digest = hashlib.sha256(table.encode("utf-8", "surrogatepass"))
    digest.update(tokens.numpy().tobytes())
    return digest.hexdigest()
