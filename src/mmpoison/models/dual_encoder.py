"""`DualEncoder`: an image encoder and a text encoder with a shared embedding space, over any open_clip model."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmpoison.errors import InputError
from mmpoison.images.preparation import Preparation
from mmpoison.models.clip_blocks import embed_patches, run_blocks, runs_blocks
from mmpoison.models.model_config import check_preprocess_cfg
from mmpoison.records.run_files import CheckpointRecord

CLIP_PREPROCESSING: dict[str, Any] = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "resize_mode": "shortest",
    "interpolation": "bicubic",
    "fill_color": 0,
}
"""open_clip's defaults for keys that a config does not set."""

Tokenizer = Callable[[list[str]], Tensor]
Side = Literal["image", "text"]
SCALES = ("logit_scale", "logit_bias")
"""Weights that belong to neither side."""


class DualEncoder:
    """A dual encoder with the preprocessing and tokenizer it was trained with.

    Each encoder is a trunk and a head. The head is the projection into the shared space, if the model has a separate
    one (CLIP's transformers, timm and Hugging Face towers do). Otherwise the trunk is the whole encoder and the head
    only normalises.

    Args:
        module: An open_clip `CLIP` or `CustomTextCLIP`.
        tokenizer: Maps captions to token ids, shape `(n, context)`.
        config: `{"model_cfg": ..., "preprocess_cfg": {"size", "mean", "std", "resize_mode", "interpolation"}}`, as
            open_clip writes it.
        name: Its name in results.

    Attributes:
        preparation: How it resizes and crops images.

    Raises:
        InputError: If the config asks for unknown image preprocessing.
    """

    def __init__(
        self, module: nn.Module, tokenizer: Tokenizer, config: Mapping[str, Any], name: str
    ) -> None:
        self.module = module
        self.tokenizer = tokenizer
        self.config = copy.deepcopy(dict(config))
        self.name = name
        preprocess = CLIP_PREPROCESSING | {
            key: value
            for key, value in self.config.get("preprocess_cfg", {}).items()
            if value is not None
        }
        size = _side(preprocess.get("size") or self.config["model_cfg"]["vision_cfg"]["image_size"])
        # open_clip prefers the image encoder's own size over the config's
        own_size = getattr(module.visual, "image_size", None)
        interpolation = preprocess["interpolation"]
        self.preparation = Preparation(
            size if own_size is None else _side(own_size),
            preprocess["resize_mode"],
            # random only during training
            "bicubic" if interpolation == "random" else interpolation,
            preprocess["fill_color"],
        )
        check_preprocess_cfg(self.config.get("preprocess_cfg", {}))
        self._mean = _channels(preprocess["mean"])
        self._std = _channels(preprocess["std"])

    def __repr__(self) -> str:
        count = sum(parameter.numel() for parameter in self.module.parameters())
        size = f"{count / 1e6:,.1f} million parameters, images of {self.image_size} pixels"
        return f"DualEncoder({self.name!r}, {size}, {self.device})"

    @property
    def record(self) -> CheckpointRecord:
        """Facts about the checkpoint it was loaded from; empty if there are none.

        Raises:
            InputError: If the config contains something else there.
        """
        return CheckpointRecord.of(self.config.get("mmpoison", {}), "model config: mmpoison")

    @property
    def image_size(self) -> int:
        """Side length of its images in pixels."""
        return self.preparation.image_size

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.module.parameters()).device

    @property
    def logit_scale(self) -> nn.Parameter:
        """The learnt log of the inverse temperature."""
        scale = self.module.logit_scale
        assert isinstance(scale, nn.Parameter)
        return scale

    def digest(self) -> str:
        """Return the sha256 of all weights and statistics."""
        digest = hashlib.sha256()
        for name, tensor in self.module.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def copy(self, name: str | None = None) -> DualEncoder:
        """Return an independent copy: training one does not change the other."""
        return DualEncoder(
            copy.deepcopy(self.module), self.tokenizer, self.config, name or self.name
        )

    def to(self, device: torch.device | str) -> DualEncoder:
        """Move the weights to a device, in channels-last layout on a GPU. Returns the same encoder."""
        before, place = self.device.type, torch.device(device)
        self.module.to(place)
        # convolutions on a GPU are faster this way; on a CPU, keep the layout and thus the last bits
        image: Any = self.module.visual
        if place.type == "cuda":
            image.to(memory_format=torch.channels_last)
        elif before == "cuda":
            image.to(memory_format=torch.contiguous_format)
        return self

    # -- inputs ---------------------------------------------------------------------------------------------------

    def image_input(self, pixels: npt.NDArray[np.uint8] | Tensor) -> Tensor:
        """Normalise pixels for the image encoder, bit for bit as open_clip does.

        Args:
            pixels: RGB, shape `(n, size, size, 3)`, uint8.

        Returns:
            Shape `(n, 3, size, size)`, float32, channels last in memory, on the encoder's device.
        """
        tensor = torch.as_tensor(pixels).to(self.device, non_blocking=True)
        width = tensor.shape[2]
        # process whole rows: three channels alone do not fill a vector register
        rows = tensor.flatten(2).float()
        if self._mean.device != tensor.device:
            # only once: copying a few numbers to a GPU waits for all its computations
            self._mean, self._std = (v.to(tensor.device) for v in (self._mean, self._std))
        mean, std = (value.repeat(width) for value in (self._mean, self._std))
        return rows.div_(255).sub_(mean).div_(std).view(tensor.shape).permute(0, 3, 1, 2)

    def tokens(self, captions: Sequence[str]) -> Tensor:
        """Tokenise captions, padded to the model's context: shape `(n, context)`, int64 on the CPU.

        Raises:
            InputError: If the tokenizer fails, or produces tokens unknown to the text encoder.
        """
        try:
            tokens = torch.as_tensor(self.tokenizer(list(captions)))
        except Exception as error:  # tokenizers raises plain exceptions
            raise InputError(
                f"{self.name}: its tokenizer fails on a caption ({repr(error)[:200]})"
            ) from None
        known = self.vocabulary
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < known:
            raise InputError(
                f"{self.name}: its tokenizer gives token {int(tokens.max())}, but its text encoder has {known:,}"
            )
        return tokens

    @property
    def vocabulary(self) -> int:
        """Number of tokens that the text encoder knows."""
        text: Any = getattr(self.module, "text", self.module)
        if self._text_is_hugging_face:
            return int(text.transformer.get_input_embeddings().num_embeddings)
        return int(text.token_embedding.num_embeddings)

    def token_lengths(self, tokens: Tensor) -> Tensor:
        """Count the tokens of each row up to the end of text, shape `(n,)`."""
        if self._text_is_hugging_face:
            text: Any = self.module.text
            return torch.as_tensor((tokens != text.config.pad_token_id).sum(dim=1))
        return _end_of_text(getattr(self.module, "text", self.module), tokens) + 1

    # -- embeddings -----------------------------------------------------------------------------------------------

    def image_trunk(self, inputs: Tensor) -> Tensor:
        """Compute image features before the head, shape `(n, f)`."""
        visual: Any = self.module.visual
        if hasattr(visual, "trunk"):
            features: Tensor = visual.trunk(inputs)
            return features
        if isinstance(self._image_projection, nn.Parameter):
            tokens = embed_patches(visual, inputs)
            if not runs_blocks(visual.transformer):
                pooled: Tensor = visual._pool(visual.transformer(tokens))[0]
            elif _reads_class_token(visual):
                first = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
                pooled = visual.ln_post(run_blocks(visual.transformer, tokens, read=first))
            else:
                pooled = visual._pool(run_blocks(visual.transformer, tokens))[0]
            return pooled
        encoded = visual(inputs)
        # CoCa's image encoder also returns its tokens
        return torch.as_tensor(encoded[0] if isinstance(encoded, tuple) else encoded)

    def image_before_head(self, inputs: Tensor) -> Tensor:
        """Compute the image projection's input, shape `(n, f)`, for features to cache; else as `image_trunk`.

        A ResNet projects inside its attention pooling; this function pools without the projection. `image_trunk`
        follows open_clip, which is faster if nothing is cached.
        """
        held = self._image_projection
        if not isinstance(held, nn.Linear):
            return self.image_trunk(inputs)
        visual: Any = self.module.visual
        plain = nn.Linear(
            held.in_features, held.in_features, device=self.device, dtype=held.weight.dtype
        )
        with torch.no_grad():
            plain.weight.copy_(torch.eye(held.in_features))
            plain.bias.zero_()
        try:
            visual.attnpool.c_proj = plain
            return torch.as_tensor(visual(inputs))
        finally:
            visual.attnpool.c_proj = held

    def image_head(self, features: Tensor) -> Tensor:
        """Project image features to unit embeddings, shape `(n, d)`, float32."""
        projection = self._image_projection
        # a ResNet's trunk may already have projected
        if isinstance(projection, nn.Linear) and features.shape[-1] != projection.in_features:
            projection = None
        return F.normalize(_project(features, projection).float(), dim=-1)

    def text_trunk(self, tokens: Tensor) -> Tensor:
        """Compute text features before the head, shape `(n, f)`.

        The batch is cut at its longest caption if padding never changes the result (masked and causal towers).

        Args:
            tokens: Token ids, shape `(n, context)`, on any device. On the CPU, a GPU need not wait for the cut.
        """
        longest = int(self.token_lengths(tokens).max())
        # moved as a whole: a part of pinned memory would first be copied elsewhere
        tokens = tokens.to(self.device, non_blocking=True)
        short = tokens[:, :longest]
        module: Any = self.module
        if self._text_is_hugging_face:
            mask = (short != module.text.config.pad_token_id).long()
            hidden = module.text.transformer(input_ids=short, attention_mask=mask)
            return torch.as_tensor(module.text.pooler(hidden, mask))
        tower = getattr(module, "text", module)
        if _is_causal(tower):
            return _causal_text(tower, short)
        encoded: Tensor = module.encode_text(tokens)
        return encoded

    def text_head(self, features: Tensor) -> Tensor:
        """Project text features to unit embeddings, shape `(n, d)`, float32."""
        return F.normalize(_project(features, self._text_projection).float(), dim=-1)

    def encode_image(self, inputs: Tensor) -> Tensor:
        """Compute unit embeddings of images, shape `(n, d)`, float32."""
        return self.image_head(self.image_trunk(inputs))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Compute unit embeddings of captions, shape `(n, d)`, float32."""
        return self.text_head(self.text_trunk(tokens))

    # -- parts ----------------------------------------------------------------------------------------------------

    @property
    def _text_is_hugging_face(self) -> bool:
        text = getattr(self.module, "text", None)
        return text is not None and hasattr(text, "pooler")

    @property
    def _image_projection(self) -> nn.Module | nn.Parameter | None:
        """Return the image encoder's final projection, if it is separate: timm's, a ResNet's, or CLIP's matrix.

        A ResNet projects inside its attention pooling; this counts as separate if it changes the width.
        """
        visual: Any = self.module.visual
        if hasattr(visual, "trunk"):
            head: nn.Module = visual.head
            return head
        pool = getattr(getattr(visual, "attnpool", None), "c_proj", None)
        if isinstance(pool, nn.Linear) and pool.in_features != pool.out_features:
            return pool
        matrix = getattr(visual, "proj", None)
        return matrix if isinstance(matrix, nn.Parameter) and hasattr(visual, "_pool") else None

    @property
    def _text_projection(self) -> nn.Module | nn.Parameter | None:
        """Return the text encoder's final projection, if it is separate: Hugging Face's, a matrix or a linear layer."""
        tower: Any = getattr(self.module, "text", self.module)
        if self._text_is_hugging_face:
            head: nn.Module = tower.proj
            return head
        return getattr(tower, "text_projection", None) if _is_causal(tower) else None

    def image_parameters(self) -> list[nn.Parameter]:
        """List all parameters of the image encoder."""
        visual = self.module.visual
        assert isinstance(visual, nn.Module)
        return list(visual.parameters())

    def text_parameters(self) -> list[nn.Parameter]:
        """List all parameters of the text encoder: embeddings, transformer, final norm and projection."""
        image = {id(parameter) for parameter in self.image_parameters()}
        return [
            parameter
            for name, parameter in self.module.named_parameters()
            if id(parameter) not in image and name not in SCALES
        ]

    @property
    def has_heads(self) -> bool:
        """Whether a tower ends in a separate projection, so that trunks can run once for many models."""
        return bool(self.image_head_parameters() or self.text_head_parameters())

    def image_head_parameters(self) -> list[nn.Parameter]:
        """List the parameters of the image projection; empty if the model has no separate one."""
        return _parameters(self._image_projection)

    def text_head_parameters(self) -> list[nn.Parameter]:
        """List the parameters of the text projection; empty if the model has no separate one."""
        return _parameters(self._text_projection)

    def head_parameters(
        self, side: Literal["both", "image", "text"] = "both"
    ) -> list[nn.Parameter]:
        """List the parameters of the projections.

        Args:
            side: Which encoder.

        Raises:
            InputError: If the model has no separate projection there.
        """
        image, text = self.image_head_parameters(), self.text_head_parameters()
        if (side != "text" and not image) or (side != "image" and not text):
            raise InputError(
                f"model {self.name!r} has no separate projections, so they cannot be trained alone: "
                "train both, image or text"
            )
        return {"both": image + text, "image": image, "text": text}[side]


def _project(features: Tensor, projection: nn.Module | nn.Parameter | None) -> Tensor:
    if isinstance(projection, nn.Module):
        features = projection(features)
    elif projection is not None:
        features = features @ projection
    return features


def _parameters(projection: nn.Module | nn.Parameter | None) -> list[nn.Parameter]:
    if isinstance(projection, nn.Module):
        return list(projection.parameters())
    return [] if projection is None else [projection]


def _side(size: Any) -> int:
    """Return the side in pixels of a square size, given as one number or as height and width.

    Raises:
        InputError: If it is not square.
    """
    sides = [size] if isinstance(size, int) else list(size)
    if len(set(sides)) != 1:
        raise InputError(f"image size {repr(size)[:40]}: only square images are supported")
    return int(sides[0])


def _channels(value: Any) -> Tensor:
    """Return one number per channel, shape `(3,)`, float32; a single number is repeated."""
    numbers = torch.as_tensor(value, dtype=torch.float32)
    return numbers.expand(3) if numbers.ndim == 0 else numbers.view(3)


def _reads_class_token(visual: Any) -> bool:
    """Check whether an image transformer's embedding is only the class token."""
    whole = visual.attn_pool is not None or visual.final_ln_after_pool
    return visual.pool_type == "tok" and not whole


def _is_causal(tower: Any) -> bool:
    """Check whether a text tower is CLIP's: causal, with the embedding at the end of the text."""
    special = getattr(tower, "use_pad_mask", False) or getattr(tower, "cls_emb", None) is not None
    causal = getattr(tower, "attn_mask", None) is not None
    return _pool(tower) in ("argmax", "eos") and causal and not special


def _pool(tower: Any) -> str | None:
    """Return how a text tower of open_clip pools its tokens."""
    pool = getattr(tower, "pool_type", getattr(tower, "text_pool_type", None))
    return None if pool is None else str(pool)


def _end_of_text(tower: Any, tokens: Tensor) -> Tensor:
    """Return the position of the token that becomes a caption's embedding, shape `(n,)`."""
    if _pool(tower) == "eos":
        end = int(getattr(tower, "eos_id", getattr(tower, "text_eos_id", -1)))
        return tokens.eq(end).int().argmax(dim=1)
    # the end-of-text token is the last of CLIP's vocabulary; padding is 0, which is also "!"
    return tokens.argmax(dim=1)


def _causal_text(module: Any, tokens: Tensor) -> Tensor:
    """Run open_clip's text encoder up to its projection, on a batch shorter than the context.

    open_clip itself refuses such a batch. The text tower is causal: a token never sees later tokens, so cutting the
    padding after the last end of text cannot change an output or a gradient.
    """
    length = tokens.shape[1]
    x = module.token_embedding(tokens) + module.positional_embedding[:length]
    mask = module.attn_mask[:length, :length]
    x = x.to(module.transformer.get_cast_dtype())
    end = _end_of_text(module, tokens)
    if runs_blocks(module.transformer):
        return torch.as_tensor(module.ln_final(run_blocks(module.transformer, x, mask, end)))
    x = module.ln_final(module.transformer(x, attn_mask=mask))
    return torch.as_tensor(x[torch.arange(len(x), device=x.device), end])
