"""The blocks of CLIP, computed here, give open_clip's outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from open_clip.transformer import QuickGELU, Transformer
from torch import Tensor, nn

from mmpoison.models import DualEncoder
from mmpoison.models.clip_blocks import QuickGelu as QuickGeluByHand
from mmpoison.models.clip_blocks import run_blocks, runs_blocks

WIDTH, LENGTH = 32, 9


def transformer(seed: int = 0, **options: Any) -> Transformer:
    torch.manual_seed(seed)
    made = Transformer(WIDTH, 3, 4, **({"act_layer": QuickGELU} | options))
    for parameter in made.parameters():  # biases too, which start as zeros
        nn.init.normal_(parameter, std=0.2)
    return made


def tokens(n: int = 5) -> Tensor:
    return torch.randn(n, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))


def causal() -> Tensor:
    return torch.full((LENGTH, LENGTH), float("-inf")).triu(1)


def run(compute: Callable[[Tensor], Tensor], module: nn.Module) -> list[Tensor]:
    """The output, and its gradients by the input and by all parameters."""
    module.zero_grad(set_to_none=True)
    x = tokens().requires_grad_()
    output = compute(x)
    torch.autograd.backward((output.float() * torch.linspace(-1, 1, output.shape[-1])).sum())
    gradients = [p.grad for p in (x, *module.parameters())]
    assert all(gradient is not None for gradient in gradients)
    return [output.detach(), *(g for g in gradients if g is not None)]


def assert_near(got: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        size = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(one, other, atol=tolerance * size, rtol=0)


@pytest.mark.parametrize("activation", [QuickGELU, nn.GELU])
@pytest.mark.parametrize("scale", [None, 0.1])
@pytest.mark.parametrize("masked", [True, False])
def test_outputs_and_gradients_are_open_clips(activation: Any, scale: Any, masked: bool) -> None:
    module = transformer(act_layer=activation, ls_init_value=scale)
    assert runs_blocks(module)
    mask = causal() if masked else None
    expected = run(lambda x: module(x, attn_mask=mask), module)
    assert_near(run(lambda x: run_blocks(module, x, mask), module), expected, 1e-6)


@pytest.mark.parametrize("masked", [True, False])
def test_the_token_that_is_read(masked: bool) -> None:
    module = transformer()
    mask = causal() if masked else None
    read = torch.tensor([0, 8, 3, 3, 5])
    rows = torch.arange(5)
    expected = run(lambda x: module(x, attn_mask=mask)[rows, read], module)
    assert_near(run(lambda x: run_blocks(module, x, mask, read), module), expected, 1e-6)


@pytest.mark.parametrize("read", [None, torch.tensor([0, 8, 3, 3, 5])])
def test_bf16_is_as_near_as_open_clips(read: Tensor | None) -> None:
    module = transformer()
    rows = torch.arange(5)

    def plain(x: Tensor) -> Tensor:
        output: Tensor = module(x, attn_mask=causal())
        return output if read is None else output[rows, read]

    exact = run(plain, module)

    def rough(compute: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def inner(x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return compute(x)

        return inner

    theirs = run(rough(plain), module)
    ours = run(rough(lambda x: run_blocks(module, x, causal(), read)), module)

    def error(values: list[Tensor]) -> list[float]:
        pairs = zip(values, exact, strict=True)
        return [float((one.float() - other).norm() / other.norm()) for one, other in pairs]

    assert max(error(theirs)) > 1e-4  # bf16 indeed
    for own, other in zip(error(ours), error(theirs), strict=True):
        assert own < 1.5 * other + 1e-3


def test_quick_gelu_and_its_gradient() -> None:
    x = torch.linspace(-12, 12, 1001, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(QuickGeluByHand.apply, (x,))
    torch.testing.assert_close(QuickGeluByHand.apply(x), QuickGELU()(x))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "options",
    [{"block_type": "custom"}, {"qk_norm": True}, {"scale_fc": True}, {"batch_first": False}],
)
def test_other_blocks_are_left_to_open_clip(options: dict[str, Any]) -> None:
    module = transformer(**options)
    # sequence first is only how open_clip computes
    assert runs_blocks(module) == ("batch_first" in options)


def test_what_would_be_passed_over_is_left_to_open_clip() -> None:
    module = transformer()
    handle = module.resblocks[1].mlp.register_forward_hook(lambda *_: None)
    assert not runs_blocks(module)
    handle.remove()
    assert runs_blocks(module)
    module.grad_checkpointing = True
    assert not runs_blocks(module)
    module.grad_checkpointing = False
    module.resblocks[2].attn.dropout = 0.1
    assert not runs_blocks(module)
    module.resblocks[2].attn = nn.Identity()
    assert not runs_blocks(module)


def test_sequence_first_gives_the_same() -> None:
    module = transformer(batch_first=False)
    expected = run(lambda x: module(x, attn_mask=causal()), module)
    assert_near(run(lambda x: run_blocks(module, x, causal()), module), expected, 1e-6)


@pytest.mark.parametrize("pool", ["tok", "avg"])
@pytest.mark.parametrize("after", [True, False])
def test_an_image_encoder(
    make_encoder: Callable[..., DualEncoder], vit_config: dict[str, Any], pool: str, after: bool
) -> None:
    config = deepcopy(vit_config)
    vision = config["model_cfg"]["vision_cfg"]
    vision |= {"layers": 2, "pool_type": pool, "final_ln_after_pool": after}
    encoder = make_encoder(0, config)
    module: Any = encoder.module
    assert runs_blocks(module.visual.transformer)
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = module.encode_image(pixels, normalize=True)
    torch.testing.assert_close(encoder.encode_image(pixels), expected, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_vit_b_32_with_short_captions() -> None:
    from mmpoison.models import load_encoder

    encoder = load_encoder("ViT-B-32-quickgelu:random")
    module: Any = encoder.module
    ids = encoder.tokens(["a sheep", "two dogs run over a green field", "a red bus, and a tram"])

    def gradients(output: Tensor) -> dict[str, Tensor]:
        module.zero_grad(set_to_none=True)
        torch.autograd.backward((output * torch.linspace(-1, 1, 512)).sum())
        named = module.named_parameters()
        return {name: p.grad.clone() for name, p in named if p.grad is not None}

    whole = module.encode_text(ids, normalize=True)
    expected = gradients(whole)
    short = encoder.encode_text(ids)
    torch.testing.assert_close(short, whole, atol=1e-6, rtol=0)
    got = gradients(short)
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        size = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(got[name], gradient, atol=1e-6 * size, rtol=0, msg=name)
