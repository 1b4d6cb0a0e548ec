"""Which of several processes this is, and how many cores it may use, known before anything heavy is imported.

`torchrun` and `accelerate launch` set it in the environment.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


def process_count() -> int:
    """Return the number of processes of this job, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Return whether this process is the one that writes results."""
    return int(os.environ.get("RANK", "0")) == 0


def cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def without_main_script() -> Iterator[None]:
    """Start worker processes that do not import the user's script, while the block runs.

    A process that is started by `spawn` imports the main script. One that calls mmpoison outside of
    `if __name__ == "__main__":` would call it again in each worker.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Compute matrix products of NumPy and SciPy with one thread while the block, or the decorated function, runs.

    On some processors the last bits of a product depend on the number of threads (OpenBLAS, Haswell kernels).
    """
    import scipy.linalg  # noqa: F401 - its BLAS is a library of its own, which must be there to be limited
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


def begin_worker(parent: int) -> None:
    """Prepare a worker process: it ignores Ctrl-C, and it ends when its parent has died.

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
    """Leave the process group; otherwise one process may abort while another still works."""
    if process_count() > 1 and "torch" in sys.modules:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
