"""`DualEncoder`: short batches give what open_clip gives for the full context; parts are where they should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmpoison.errors import InputError
from mmpoison.images import Preparation
from mmpoison.models import DualEncoder
from mmpoison.models.open_clip_build import build_module, build_tokenizer

CAPTIONS = [
    "a sheep",
    "an aeroplane in the sky above a green field, and a bird",
    "",
    "!!! a sofa !!!",
    "word " * 50,
    "é ü 羊 🐑",
]


@pytest.fixture(params=["CLIP", "CustomTextCLIP"])
def either(
    request: pytest.FixtureRequest,
    make_encoder: Callable[..., DualEncoder],
    vit_config: dict[str, Any],
) -> DualEncoder:
    made = make_encoder(3, None if request.param == "CLIP" else vit_config)
    assert type(made.module).__name__ == request.param
    return made


def gradients(encoder: DualEncoder, output: Tensor) -> dict[str, Tensor]:
    encoder.module.zero_grad(set_to_none=True)
    weight = torch.linspace(-1, 1, output.numel()).view_as(output)
    torch.autograd.backward((output * weight).sum())
    return {
        name: parameter.grad.clone()
        for name, parameter in encoder.module.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("captions", [CAPTIONS, CAPTIONS[:1], CAPTIONS[2:3], CAPTIONS[4:5]])
def test_text_equals_open_clips_full_context(either: DualEncoder, captions: list[str]) -> None:
    tokens = either.tokens(captions)
    module: Any = either.module
    expected = module.encode_text(tokens, normalize=True)
    expected_gradients = gradients(either, expected)
    got = either.encode_text(tokens)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    got_gradients = gradients(either, got)
    assert got_gradients.keys() == expected_gradients.keys()
    assert len(got_gradients) > 10
    for name, gradient in expected_gradients.items():
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(
            got_gradients[name], gradient, atol=1e-6 * scale, rtol=1e-5, msg=name
        )


def test_token_lengths(encoder: DualEncoder) -> None:
    tokens = encoder.tokens(["", "a", "! !", "word " * 50])
    # start and end of text, and the words between; "!" is token 0 as the padding is
    assert encoder.token_lengths(tokens).tolist() == [2, 3, 4, 20]


def test_what_the_preprocessing_config_says(make_encoder: Callable[..., DualEncoder]) -> None:
    def made(**settings: Any) -> DualEncoder:
        return make_encoder(0, {**make_encoder().config, "preprocess_cfg": settings})

    plain = made()
    assert plain.preparation == Preparation(32)
    assert made(interpolation="random").preparation == Preparation(32)
    assert made(interpolation="bilinear").preparation.interpolation == "bilinear"
    assert made(resize_mode="squash").preparation.resize_mode == "squash"
    # open_clip asks the image encoder
    assert made(size=[48, 48]).image_size == 32
    with pytest.raises(InputError, match="only square images are supported"):
        made(size=(32, 64))


def test_parameters_are_split_without_rest(either: DualEncoder) -> None:
    image = {id(p) for p in either.image_parameters()}
    text = {id(p) for p in either.text_parameters()}
    assert not image & text
    rest = {
        name
        for name, parameter in either.module.named_parameters()
        if id(parameter) not in image | text
    }
    assert rest == {"logit_scale"}
    assert either.logit_scale is dict(either.module.named_parameters())["logit_scale"]


def test_heads_are_refused_where_there_are_none(encoder: DualEncoder) -> None:
    whole = encoder.copy()
    visual: Any = whole.module.visual
    visual.attnpool = torch.nn.Flatten()
    with pytest.raises(InputError, match="has no separate projections"):
        whole.head_parameters()


def test_features_and_head_of_a_resnet_are_the_encoder(encoder: DualEncoder) -> None:
    visual: Any = encoder.module.visual
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    inputs = encoder.image_input(pixels)
    before = visual.attnpool.c_proj
    with torch.no_grad():
        features = encoder.image_before_head(inputs)
        assert features.shape == (3, before.in_features)
        torch.testing.assert_close(encoder.image_head(features), encoder.encode_image(inputs))
    assert visual.attnpool.c_proj is before
    assert {id(p) for p in encoder.image_head_parameters()} == {id(p) for p in before.parameters()}


# -- other text encoders of open_clip --------------------------------------------------------------


def variant(quick: DualEncoder, text: dict[str, Any], **more: Any) -> DualEncoder:
    """The tiny CLIP with another text encoder, random weights."""
    cfg = {**quick.config["model_cfg"], **more}
    cfg["text_cfg"] = {**cfg["text_cfg"], **text}
    config = {**quick.config, "model_cfg": cfg}
    return DualEncoder(build_module(cfg, seed=5), build_tokenizer(cfg), config, "variant")


END_OF_TEXT = 49407


@pytest.mark.parametrize("custom_text", [False, True])
@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ({}, True),
        ({"pool_type": "eos", "eos_id": END_OF_TEXT}, True),
        # "sheep" as the end: in captions without it the first token is read
        ({"pool_type": "eos", "eos_id": 15673}, True),
        ({"proj_bias": True}, True),
        ({"pool_type": "last"}, False),
        ({"pool_type": "first"}, False),
        ({"no_causal_mask": True}, False),
        ({"no_causal_mask": True, "pool_type": "last"}, False),
    ],
)
def test_text_is_cut_only_where_that_is_exact(
    quick: DualEncoder, text: dict[str, Any], cut: bool, custom_text: bool
) -> None:
    encoder = variant(quick, text, custom_text=custom_text)
    tokens = encoder.tokens(["a sheep", "an aeroplane, a sheep and a sofa", "!"])
    module: Any = encoder.module
    with torch.no_grad():
        expected = module.encode_text(tokens, normalize=True)
        seen: list[int] = []
        tower = getattr(module, "text", module)
        tower.transformer.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
        got = encoder.encode_text(tokens)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    assert seen[0] == (int(encoder.token_lengths(tokens).max()) if cut else 77)


def test_coca(quick: DualEncoder) -> None:
    """A model with a decoder: both encoders give tokens too, and the text encoder appends a token of its own."""
    vision = {**quick.config["model_cfg"]["vision_cfg"], "output_tokens": True}
    decoder = {"context_length": 76, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    encoder = variant(
        quick,
        {"context_length": 76, "embed_cls": True, "output_tokens": True},
        vision_cfg=vision | {"attentional_pool": True, "attn_pooler_heads": 2},
        multimodal_cfg=decoder | {"attn_pooler_heads": 1},
        custom_text=True,
    )
    assert type(encoder.module).__name__ == "CoCa"
    module: Any = encoder.module
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    tokens = encoder.tokens(CAPTIONS)
    with torch.no_grad():
        inputs = encoder.image_input(pixels)
        torch.testing.assert_close(encoder.encode_image(inputs), module.encode_image(inputs))
        torch.testing.assert_close(encoder.encode_text(tokens), module.encode_text(tokens))


@pytest.mark.parametrize("pooler", ["mean_pooler", "cls_pooler", "cls_last_hidden_state_pooler"])
def test_masked_text_towers_are_cut_exactly(heads_config: dict[str, Any], pooler: str) -> None:
    cfg = {**heads_config["model_cfg"]}
    cfg["text_cfg"] = {**cfg["text_cfg"], "hf_pooler_type": pooler}
    config = {**heads_config, "model_cfg": cfg}
    encoder = DualEncoder(build_module(cfg, seed=1), build_tokenizer(cfg), config, "heads")
    tokens = encoder.tokens(["a sheep", "a sofa in a room , picture 3 word 1"])
    module: Any = encoder.module
    seen: list[int] = []
    module.text.transformer.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    with torch.no_grad():
        got = encoder.encode_text(tokens)
        expected = module.encode_text(tokens, normalize=True)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    assert seen[0] < seen[1] == 20
