"""Describes what a model's output depends on besides its input, as part of every cache key."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch

from mmpoison.base.content_cache import code_version
from mmpoison.models.dual_encoder import SCALES, DualEncoder, Side

CPU_NAMES = ("model name", "CPU implementer", "CPU part")
"""Lines of `/proc/cpuinfo` that name a processor: the first on x86, the others on ARM."""
PROBE = ("", "A photo of a SHEEP, naïve &amp; 12,345.6\t#", "sheep " * 200)
"""Captions that reveal how a tokenizer treats case, accents, entities and length."""


def compute_environment(device: torch.device, *made_by: object) -> str:
    """Describe the code, library versions, processor, device and threads of a computation.

    Training amplifies differences in the last bit. Results must therefore never depend on which of two runs filled the
    cache first, if these differ in threads, kind of CPU or library versions.

    Args:
        device: The device of the computation.
        *made_by: Plug-ins, of this or another package, that compute it (`code_version`).

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
    """Name the processor and the instructions that torch uses on it, by which libraries choose kernels."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8", "replace").splitlines() if cpuinfo.is_file() else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith(CPU_NAMES)}
    name = " ".join(sorted(names)) or platform.processor()
    return f"{platform.machine()} {name} {torch.backends.cpu.get_cpu_capability()}"


def encoder_identity(encoder: DualEncoder) -> dict[str, Any]:
    """Return an encoder's weights, architecture (activations have no weights), preprocessing and tokenizer as JSON."""
    return {
        "weights": encoder.digest(),
        "model": encoder.config.get("model_cfg"),
        "preparation": preparation_key(encoder),
        "tokenizer": tokenizer_key(encoder),
    }


def tower_digest(encoder: DualEncoder, side: Side, *, head: bool) -> str:
    """Return the sha256 of one encoder's weights, options (an activation has no weights) and image preprocessing.

    Args:
        encoder: The model.
        side: Which encoder.
        head: Whether to include its separate projection, if it has one.
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
    """Return an encoder's image resizing, cropping and normalisation."""
    return f"{encoder.preparation}; {encoder.config.get('preprocess_cfg')!r}"


def tokenizer_key(encoder: DualEncoder) -> str:
    """Return the sha256 of an encoder's tokenisation: vocabulary, rules and context."""
    tokenizer: Any = encoder.tokenizer
    # first, because this sets the length in the state written below
    tokens = encoder.tokens(PROBE)
    # from the tokenizers library, or open_clip's own
    backend = getattr(getattr(tokenizer, "tokenizer", None), "backend_tokenizer", None)
    own = [getattr(tokenizer, name, None) for name in ("encoder", "bpe_ranks")]
    table = repr(own) if backend is None else backend.to_str()
    digest = hashlib.sha256(table.encode("utf-8", "surrogatepass"))
    digest.update(tokens.numpy().tobytes())
    return digest.hexdigest()
