"""What `auto` computes in, on faked GPUs."""

from __future__ import annotations

import pytest
import torch

from mmpoison.training.plan import autocast, has_bf16

GPU = torch.device("cuda", 0)


@pytest.mark.parametrize(("hardware", "precision"), [(True, "bf16"), (False, "fp32")])
def test_bf16_only_where_the_gpu_has_it(
    monkeypatch: pytest.MonkeyPatch, hardware: bool, precision: str
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or hardware

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert has_bf16(GPU) is hardware
    assert autocast(GPU, "auto")[1] == precision
    assert autocast(GPU, "fp16")[1] == "fp16"
