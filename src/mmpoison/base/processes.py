"""Process rank, core count and compute device, available before heavy imports.

`torchrun` and `accelerate launch` set rank and process count in the environment.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mmpoison.base.text import count_of
from mmpoison.errors import InputError

if TYPE_CHECKING:
    import torch


def process_count() -> int:
    """Return the number of processes of this job, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Check whether this process writes the results."""
    return int(os.environ.get("RANK", "0")) == 0


def cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def without_main_script() -> Iterator[None]:
    """Start worker processes that do not import the user's script, while the block runs.

    A process started by `spawn` imports the main script. A script that calls mmpoison outside `if __name__ ==
    "__main__":` would call it again in each worker.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit matrix products of NumPy and SciPy to one thread in a block or a decorated function.

    On some processors the last bits of a product depend on the thread count (OpenBLAS, Haswell kernels).
    """
    import scipy.linalg  # noqa: F401 - its BLAS is a library of its own, which must be there to be limited
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


def begin_worker(parent: int) -> None:
    """Prepare a worker process to ignore Ctrl-C, and to exit when its parent dies.

    Args:
        parent: The parent's process id.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def end_processes() -> None:
    """Leave the process group. Otherwise one process may abort while another is still working."""
    if process_count() > 1 and "torch" in sys.modules:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


# -- Chooses the device to compute on, and lists the GPUs that several processes share.


CUDA_GPUS, HIP_GPUS = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"
MIG = "MIG-"
"""Prefix of the id of a GPU partition."""


def gpu_number(name: str) -> int | None:
    """Return the N of `cuda:N`, or None for any other device.

    Raises:
        InputError: If the name is not a device.

    >>> gpu_number("cuda:2"), gpu_number("cuda")
    (2, None)
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d{1,6}))?", name)
    if match is None:
        raise InputError(f"--device {name!r}: write auto, cpu, cuda or cuda:N")
    return None if match[1] is None else int(match[1])


def find_device(name: str = "auto") -> torch.device:
    """Return the device for a name.

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
            f"--device {name}: torch finds no GPU: omit the option, or install torch for your GPU"
        )
    number = int(os.environ.get("LOCAL_RANK", "0")) if chosen is None else chosen
    if number >= count:
        raise InputError(
            f"--device {name}: this machine has {count_of(count, 'GPU')}, counted from 0"
        )
    return torch.device("cuda", number)


def find_gpus(name: str = "auto") -> tuple[str, ...]:
    """List the GPUs for a sweep, whose processes use one each; empty for the CPU.

    A GPU is named as in `CUDA_VISIBLE_DEVICES`: by number, or by the entry that the variable has now, which may be the
    id of a GPU or of a partition (MIG).

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
        # an invalid entry ends the list; a process sees only one GPU partition, however many are listed
        gpus = tuple(entries if entries[0].startswith(MIG) else entries[:count])
    if chosen is None:
        return gpus
    if chosen >= len(gpus):
        raise InputError(
            f"--device {name}: this machine has {count_of(len(gpus), 'GPU')}, counted from 0"
        )
    return (gpus[chosen],)


def only_gpu(gpu: str) -> dict[str, str]:
    """Return the environment for a process that sees only this GPU, named as by `find_gpus`."""
    import torch

    return {CUDA_GPUS: gpu, **({HIP_GPUS: gpu} if torch.version.hip else {})}


# -- Speeds up a block that computes many gradients.


_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_KEEP = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_MAX: 0}
_USUAL = {_TRIM_THRESHOLD: 2**26, _MMAP_THRESHOLD: 2**25, _MMAP_MAX: 2**16}
"""The value that the C library itself adapts to after a 32 MB block was freed."""

_ALL_THREADS = 2
"""`omp_pause_hard` of OpenMP."""

_depth = 0
_change = threading.Lock()


@contextmanager
def fast_gradients() -> Iterator[None]:
    """Speed up gradients in a block, and restore all settings afterwards.

    With glibc, freed memory stays in the process. Numbers below 1e-38 become zero: a peaked softmax leaves such numbers
    in every gradient, and a matrix product in which 5% of the entries are that small takes seven times longer on a CPU.
    Sums with larger numbers are unaffected.
    """
    import torch

    global _depth
    library = _glibc()
    subnormal = bool(torch.full((1,), 1e-38).mul(0.1).any())
    with _change:
        _depth += 1
        if library is not None and _depth == 1:
            _set(library, _KEEP)
    try:
        if subnormal:
            _flush(True)
        yield
    finally:
        if subnormal:
            _flush(False)
        with _change:
            _depth -= 1
            if library is not None and not _depth:
                _set(library, _USUAL)
                library.malloc_trim(0)


def _flush(on: bool) -> None:
    """Flush subnormal numbers to zero or not, here and in torch's threads, which are restarted."""
    import torch
    from threadpoolctl import ThreadpoolController

    torch.set_flush_denormal(on)
    for library in ThreadpoolController().lib_controllers:
        if library.prefix == "libgomp" and hasattr(library.dynlib, "omp_pause_resource_all"):
            library.dynlib.omp_pause_resource_all(_ALL_THREADS)


def _set(library: Any, options: dict[int, int]) -> None:
    for option, value in options.items():
        library.mallopt(option, value)


def _glibc() -> Any:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
