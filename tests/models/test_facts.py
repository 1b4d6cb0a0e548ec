"""How large a model is."""

from __future__ import annotations

import pytest
import torch

from mmpoison.models import load_encoder
from mmpoison.models.export import encoder_facts, size_facts


def test_size_of_a_model() -> None:
    encoder = load_encoder("openmoji-mini")
    facts = size_facts(encoder)
    count = sum(parameter.numel() for parameter in encoder.module.parameters())
    assert facts["parameters_m"] == pytest.approx(count / 1e6, abs=1e-3)
    # every weight of a matrix is used at least once a token or place: more operations than that, and not thousands
    text = sum(
        p.numel() for n, p in encoder.module.named_parameters() if "resblocks" in n and p.ndim > 1
    )
    context = encoder.tokens(["a"]).shape[1]
    assert facts["flops_g"] > 0.5 * text * context / 1e9
    assert facts["flops_g"] < 50


def test_the_temperature_divides_and_the_logit_scale_multiplies() -> None:
    encoder = load_encoder("openmoji-mini")
    with torch.no_grad():
        encoder.logit_scale.fill_(torch.tensor(20.0).log())
    facts = encoder_facts(encoder)
    assert facts["logit_scale"] == pytest.approx(20)
    assert facts["temperature"] == pytest.approx(0.05)
