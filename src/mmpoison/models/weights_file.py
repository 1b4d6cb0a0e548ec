"""Reads a file of weights without running any code in it.

Safetensors cannot contain code. Files from `torch.save` are read with `weights_only`, which refuses everything except
tensors and plain containers. TorchScript archives, the format of OpenAI's CLIP files, are programs, and are refused.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mmpoison.base.text import printable_line
from mmpoison.base.untrusted import read_json
from mmpoison.errors import InputError

_OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")

_DTYPES = frozenset(
    {
        *(torch.float32, torch.float16, torch.bfloat16, torch.float64),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    }
)


@dataclass(frozen=True)
class Weights:
    """The weights of one file.

    Attributes:
        tensors: Name to tensor, with the file's names but without `module.` prefixes.
        openai: Whether it has the sizes that OpenAI's own CLIP files hold, which always means QuickGELU.
    """

    tensors: dict[str, Tensor]
    openai: bool = False


def read_weights(path: Path) -> Weights:
    """Read weights without unpickling, and check that every number is finite.

    Args:
        path: A safetensors file, a file from `torch.save` (a state_dict, or a training checkpoint that contains one),
            or the `.safetensors.index.json` of weights in several files.

    Raises:
        InputError: If the file is missing, truncated, of another kind or a program, or contains NaN or infinity.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file of weights")
    if path.name.endswith(".index.json"):
        weights = _read_shards(path)
    elif path.suffix == ".safetensors":
        weights = _read_safetensors(path)
    else:
        weights = _read_torch(path)
    for name, tensor in weights.tensors.items():
        _check_tensor(name, tensor, path)
    return weights


def _check_tensor(name: str, tensor: Tensor, path: Path) -> None:
    """Refuse a tensor that is not stored completely, or whose type or values are unusable."""
    shown = f"{path}: weight {name[:80]!r}"
    # one stored number can represent a tensor of terabytes (stride 0)
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise InputError(f"{shown} is not stored whole")
    if tensor.dtype not in _DTYPES:
        raise InputError(
            f"{shown} is of type {str(tensor.dtype).removeprefix('torch.')}, which is not supported"
        )
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise InputError(f"{shown} is not finite")


def _read_safetensors(path: Path) -> Weights:
    try:
        return _weights(safetensors.torch.load_file(path))
    except (safetensors.SafetensorError, UnicodeDecodeError) as error:
        reason = printable_line(str(error))[:200]
        raise InputError(f"{path}: broken weights ({reason}){_what_it_is_instead(path)}") from None


def _read_shards(index: Path) -> Weights:
    content = read_json(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f"{index}: not a weights index")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(names.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(f"{index}: {name!r} is not a safetensors file in the same folder")
        tensors |= read_weights(index.parent / name).tensors
    return Weights(tensors)


_PICKLE = (
    "{}: holds more than weights ({}), and nothing is unpickled here: if you trust it, save its state_dict as "
    "safetensors elsewhere"
)


def _read_torch(path: Path) -> Weights:
    _refuse_program_or_packed(path)
    try:
        with _Clipped(path) as stream, _short_messages():
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch wraps the reason in a page of advice; bytes that are not a pickle also raise this error
        if refused := re.search(r"(?:GLOBAL|class|callable) ([\w.]+)", str(error)):
            raise InputError(_PICKLE.format(path, refused[1][:80])) from None
        raise InputError(f"{path}: broken weights{_what_it_is_instead(path)}") from None
    except Exception as error:  # torch's pickle reader may raise any error for broken bytes
        first = str(error).strip().splitlines() or [repr(error)]
        raise InputError(
            f"{path}: broken weights ({first[0][:120]}){_what_it_is_instead(path)}"
        ) from None
    return _weights(_unwrap(content, path))


def _refuse_program_or_packed(path: Path) -> None:
    """Refuse plain pickles, TorchScript archives, and packed archives: `torch.save` does not compress."""
    with path.open("rb") as stream:
        start = stream.read(2)
        if start[:1] == b"\x80" and start > b"\x80\x02":
            raise InputError(_PICKLE.format(path, "a pickle that torch.save did not write"))
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # not an archive, or a broken one, which torch reports
    if any(info.filename.endswith("/constants.pkl") for info in members):
        raise InputError(
            f"{path}: a TorchScript archive, and a checkpoint's code is never run here: if you trust it, save "
            "torch.jit.load(FILE, map_location='cpu').state_dict() as safetensors elsewhere"
        )
    unpacked = sum(info.file_size for info in members)
    if unpacked > path.stat().st_size:
        raise InputError(f"{path}: broken weights (packed, {unpacked:,} bytes when unpacked)")


class _ShortError(pickle.UnpicklingError):
    """A shortened reason for refusing a pickle, because the pickle's author chooses the names in it."""

    def __init__(self, message: object = "") -> None:
        super().__init__(str(message)[:500])


@contextmanager
def _short_messages() -> Iterator[None]:
    """Make torch shorten its message about a refused pickle.

    torch searches its message with a pattern that takes minutes for a name of 100,000 letters.
    """
    reader: Any = torch._weights_only_unpickler
    before = reader.UnpicklingError
    reader.UnpicklingError = _ShortError
    try:
        yield
    finally:
        reader.UnpicklingError = before


class _Clipped(io.BufferedReader):
    """A file that never reads beyond its end: lengths in a pickle may be wrong on purpose."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = path.stat().st_size

    def read(self, size: int | None = -1) -> bytes:
        """Read up to `size` bytes, without allocating more than the file contains."""
        left = max(0, self._size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the state_dict inside the result of `torch.load`."""
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{path}: contains no dictionary of weights")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(
                f"{path}: contains no dictionary of weights ({str(name)[:60]!r} is not a tensor)"
            )
    return dict(content)


def _weights(tensors: dict[str, Tensor]) -> Weights:
    """Take out OpenAI's sizes, and the prefixes that data-parallel training and `torch.compile` add to every name."""
    for prefix in (*_PREFIXES, *_PREFIXES):
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    alone = {name: tensor for name, tensor in tensors.items() if name not in _OPENAI_EXTRAS}
    return Weights(alone, openai=len(alone) < len(tensors))


def _what_it_is_instead(path: Path) -> str:
    with path.open("rb") as stream:
        head = stream.read(64)
    if head.startswith(b"version https://git-lfs"):
        return ": it is a Git LFS pointer: download the file itself with `git lfs pull`"
    if head.lstrip()[:1] == b"<":
        return ": it is a web page and not the file: download the file itself"
    return ": truncated, or not a file of this kind"
