"""Feeds training steps: loads pairs in a thread during the previous step, and embeds them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mmpoison.base.content_cache import CacheKey, ContentCache
from mmpoison.base.progress import Progress, ProgressFor
from mmpoison.base.seeding import generator
from mmpoison.errors import InputError
from mmpoison.models.compute_environment import compute_environment, tower_digest
from mmpoison.models.dual_encoder import DualEncoder, Side
from mmpoison.models.inputs import (
    FeatureInputs,
    PairInputs,
    Rows,
    ahead,
    pinned_for,
    run_in_batches,
)
from mmpoison.training.objective import Objective
from mmpoison.training.settings import ROLES, Role, Trainable

# -- Selects which part of a dual encoder trains.


@dataclass(frozen=True)
class TrainedPart:
    """The trained parameters, and the role of each encoder.

    Attributes:
        image: Role of the image encoder.
        text: Role of the text encoder.
        parameters: Trained parameters by name, without the temperature.
    """

    image: Role
    text: Role
    parameters: dict[str, nn.Parameter]


def set_trainable(student: DualEncoder, trainable: Trainable) -> TrainedPart:
    """Select the parts to train. Everything else is frozen and in evaluation mode (section 5.4, "which encoder").

    Args:
        student: The encoder to train, whose modes and gradients are set.
        trainable: As in the settings.

    Raises:
        InputError: If the projection to train is not a separate part of the model.
    """
    module = student.module
    module.eval()
    module.requires_grad_(False)
    image, text = ROLES[trainable]
    visual: Any = module.visual
    if text == "trained":
        module.train()
        visual.eval()
    if image == "trained":
        visual.train()
    chosen: list[nn.Parameter] = []
    sides: tuple[tuple[Side, Role], ...] = (("image", image), ("text", text))
    for side, role in sides:
        if role == "head":
            chosen += student.head_parameters(side)
        elif role == "trained":
            of_image = side == "image"
            chosen += student.image_parameters() if of_image else student.text_parameters()
    if trainable == "text-transformer-frozen":
        blocks: Any = getattr(module, "text", module)
        still = {id(parameter) for parameter in blocks.transformer.parameters()}
        chosen = [parameter for parameter in chosen if id(parameter) not in still]
    if image == "head" and hasattr(visual, "head"):
        visual.head.train()
    if (
        text == "head"
        and (head := getattr(getattr(module, "text", None), "proj", None)) is not None
    ):
        head.train()
    ids = {id(parameter) for parameter in chosen}
    parameters = {
        name: parameter for name, parameter in module.named_parameters() if id(parameter) in ids
    }
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    student.logit_scale.requires_grad_(bool(parameters))
    return TrainedPart(image, text, parameters)


# -- Computes outputs of frozen encoders once, and caches them for other runs.


BATCH = {"image": 64, "text": 256}
HASHED_AT_ONCE = 1024


def frozen_outputs(
    encoder: DualEncoder,
    inputs: PairInputs,
    rows: Rows,
    side: Side,
    *,
    head: bool,
    cache: Path | None,
    progress: Progress | None = None,
) -> Tensor:
    """Compute one encoder's outputs for rows of the inputs, in float32, shape `(n, d)`, on the CPU.

    Args:
        encoder: The model, in evaluation mode on this side.
        inputs: The preprocessed inputs.
        rows: Rows of the inputs, each once.
        side: Which encoder.
        head: Whether the projection is also frozen; otherwise returns features before it.
        cache: Folder of a content cache; None disables caching.
        progress: Called with (done, total).
    """
    load = _loader(inputs, side)

    def encode(loaded: Tensor) -> Tensor:
        if side == "image" and head:
            return inputs.encode_images(encoder, loaded)
        if side == "image":
            return inputs.image_before_head(encoder, loaded)
        return inputs.encode_texts(encoder, loaded) if head else inputs.text_trunk(encoder, loaded)

    def compute() -> Tensor:
        return _in_batches(encoder, inputs, rows, side, load, encode, progress)

    if cache is None or isinstance(inputs, FeatureInputs):
        return compute()
    key = _key(encoder, inputs, rows, side, head)
    (outputs,) = ContentCache(cache).arrays(key, lambda: {"outputs": compute().numpy()}, "outputs")
    return torch.from_numpy(outputs)


def _loader(inputs: PairInputs, side: Side) -> Callable[[Rows], Tensor]:
    return inputs.load_images if side == "image" else inputs.load_texts


def _key(encoder: DualEncoder, inputs: PairInputs, rows: Rows, side: Side, head: bool) -> CacheKey:
    """Return the cache key: everything the outputs depend on, with the inputs row by row."""
    digest = hashlib.sha256()
    load = _loader(inputs, side)
    for start in range(0, len(rows), HASHED_AT_ONCE):
        part = load(rows[start : start + HASHED_AT_ONCE]).numpy()
        digest.update(repr(part.shape).encode())
        digest.update(part.tobytes())
    parts = {
        "computed": compute_environment(encoder.device),
        "tower": tower_digest(encoder, side, head=head),
        "inputs": digest.hexdigest(),
    }
    return CacheKey("frozen", parts, f"{side} outputs of {encoder.name}")


def _in_batches(
    encoder: DualEncoder,
    inputs: PairInputs,
    rows: Rows,
    side: Side,
    load: Callable[[Rows], Tensor],
    encode: Callable[[Tensor], Tensor],
    progress: Progress | None = None,
) -> Tensor:
    """Run rows through an encoder, batching captions of equal length to reduce padding."""
    lengths = inputs.lengths.numpy()[rows] if side == "text" else None
    outputs = run_in_batches(
        encoder, rows, BATCH[side], load, encode, lengths=lengths, progress=progress
    )
    return torch.from_numpy(outputs)


Loaded = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
"""Images and captions of some pairs, on the CPU: a tensor for each view."""


@dataclass(frozen=True)
class Request:
    """The input of a forward pass.

    Attributes:
        pairs: The pairs, shape `(n,)`.
        seed: Seed of the run.
        stream: Name of the random stream for its views.
    """

    pairs: Rows
    seed: int
    stream: str


class _FeedSide:
    """One side of the pairs: computed by the model in every step, or read from cached outputs.

    Args:
        student: The encoder in training.
        inputs: Preprocessed inputs.
        side: Which side.
        role: The part of its encoder that trains.
        rows: Row of each pair in the inputs, shape `(N,)`.
        objective: Defines the views to load.
        captions: Caption of each pair, shape `(N,)`.
    """

    def __init__(
        self,
        student: DualEncoder,
        inputs: PairInputs,
        side: Side,
        role: Role,
        rows: Rows,
        objective: Objective,
        captions: npt.NDArray[np.object_],
    ) -> None:
        self.student, self.inputs, self.side, self.role = student, inputs, side, role
        self.rows, self.objective, self.captions = rows, objective, captions
        self.views = objective.image_views if side == "image" else objective.text_views
        self.table: Tensor | None = None
        self.place: Rows | None = None
        self._refuse()

    @property
    def feature_noise(self) -> bool:
        """Whether views are made from features, because pixels and words are not loaded."""
        return self.role == "head" and any(view is not None for view in self.views)

    def _refuse(self) -> None:
        """Refuse views that cannot be made or have no effect."""
        name, what = self.objective.name, "images" if self.side == "image" else "captions"
        if all(view is None for view in self.views):
            return
        if self.role == "frozen":
            raise InputError(
                f"{name} augments the {what}, but the {self.side} encoder is frozen: "
                "set trainable to both or heads"
            )
        if self.feature_noise and self.objective.feature_view is None:
            raise InputError(
                f"{name} augments the {what} themselves, but frozen trunks leave only their features: set "
                "trainable to both"
            )

    def compute_table(self, pairs: Rows, cache: Path | None, progress: ProgressFor | None) -> None:
        if self.role == "trained":
            return
        used = np.unique(self.rows[pairs])
        self.table = frozen_outputs(
            self.student,
            self.inputs,
            used,
            self.side,
            head=self.role == "frozen",
            cache=cache,
            progress=progress(f"frozen {self.side} encoder") if progress else None,
        )
        self.place = np.full(int(used.max()) + 1, -1, dtype=np.int64)
        self.place[used] = np.arange(len(used))

    def load(self, request: Request) -> tuple[Tensor, ...]:
        """Load some pairs, one tensor per view."""
        plain = self._load_rows(self.rows[request.pairs])
        loaded = []
        for number, view in enumerate(self.views):
            one = plain
            if view is not None:
                name = f"{request.stream}/{self.side}/{number}"
                one = self._view(view, plain, request.pairs, generator(request.seed, name))
            loaded.append(pinned_for(self.student.device, one))
        return tuple(loaded)

    def _load_rows(self, rows: Rows) -> Tensor:
        if self.table is not None:
            assert self.place is not None
            return self.table[torch.from_numpy(self.place[rows])]
        return _loader(self.inputs, self.side)(rows)

    def _view(self, view: Any, plain: Tensor, pairs: Rows, stream: np.random.Generator) -> Tensor:
        if self.feature_noise:
            assert self.objective.feature_view is not None
            return self.objective.feature_view(plain, stream)
        if self.side == "image":
            pixels: Tensor = view(plain, stream)
            return pixels
        return self.student.tokens(view(list(self.captions[pairs]), stream))

    def encode(self, loaded: Tensor, encoder: DualEncoder) -> Tensor:
        """Embed one tensor returned by `load`."""
        if self.table is not None:
            features = loaded.to(encoder.device, non_blocking=True)
            if self.role == "frozen":
                return features
        elif self.side == "image":
            features = self.inputs.image_trunk(encoder, loaded)
        else:
            features = self.inputs.text_trunk(encoder, loaded)
        head = encoder.image_head if self.side == "image" else encoder.text_head
        return head(features)

    def embed_all(self) -> Tensor:
        """Embed all pairs with the student in evaluation mode, shape `(N, d)`, on the CPU."""
        rows, inverse = np.unique(self.rows, return_inverse=True)
        embedded = _in_batches(
            self.student,
            self.inputs,
            rows,
            self.side,
            self._load_rows,
            lambda loaded: self.encode(loaded, self.student),
        )
        return embedded[torch.from_numpy(inverse)]


class Feed(nn.Module):
    """Loads and embeds pairs. This is a module, so that DDP can wrap it.

    Args:
        student: The encoder in training.
        inputs: Preprocessed inputs.
        part: The trained parts.
        image_rows: Row of the image of each pair, shape `(N,)`.
        captions: Caption of each pair, shape `(N,)`.
        objective: Defines the views to load, and whether a reference model also embeds them.

    Raises:
        InputError: If a caption was not preprocessed, or a view cannot be made.
    """

    def __init__(
        self,
        student: DualEncoder,
        inputs: PairInputs,
        part: TrainedPart,
        image_rows: Rows,
        captions: npt.NDArray[np.object_],
        objective: Objective,
    ) -> None:
        super().__init__()
        self.module = student.module
        self.student = student
        text_rows = inputs.text_rows(captions)
        self._image = _FeedSide(
            student, inputs, "image", part.image, image_rows, objective, captions
        )
        self._text = _FeedSide(student, inputs, "text", part.text, text_rows, objective, captions)
        self._reference = student.copy() if objective.reference else None
        if self._reference is not None:
            self._reference.module.eval()

    @property
    def feature_noise(self) -> bool:
        """Whether views are made from features on any side."""
        return self._image.feature_noise or self._text.feature_noise

    def compute_frozen(
        self, pairs: Rows, cache: Path | None, progress: ProgressFor | None = None
    ) -> None:
        """Compute frozen encoders' outputs for the training pairs, or read them from the cache."""
        self._image.compute_table(pairs, cache, progress)
        self._text.compute_table(pairs, cache, progress)

    def load(self, request: Request) -> Loaded:
        """Load the encoders' inputs for some pairs. Runs in the feeding thread."""
        return self._image.load(request), self._text.load(request)

    def loaded(self, requests: Iterable[Request]) -> Generator[Loaded, None, None]:
        """Load requests in order, ahead of use if loading takes time."""
        looked_up = self._image.table is not None and self._text.table is not None
        if looked_up and self.student.device.type == "cpu":
            # reading cached rows is faster than passing them between threads
            yield from map(self.load, requests)
        else:
            yield from ahead(requests, self.load)

    def forward(
        self, images: tuple[Tensor, ...], texts: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
        """Compute unit embeddings of image and caption views, each of shape `(n, d)`, and exp(tau)."""
        image = tuple(self._image.encode(one, self.student).float() for one in images)
        text = tuple(self._text.encode(one, self.student).float() for one in texts)
        return image, text, self.student.logit_scale.exp()

    @torch.no_grad()
    def embed_reference(
        self, images: tuple[Tensor, ...], texts: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Embed the same with the initial encoder; empty if the objective does not need it."""
        if self._reference is None:
            return (), ()
        image = tuple(self._image.encode(one, self._reference).float() for one in images)
        return image, tuple(self._text.encode(one, self._reference).float() for one in texts)

    def embed_all(self) -> tuple[Tensor, Tensor]:
        """Embed images and captions of all pairs with the current student, each of shape `(N, d)`, on the CPU."""
        return self._image.embed_all(), self._text.embed_all()
