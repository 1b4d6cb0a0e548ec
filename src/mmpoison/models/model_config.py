"""Checks the open_clip config of a checkpoint, field by field, before anything is built from it.

The config is untrusted: its values reach open_clip, timm, transformers and tokenizers, which may import code, open
files, contact a server or allocate gigabytes if a config tells them to. Therefore only options of their own config
classes are accepted, with bounded numbers, and text only for the options listed in this module.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from mmpoison.errors import InputError

Size = Annotated[int, Field(ge=1, le=65_536)]
# twice the depth of the deepest encoder in open_clip; deeper ones take minutes to build
Layers = Annotated[int, Field(ge=1, le=128)]
Side = Annotated[int, Field(ge=1, le=4_096)]
Token = Annotated[int, Field(ge=-1, le=4_000_000)]
# an encoder allocates a context x context mask, which no weight reveals
Context = Annotated[int, Field(ge=1, le=4_096)]
Vocabulary = Annotated[int, Field(ge=1, le=4_000_000)]
Number = Annotated[float, Field(ge=-1e4, le=1e4, allow_inf_nan=False)]
Small = Annotated[float, Field(ge=-1e3, le=1e3, allow_inf_nan=False)]
Epsilon = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Deviation = Annotated[float, Field(ge=1e-3, le=1e3, allow_inf_nan=False)]
Three = Annotated[list[Small], Field(min_length=3, max_length=3)]
ThreeDeviations = Annotated[list[Deviation], Field(min_length=3, max_length=3)]
ModelId = Annotated[str, Field(max_length=1_024, pattern=r"^[^\x00-\x1f]*$")]
"""A hub name or a path; `text_files` decides which are allowed."""
# only names in timm's registry: with a prefix before a colon, timm would download
TimmName = Annotated[str, Field(max_length=128, pattern=r"^\w+(\.\w+)?$")]
SpecialToken = Annotated[str, Field(pattern=r"^<\w{1,62}>$")]
Language = Annotated[str, Field(pattern=r"^[A-Za-z_]{2,16}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ActivationOptions(_Part):
    """Options of the activation."""

    approximate: Literal["none", "tanh"] | None = None


class NormOptions(_Part):
    """Options of the layer norms."""

    eps: Epsilon | None = None


class TokenizerOptions(_Part):
    """The tokenizer arguments that only change text; none names a file, folder, repository or class."""

    clean: Literal["lower", "whitespace", "canonicalize"] | None = None
    strip_sep_token: bool | None = None
    language: Language | None = None
    additional_special_tokens: Annotated[list[SpecialToken], Field(max_length=100)] | None = None


_BLOCKS: dict[str, Any] = {
    "act_kwargs": ActivationOptions,
    "norm_kwargs": NormOptions,
    "block_type": Literal["default", "custom"],
}
_VISION: dict[str, Any] = {
    **_BLOCKS,
    "layers": Layers | Annotated[list[Layers], Field(min_length=4, max_length=4)],
    "image_size": Side | Annotated[list[Side], Field(min_length=2, max_length=2)],
    "patch_size": Side,
    "attn_pooler_queries": Context,
    "attentional_pool": bool | Literal["parallel", "cascade"],
    "pos_embed_type": Literal["learnable", "sin_cos_2d"],
    "pool_type": Literal["tok", "avg", "none"],
    "timm_model_name": TimmName,
    "timm_pool": Literal["avg", "abs_attn", "rot_attn", "map", "token", "max", ""],
    "timm_proj": Literal["linear", "mlp", "none", ""],
}
_TEXT: dict[str, Any] = {
    **_BLOCKS,
    "context_length": Context,
    "n_queries": Context,
    "hf_model_name": ModelId,
    "hf_tokenizer_name": ModelId,
    "tokenizer_mode": Literal["clips"],
    "tokenizer_kwargs": TokenizerOptions,
    "pool_type": Literal["argmax", "eos", "first", "last", "none"],
    "proj_type": Literal["linear", "none"],
    "hf_proj_type": Literal["linear", "mlp"],
    "hf_pooler_type": Literal[
        "mean_pooler", "max_pooler", "cls_pooler", "cls_last_hidden_state_pooler"
    ],
}
"""Allowed text, mappings and some sizes in encoder options; other numbers have the usual bounds."""


@cache
def model_config() -> type[BaseModel]:
    """Return the pydantic model of open_clip's `model_cfg`. Imports open_clip."""
    from open_clip.coca_model import MultimodalCfg
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    fields: dict[str, Any] = {
        "embed_dim": (Size, ...),
        "vision_cfg": (options_model(_Part, _VISION, CLIPVisionCfg), ...),
        "text_cfg": (options_model(_Part, _TEXT, CLIPTextCfg), ...),
        "multimodal_cfg": (options_model(_Part, _TEXT, CLIPTextCfg, MultimodalCfg) | None, None),
        **dict.fromkeys(("custom_text", "quick_gelu", "output_dict"), (bool | None, None)),
        **dict.fromkeys(("init_logit_scale", "init_logit_bias"), (Small | None, None)),
        "nonscalar_logit_scale": (bool | None, None),
        "cast_dtype": (None, None),
    }
    return create_model("ModelConfig", __base__=_Part, **fields)


def options_model(base: type[BaseModel], listed: Mapping[str, Any], *kinds: type) -> Any:
    """Create a pydantic model of the options in a library's config classes. Each may be None or missing.

    Args:
        base: Base class, which decides whether other keys are refused or dropped, and adds its own keys.
        listed: Types of options with special bounds. Unlisted text and mappings must be None, because they may name
            code, a file or a server.
        kinds: Classes with typed attributes.
    """
    hints = {name: hint for kind in kinds for name, hint in inspect.get_annotations(kind).items()}
    fields: dict[str, Any] = {
        name: (listed.get(name, _bounded(name, hint)) | None, None) for name, hint in hints.items()
    }
    return create_model(kinds[-1].__name__, __base__=base, **fields)


def _bounded(name: str, hint: Any) -> Any:
    """Replace numbers in a type with bounded ones, and possibly large values or names with None."""
    if hint is int:
        ends = {"layers": Layers, "_id": Token, "vocab_size": Vocabulary}
        return next((kind for end, kind in ends.items() if name.endswith(end)), Size)
    if isinstance(hint, UnionType) or get_origin(hint) is Union:
        return Union[tuple(_bounded(name, part) for part in get_args(hint))]  # noqa: UP007
    return {float: Number, bool: bool}.get(hint)


class PreprocessConfig(_Part):
    """open_clip's `preprocess_cfg`."""

    size: Side | Annotated[list[Side], Field(min_length=1, max_length=2)] | None = None
    mode: Literal["RGB"] | None = None
    mean: Small | Three | None = None
    std: Deviation | ThreeDeviations | None = None
    interpolation: Literal["bicubic", "bilinear", "random"] | None = None
    resize_mode: Literal["shortest", "longest", "squash"] | None = None
    fill_color: Annotated[int, Field(ge=0, le=255)] | None = None


def check_model_cfg(model_cfg: Any) -> None:
    """Refuse a model config with any option that `model_config` does not list.

    Args:
        model_cfg: open_clip's model config, unchecked.

    Raises:
        InputError: If a key is unknown, or a value has the wrong type or is out of range. The message names the key.
    """
    checked(model_config(), model_cfg, "model_cfg")


def check_preprocess_cfg(preprocess_cfg: Any) -> None:
    """Refuse a `preprocess_cfg` that cannot preprocess images, for example with `std: 0`.

    Raises:
        InputError: As `check_model_cfg`.
    """
    checked(PreprocessConfig, preprocess_cfg, "preprocess_cfg")


def checked(kind: type[BaseModel], value: Any, name: str) -> dict[str, Any]:
    """Return the keys of a config that a pydantic model lists, with checked values and without None.

    Args:
        kind: The pydantic model, which lists the keys and decides whether others are refused or dropped.
        value: The config, unchecked.
        name: Its name in messages.

    Raises:
        InputError: If a key is refused, or a value has the wrong type or is out of range. The message names the key.
    """
    try:
        model = kind.model_validate(_without_tuples(value))
    except ValidationError as error:
        first = error.errors()[0]
        # pydantic also lists the branches of a union, which are not keys
        keys = [str(part) for part in first["loc"] if str(part).isidentifier() or part == 0]
        where = ".".join([name, *(key for key in keys if key not in ("list", "constrained-int"))])
        if first["type"] == "extra_forbidden":
            raise InputError(f"{where}: unknown key") from None
        raise InputError(f"{where}: {first['msg']} (got {repr(first['input'])[:80]})") from None
    return model.model_dump(mode="json", exclude_none=True)


def _without_tuples(value: Any) -> Any:
    """Convert tuples to lists: configs created in Python contain tuples, those from JSON do not."""
    if isinstance(value, Mapping):
        return {key: _without_tuples(child) for key, child in value.items()}
    if isinstance(value, (tuple, list)):
        return [_without_tuples(child) for child in value]
    return value
