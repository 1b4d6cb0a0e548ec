"""What is computed here instead of by open_clip and torch gives their outputs and gradients, and rounds no more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, Transformer
from torch import Tensor, nn

from mmpoison.models import DualEncoder, clip_blocks
from mmpoison.models.clip_blocks import (
    ShortAttention,
    embed_patches,
    run_blocks,
    runs_blocks,
)

# torch gives its results no types
attend: Any = ShortAttention.apply

WIDTH, LENGTH = 32, 9


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def gradients(
    compute: Callable[..., Tensor], given: Iterable[Tensor], parameters: Iterable[nn.Parameter] = ()
) -> list[Tensor]:
    """The output, and its gradients by what is given and by parameters."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in given]
    output = compute(*leaves)
    weights = torch.linspace(-1, 1, output.shape[-1], dtype=torch.float64).expand(output.shape)
    return [
        output.detach(),
        *torch.autograd.grad(output, [*leaves, *parameters], weights.to(output.dtype)),
    ]


def assert_near(got: list[Tensor], expected: list[Tensor], tolerance: float = 1e-6) -> None:
    for one, other in zip(got, expected, strict=True):
        size = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(one, other, atol=tolerance * size, rtol=1e-5)


def assert_rounds_no_more(ours: list[Tensor], theirs: list[Tensor], exact: list[Tensor]) -> None:
    def errors(values: list[Tensor]) -> list[float]:
        pairs = zip(values, exact, strict=True)
        return [float((one.double() - other).norm() / other.norm()) for one, other in pairs]

    assert max(errors(theirs)) > 1e-4  # bf16 indeed
    for own, other in zip(errors(ours), errors(theirs), strict=True):
        assert own < 1.5 * other + 1e-3


# -- blocks ----------------------------------------------------------------------------------------


def transformer(**options: Any) -> Transformer:
    torch.manual_seed(0)
    made = Transformer(WIDTH, 3, 4, **({"act_layer": QuickGELU} | options))
    for parameter in made.parameters():  # biases too, which start as zeros
        nn.init.normal_(parameter, std=0.2)
    return made


def causal(queries: int = LENGTH) -> Tensor:
    return torch.full((LENGTH, LENGTH), float("-inf")).triu(1)[:queries]


def run(compute: Callable[[Tensor], Tensor], module: nn.Module) -> list[Tensor]:
    return gradients(compute, [random(5, LENGTH, WIDTH)], module.parameters())


@pytest.mark.parametrize("options", [{}, {"act_layer": nn.GELU}, {"batch_first": False}])
@pytest.mark.parametrize("scale", [None, 0.1])
@pytest.mark.parametrize("masked", [True, False])
def test_outputs_and_gradients_are_open_clips(
    options: dict[str, Any], scale: Any, masked: bool
) -> None:
    module = transformer(**options, ls_init_value=scale)
    assert runs_blocks(module)
    mask = causal() if masked else None
    expected = run(lambda x: module(x, attn_mask=mask), module)
    assert_near(run(lambda x: run_blocks(module, x, mask), module), expected)


READ, ROWS = torch.tensor([0, 8, 3, 3, 5]), torch.arange(5)


@pytest.mark.parametrize("masked", [True, False])
def test_the_token_that_is_read(masked: bool) -> None:
    module = transformer()
    mask = causal() if masked else None
    expected = run(lambda x: module(x, attn_mask=mask)[ROWS, READ], module)
    assert_near(run(lambda x: run_blocks(module, x, mask, READ), module), expected)


@pytest.mark.parametrize("read", [None, READ])
def test_bf16_is_as_near_as_open_clips(read: Tensor | None) -> None:
    module = transformer()

    def plain(x: Tensor) -> Tensor:
        output: Tensor = module(x, attn_mask=causal())
        return output if read is None else output[ROWS, read]

    exact = run(plain, module)
    with torch.autocast("cpu", torch.bfloat16):
        theirs = run(plain, module)
        ours = run(lambda x: run_blocks(module, x, causal(), read), module)
    assert_rounds_no_more(ours, theirs, exact)


@pytest.mark.parametrize(
    "options", [{"block_type": "custom"}, {"qk_norm": True}, {"scale_fc": True}]
)
def test_other_blocks_are_left_to_open_clip(options: dict[str, Any]) -> None:
    assert not runs_blocks(transformer(**options))


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
    pixels = random(3, 3, 32, 32)
    expected = module.encode_image(pixels, normalize=True)
    torch.testing.assert_close(encoder.encode_image(pixels), expected, atol=1e-6, rtol=0)


# -- operations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("autocast", [True, False])
def test_short_attention_in_bf16(autocast: bool) -> None:
    given = list((2 * random(3, 3, 2, LENGTH, 8)).bfloat16())
    exact = gradients(F.scaled_dot_product_attention, [tensor.double() for tensor in given])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        theirs = gradients(F.scaled_dot_product_attention, given)
        ours = gradients(lambda *qkv: attend(*qkv, None), given)
    assert_rounds_no_more(ours, theirs, exact)


# -- patches ---------------------------------------------------------------------------------------


@pytest.fixture
def visual(make_encoder: Callable[..., DualEncoder], vit_config: dict[str, Any]) -> Any:
    module: Any = make_encoder(0, deepcopy(vit_config)).module
    for parameter in module.visual.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module.visual.train()


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the weights of the matrix products of patches."""
    seen: list[tuple[int, ...]] = []
    plain = F.linear

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        seen.append(tuple(weight.shape))
        return plain(x, weight, bias)

    monkeypatch.setattr(F, "linear", linear)
    return seen


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("bias", [True, False])
def test_patches_are_open_clips(
    visual: Any, products: list[tuple[int, ...]], layout: Any, bias: bool
) -> None:
    if bias:
        visual.conv1.bias = nn.Parameter(torch.linspace(-1, 1, len(visual.conv1.weight)))
    images = random(5, 3, 32, 32).to(memory_format=layout)
    names = ("conv1.weight", "class_embedding", "positional_embedding", "ln_pre.weight")
    parameters = [visual.get_parameter(name) for name in names]
    expected = gradients(lambda: visual._embeds(images), [], parameters)
    got = gradients(lambda: embed_patches(visual, images), [], parameters)
    side = visual.conv1.stride[0]
    assert products == [(len(visual.conv1.weight), 3 * side * side)]
    assert_near(got, expected)


def test_what_is_no_matrix_product_is_left_to_open_clip(
    visual: Any, products: list[tuple[int, ...]]
) -> None:
    inputs = random(5, 3, 32, 32)
    visual.conv1.weight.requires_grad_(False)
    embed_patches(visual, inputs)
    visual.conv1.weight.requires_grad_(True)
    with torch.no_grad():
        embed_patches(visual, inputs)
    handle = visual.conv1.register_forward_hook(lambda *_: None)
    embed_patches(visual, inputs)
    handle.remove()
    assert products == []
    conv = visual.conv1
    for change in ({"padding": 1}, {"stride": conv.stride[0] // 2}, {"dilation": 2}):
        options = {"kernel_size": conv.kernel_size, "stride": conv.stride, "bias": False} | change
        other = nn.Conv2d(3, conv.out_channels, **options)
        assert not clip_blocks._cuts_patches(other, inputs)
    assert not clip_blocks._cuts_patches(conv, inputs[:, :, :-1])
    assert clip_blocks._cuts_patches(conv, inputs)
