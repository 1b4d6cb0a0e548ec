"""Which of several processes this one is, before anything heavy is imported.

`torchrun` and `accelerate launch` say so in the environment.
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
    """Processes of this job, over all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this process is the one that writes results."""
    return int(os.environ.get("RANK", "0")) == 0


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


def begin_worker(parent: int) -> None:
    """Make a worker process quiet and tidy: Ctrl-C is for its parent, and it ends when its parent has died.

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
    """Leave the group of processes; without it one may abort while another is still at work."""
    if process_count() > 1 and "torch" in sys.modules:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
