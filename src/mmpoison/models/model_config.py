"""Checks the open_clip config of a checkpoint, field by field, before anything is built from it.

The config is untrusted: its values reach open_clip, timm, transformers and tokenizers, some of which import code, open
files, contact a server or allocate gigabytes if a config tells them to. So only the keys that are listed here with type
and range are accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmpoison.errors import InputError

Width = Annotated[int, Field(ge=1, le=16_384)]
# twice the depth of the deepest encoder in open_clip; deeper ones take minutes to build
Layers = Annotated[int, Field(ge=1, le=128)]
Heads = Annotated[int, Field(ge=1, le=1_024)]
Ratio = Annotated[float, Field(gt=0, le=64, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=1, le=4_096)]
Token = Annotated[int, Field(ge=0, le=4_000_000)]
Context = Annotated[int, Field(ge=1, le=4_096)]
Vocabulary = Annotated[int, Field(ge=1, le=4_000_000)]
Number = Annotated[float, Field(ge=-1e4, le=1e4, allow_inf_nan=False)]
Small = Annotated[float, Field(ge=-1e3, le=1e3, allow_inf_nan=False)]
Epsilon = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Deviation = Annotated[float, Field(ge=1e-3, le=1e3, allow_inf_nan=False)]
Three = Annotated[list[Small], Field(min_length=3, max_length=3)]
ThreeDeviations = Annotated[list[Deviation], Field(min_length=3, max_length=3)]
ModelId = Annotated[str, Field(max_length=1_024, pattern=r"^[^\x00-\x1f]*$")]
"""A name on the hub or a path; `text_files` decides which ones are allowed."""
# names in timm's registry only; with a prefix before a colon timm would download
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
    """The tokenizer arguments that only change text: none names a file, a folder, a repository or a class."""

    clean: Literal["lower", "whitespace", "canonicalize"] | None = None
    strip_sep_token: bool | None = None
    language: Language | None = None
    additional_special_tokens: Annotated[list[SpecialToken], Field(max_length=100)] | None = None


class _Blocks(_Part):
    """The options that the blocks of both encoders share."""

    mlp_ratio: Ratio | None = None
    ls_init_value: Number | None = None
    final_ln_after_pool: bool | None = None
    output_tokens: bool | None = None
    act_kwargs: ActivationOptions | None = None
    norm_kwargs: NormOptions | None = None
    block_type: Literal["default", "custom"] | None = None
    qk_norm: bool | None = None
    scaled_cosine_attn: bool | None = None
    scale_heads: bool | None = None
    scale_attn_inner: bool | None = None
    scale_attn: bool | None = None
    scale_fc: bool | None = None


class VisionConfig(_Blocks):
    """open_clip's `CLIPVisionCfg`."""

    layers: Layers | Annotated[list[Layers], Field(min_length=4, max_length=4)] | None = None
    width: Width | None = None
    head_width: Width | None = None
    patch_size: Side | None = None
    image_size: Side | Annotated[list[Side], Field(min_length=2, max_length=2)] | None = None
    patch_dropout: Share | None = None
    attentional_pool: bool | Literal["parallel", "cascade"] | None = None
    attn_pooler_queries: Context | None = None
    attn_pooler_heads: Heads | None = None
    no_ln_pre: bool | None = None
    pos_embed_type: Literal["learnable", "sin_cos_2d"] | None = None
    pool_type: Literal["tok", "avg", "none"] | None = None
    timm_model_name: TimmName | None = None
    timm_model_pretrained: bool | None = None
    timm_pool: Literal["avg", "abs_attn", "rot_attn", "map", "token", "max", ""] | None = None
    timm_proj: Literal["linear", "mlp", "none", ""] | None = None
    timm_proj_bias: bool | None = None
    timm_drop: Share | None = None
    timm_drop_path: Share | None = None


class TextConfig(_Blocks):
    """open_clip's `CLIPTextCfg`."""

    context_length: Context | None = None
    vocab_size: Vocabulary | None = None
    hf_tokenizer_name: ModelId | None = None
    tokenizer_mode: Literal["clips"] | None = None
    tokenizer_kwargs: TokenizerOptions | None = None
    width: Width | None = None
    heads: Heads | None = None
    layers: Layers | None = None
    embed_cls: bool | None = None
    pad_id: Token | None = None
    eos_id: Token | None = None
    no_causal_mask: bool | None = None
    pool_type: Literal["argmax", "eos", "first", "last", "none"] | None = None
    proj_bias: bool | None = None
    proj_type: Literal["linear", "none"] | None = None
    hf_model_name: ModelId | None = None
    hf_model_pretrained: bool | None = None
    hf_proj_type: Literal["linear", "mlp"] | None = None
    hf_pooler_type: (
        Literal["mean_pooler", "max_pooler", "cls_pooler", "cls_last_hidden_state_pooler"] | None
    ) = None


class MultimodalConfig(_Blocks):
    """open_clip's `MultimodalCfg`, of CoCa."""

    context_length: Context | None = None
    vocab_size: Vocabulary | None = None
    width: Width | None = None
    heads: Heads | None = None
    layers: Layers | None = None
    dim_head: Width | None = None
    n_queries: Context | None = None
    attn_pooler_heads: Heads | None = None


class ModelConfig(_Part):
    """open_clip's `model_cfg`."""

    embed_dim: Width
    vision_cfg: VisionConfig
    text_cfg: TextConfig
    multimodal_cfg: MultimodalConfig | None = None
    custom_text: bool | None = None
    quick_gelu: bool | None = None
    init_logit_scale: Small | None = None
    init_logit_bias: Small | None = None
    nonscalar_logit_scale: bool | None = None
    cast_dtype: None = None
    output_dict: bool | None = None


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
    """Refuse a model config with any key that `ModelConfig` does not list.

    Args:
        model_cfg: open_clip's model config, not checked yet.

    Raises:
        InputError: If a key is unknown, or a value is of another type or out of range; the message names it.
    """
    checked(ModelConfig, model_cfg, "model_cfg")


def check_preprocess_cfg(preprocess_cfg: Any) -> None:
    """Refuse a `preprocess_cfg` that no image can be prepared with, for example `std: 0`.

    Raises:
        InputError: As `check_model_cfg`.
    """
    checked(PreprocessConfig, preprocess_cfg, "preprocess_cfg")


def checked(kind: type[BaseModel], value: Any, name: str) -> dict[str, Any]:
    """Return the keys of a config that a pydantic model lists, with checked values, without those that are None.

    Args:
        kind: Lists the keys, and says whether others are refused or dropped.
        value: The config, not checked yet.
        name: Its name in messages.

    Raises:
        InputError: If a key is refused, or a value is of another type or out of range; the message names it.
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
    """Turn tuples into lists: configs made in Python hold tuples, those read from JSON do not."""
    if isinstance(value, Mapping):
        return {key: _without_tuples(child) for key, child in value.items()}
    if isinstance(value, (tuple, list)):
        return [_without_tuples(child) for child in value]
    return value
