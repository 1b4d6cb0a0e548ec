"""Where gradients are to be fast, freed memory stays in the process, and subnormal numbers are zero; no longer."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

from mmpoison.base import processes
from mmpoison.base.processes import fast_gradients

MB = 1 << 20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="of the C library of Linux")

# in a process of its own: how memory is returned depends on what else was in it
PROGRAM = f"""
import resource
import torch
from mmpoison.base.processes import fast_gradients

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones({48 * MB}, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def normal():
    return int((small * 0.1 > 0).sum())

torch.set_num_threads(2)
small = torch.full((1 << 20,), 1e-38)
left = [normal()]  # starts the threads
faults()
found = [faults()]
with fast_gradients():
    left.append(normal())
    faults()
    with fast_gradients():
        faults()
    found.append(faults())
found.append(faults())
left.append(normal())
print(*found, *left)
"""


def test_blocks_are_used_again_and_threads_that_were_there_before_have_zeros() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    outside, inside, after, *left = map(int, done.stdout.split())
    if torch.set_flush_denormal(False):
        assert left == [1 << 20, 0, 1 << 20]
    if processes._glibc() is not None:
        pages = 4 * 48 * MB // 4096
        assert outside > pages * 0.1 or outside >= 4 * 24  # huge pages may be used
        assert inside < outside * 0.05
        assert after > outside * 0.5


def subnormal() -> bool:
    return bool(torch.full((1,), 1e-38).mul(0.1).any())


def test_subnormal_numbers_are_zero_in_the_block_alone() -> None:
    if not torch.set_flush_denormal(False):
        pytest.skip("a processor that cannot")
    found = [subnormal()]
    with fast_gradients():
        with fast_gradients():
            found.append(subnormal())
        found.append(subnormal())
    assert [*found, subnormal()] == [True, False, False, True]


def test_blocks_in_several_threads_end_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[int, int]] = []
    monkeypatch.setattr(processes, "_set", lambda _, options: told.append(options))
    first, second = threading.Event(), threading.Event()

    def other() -> None:
        with fast_gradients():
            first.set()
            second.wait()

    thread = threading.Thread(target=other)
    with fast_gradients():
        thread.start()
        first.wait()
    if processes._glibc() is not None:
        assert told == [processes._KEEP]
    second.set()
    thread.join()
    if processes._glibc() is not None:
        assert told == [processes._KEEP, processes._USUAL]
