"""Which of several processes this one is, before anything heavy is imported.

`torchrun` and `accelerate launch` say so in the environment.
"""

from __future__ import annotations

import os
import sys


def process_count() -> int:
    """Processes of this job, over all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this process is the one that writes results."""
    return int(os.environ.get("RANK", "0")) == 0


def end_processes() -> None:
    """Leave the group of processes; without it one may abort while another is still at work."""
    if process_count() > 1 and "torch" in sys.modules:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
