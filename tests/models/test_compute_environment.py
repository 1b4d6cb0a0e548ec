"""What identifies a model in a cache."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from mmpoison.models import DualEncoder
from mmpoison.models.compute_environment import encoder_identity, tokenizer_key
from mmpoison.models.open_clip_build import build_tokenizer
from mmpoison.models.pretrained import LITE0, TEXT_PACKAGE, towers_config


def renamed(encoder: DualEncoder, name: str = "other") -> DualEncoder:
    return DualEncoder(encoder.module, copy.deepcopy(encoder.tokenizer), encoder.config, name)


def test_a_name_is_no_part_of_it(encoder: DualEncoder) -> None:
    assert encoder_identity(renamed(encoder)) == encoder_identity(encoder)


def context(tokenizer: object) -> None:
    tokenizer.context_length = 5  # type: ignore[attr-defined]


def merge(tokenizer: object) -> None:
    first, second, *_ = ranks = tokenizer.bpe_ranks  # type: ignore[attr-defined]
    ranks[first], ranks[second] = ranks[second], ranks[first]


def cleaning(tokenizer: object) -> None:
    tokenizer.clean_fn = str.strip  # type: ignore[attr-defined]


@pytest.mark.parametrize("change", [context, merge, cleaning])
def test_any_change_of_a_tokenizer_is_another_model(
    encoder: DualEncoder, change: Callable[[object], None]
) -> None:
    other = renamed(encoder)
    change(other.tokenizer)
    assert tokenizer_key(other) != tokenizer_key(encoder)
    assert encoder_identity(other) != encoder_identity(encoder)


def test_a_token_more_of_hugging_face_is_another_model() -> None:
    pytest.importorskip(TEXT_PACKAGE)

    def key(more: list[str]) -> str:
        tokenizer: Any = build_tokenizer(towers_config(LITE0)["model_cfg"])
        tokenizer.tokenizer.add_tokens(more)
        tokens = {"tokens": lambda captions: torch.as_tensor(tokenizer(list(captions)))}
        return tokenizer_key(cast("DualEncoder", SimpleNamespace(tokenizer=tokenizer, **tokens)))

    assert key([]) == key([])
    assert key(["heliport"]) != key([])
