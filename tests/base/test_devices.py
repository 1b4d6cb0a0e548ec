"""Devices and lists of GPUs, with faked ones: no test here needs a GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mmpoison.base.processes import find_device, find_gpus, only_gpu
from mmpoison.errors import InputError

FakeGpus = Callable[..., None]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    """A function that makes torch find so many GPUs, with these variables and no others."""

    def make(count: int, *, hip: str | None = None, **variables: str) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.version, "hip", hip)
        for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "LOCAL_RANK"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return make


@pytest.mark.parametrize(
    ("count", "visible", "device", "expected"),
    [
        (0, None, "auto", ()),
        (4, None, "cpu", ()),
        (4, None, "auto", ("0", "1", "2", "3")),
        (4, None, "cuda:2", ("2",)),
        # the numbers of the machine, not those that torch counts from 0
        (2, "2,3", "auto", ("2", "3")),
        (2, "2, 3", "cuda:1", ("3",)),
        (2, "GPU-1a,GPU-2b", "cuda", ("GPU-1a", "GPU-2b")),
        # CUDA ends the list at the first entry that is no GPU
        (1, "1,-1,0", "auto", ("1",)),
        (2, "0,1,9", "auto", ("0", "1")),
        # one process sees one part of a GPU, and each worker can have its own
        (1, "MIG-1a,MIG-2b,MIG-3c", "auto", ("MIG-1a", "MIG-2b", "MIG-3c")),
        (1, "MIG-1a,MIG-2b,MIG-3c", "cuda:2", ("MIG-3c",)),
        (0, "", "auto", ()),
    ],
)
def test_gpus_are_named_as_the_variable_names_them(
    fake: FakeGpus, count: int, visible: str | None, device: str, expected: tuple[str, ...]
) -> None:
    fake(count, **({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}))
    assert find_gpus(device) == expected


@pytest.mark.parametrize(
    ("count", "device", "said"),
    [
        (0, "cuda", "torch finds no GPU"),
        (1, "cuda:1", "this machine has 1 GPU, counted from 0"),
        (2, "cuda:2", "this machine has 2 GPUs, counted from 0"),
        (2, "gpu", "write auto, cpu, cuda or cuda:N"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused(
    fake: FakeGpus, count: int, device: str, said: str
) -> None:
    fake(count)
    for find in (find_gpus, find_device):
        with pytest.raises(InputError, match=said) as refused:
            find(device)
        assert "\n" not in str(refused.value)


def test_each_process_of_a_training_has_its_own_gpu(fake: FakeGpus) -> None:
    fake(4, LOCAL_RANK="3")
    assert find_device("auto") == find_device("cuda") == torch.device("cuda", 3)
    assert find_device("cuda:0") == torch.device("cuda", 0)
    assert find_device("cpu") == torch.device("cpu")


def test_rocm_has_a_variable_of_its_own(fake: FakeGpus) -> None:
    fake(1, hip="6.2", HIP_VISIBLE_DEVICES="3", CUDA_VISIBLE_DEVICES="0,1")
    assert find_gpus("auto") == ("3",)
    assert only_gpu("3") == {"CUDA_VISIBLE_DEVICES": "3", "HIP_VISIBLE_DEVICES": "3"}
    fake(2, hip="6.2", CUDA_VISIBLE_DEVICES="4,5")
    assert find_gpus("auto") == ("4", "5")
    # CUDA does not read it
    fake(2, HIP_VISIBLE_DEVICES="3", CUDA_VISIBLE_DEVICES="0,1")
    assert find_gpus("auto") == ("0", "1")
    assert only_gpu("1") == {"CUDA_VISIBLE_DEVICES": "1"}
