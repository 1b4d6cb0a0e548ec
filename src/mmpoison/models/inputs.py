"""Preprocessed inputs of a dual encoder: images decoded and distinct captions tokenised once for all stages of a run.

`PixelInputs` feed whole encoders. `FeatureInputs` feed only the heads: the output of frozen trunks never changes, so it
is computed once, and training with the same numbers is orders of magnitude faster.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmpoison.base.content_cache import CacheKey, ContentCache
from mmpoison.base.progress import Progress, ProgressFor
from mmpoison.errors import InputError
from mmpoison.images.sources import image_stats
from mmpoison.images.store import PixelStore
from mmpoison.models.compute_environment import (
    compute_environment,
    tokenizer_key,
    tower_digest,
)
from mmpoison.models.dual_encoder import DualEncoder, Side
from mmpoison.pairs.table import IntArray, PairDataset

# -- The loop that runs an encoder over rows without gradients, batch by batch.


A = TypeVar("A")
B = TypeVar("B")

Precision = Literal["fp32", "bf16"]
"""Numeric precision of the encoders.

16-bit embeddings produce ties and rank changes that the model itself does not have. Measurements of ranks therefore
default to 32-bit; bf16 is for threshold scans of large data.
"""


@contextmanager
def evaluation_mode(encoder: DualEncoder) -> Iterator[None]:
    """Set the encoder to evaluation mode while the block runs, and restore its modes afterwards."""
    # one by one: an encoder in training may be partly frozen
    modes = [(module, module.training) for module in encoder.module.modules()]
    encoder.module.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def ahead(items: Iterable[A], prepare: Callable[[A], B]) -> Generator[B, None, None]:
    """Prepare items in order, each while the previous one is in use.

    >>> list(ahead([1, 2, 3], str))
    ['1', '2', '3']
    """
    pending: deque[Future[B]] = deque()
    with ThreadPoolExecutor(1, "feed") as pool:
        try:
            for item in items:
                pending.append(pool.submit(prepare, item))
                if len(pending) > 1:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def pinned_for(device: torch.device, tensor: torch.Tensor) -> torch.Tensor:
    """Return a CPU tensor that can be copied to the device without making the CPU wait: pinned for a GPU."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def run_in_batches(
    encoder: DualEncoder,
    rows: npt.NDArray[np.int64],
    batch_size: int,
    load: Callable[[npt.NDArray[np.int64]], torch.Tensor],
    encode: Callable[[torch.Tensor], torch.Tensor],
    *,
    lengths: npt.NDArray[np.int64] | None = None,
    precision: Precision = "fp32",
    progress: Progress | None = None,
) -> npt.NDArray[np.float32]:
    """Run an encoder in evaluation mode, with only one batch (on a GPU also its neighbours) and the result in memory.

    On a GPU, a thread loads the next batch to pinned memory, and outputs are copied back while the next batch is
    computed. On a CPU, the steps run one after another.

    Args:
        encoder: The model; its modes are restored afterwards.
        rows: Rows, shape `(n,)`, parts of which are passed to `load`.
        batch_size: Rows at a time.
        load: Loads the input of some rows, on the CPU, without running a model.
        encode: Computes the outputs of loaded inputs, shape `(len(rows), d)`.
        lengths: Caption lengths of the rows. Rows run in order of length, so that lengths in a batch are similar.
        precision: Numeric precision.
        progress: Called with (done, total).

    Returns:
        The outputs in the order of the rows, shape `(n, d)`.
    """
    outputs = np.empty((0, 0), dtype=np.float32)
    order = np.arange(len(rows)) if lengths is None else np.argsort(lengths, kind="stable")
    mixed = torch.autocast(encoder.device.type, torch.bfloat16, enabled=precision == "bf16")
    on_gpu = encoder.device.type == "cuda"
    done = 0
    # no_grad, not inference_mode: the latter is 2.5 times slower under bf16 autocast on a CPU
    with (
        evaluation_mode(encoder),
        torch.no_grad(),
        mixed,
        closing(_loaded(rows[order], batch_size, load, encoder.device)) as loaded,
    ):
        for part in _copied((encode(one).float() for one in loaded), on_gpu=on_gpu):
            if not done:
                outputs = np.empty((len(rows), part.shape[1]), dtype=np.float32)
            outputs[order[done : done + len(part)]] = part
            done += len(part)
            if progress is not None:
                progress(done, len(rows))
    return outputs


def _loaded(
    rows: npt.NDArray[np.int64],
    batch_size: int,
    load: Callable[[npt.NDArray[np.int64]], torch.Tensor],
    device: torch.device,
) -> Generator[torch.Tensor, None, None]:
    """Load batches; for a GPU, each while the previous one is in use."""
    parts = (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
    if device.type == "cuda":
        yield from ahead(parts, lambda part: pinned_for(device, load(part)))
    else:
        yield from map(load, parts)


def _copied(outputs: Iterable[torch.Tensor], *, on_gpu: bool) -> Iterator[npt.NDArray[Any]]:
    """Copy outputs to the CPU; from a GPU, each after the next has started, so that the GPU does not wait."""
    if not on_gpu:
        yield from (output.cpu().numpy() for output in outputs)
        return
    waiting: tuple[torch.Tensor, torch.cuda.Event] | None = None
    for output in outputs:
        # torch pins the target of such a copy
        copy = output.to("cpu", non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        # on the model's GPU, which need not be torch's current one
        copied.record(torch.cuda.current_stream(output.device))
        if waiting is not None:
            waiting[1].synchronize()
            yield waiting[0].numpy()
        waiting = copy, copied
    if waiting is not None:
        waiting[1].synchronize()
        yield waiting[0].numpy()


Rows = npt.NDArray[np.int64]


class PairInputs(ABC):
    """Inputs of one data set for one kind of encoder.

    Args:
        captions: The distinct captions, sorted.
        lengths: Number of tokens of each, shape `(U,)`.
        image_position: Input row of each image in the table, -1 if absent, shape `(I,)`.
    """

    def __init__(self, captions: Sequence[str], lengths: Tensor, image_position: IntArray) -> None:
        self._row = {caption: row for row, caption in enumerate(captions)}
        self.lengths = lengths
        self.image_position = image_position

    @property
    def captions(self) -> list[str]:
        """The captions in row order."""
        return list(self._row)

    def text_rows(self, captions: Sequence[str] | npt.NDArray[np.object_]) -> Rows:
        """Return the rows of captions in the inputs, shape `(n,)`.

        Raises:
            InputError: If a caption was not preprocessed.
        """
        try:
            return np.fromiter(
                (self._row[c] for c in captions), dtype=np.int64, count=len(captions)
            )
        except KeyError as error:
            raise InputError(f"caption {error.args[0]!r} was not prepared for this model") from None

    def image_rows(self, indices: IntArray) -> Rows:
        """Return the rows of images in the inputs, shape `(n,)`.

        Raises:
            InputError: If an image was not preprocessed.
        """
        rows = self.image_position[indices].astype(np.int64)
        if rows.size and rows.min() < 0:
            raise InputError(f"image {int(indices[rows.argmin()])} was not prepared for this model")
        return rows

    @abstractmethod
    def load_images(self, rows: Rows) -> Tensor:
        """Load the image encoder's input for these rows, on the CPU. No model runs, so a thread may do this ahead."""

    @abstractmethod
    def load_texts(self, rows: Rows) -> Tensor:
        """Load the text encoder's input for these rows, on the CPU."""

    @abstractmethod
    def image_trunk(self, encoder: DualEncoder, loaded: Tensor) -> Tensor:
        """Compute features before the image head from the result of `load_images`, shape `(n, f)`."""

    def image_before_head(self, encoder: DualEncoder, loaded: Tensor) -> Tensor:
        """Compute the same for features to cache while the head trains; see `DualEncoder.image_before_head`."""
        return self.image_trunk(encoder, loaded)

    @abstractmethod
    def text_trunk(self, encoder: DualEncoder, loaded: Tensor) -> Tensor:
        """Compute features before the text head from the result of `load_texts`, shape `(n, f)`."""

    def encode_images(self, encoder: DualEncoder, loaded: Tensor) -> Tensor:
        """Embed the result of `load_images`; returns unit embeddings, shape `(n, d)`, with gradients if enabled."""
        return encoder.image_head(self.image_trunk(encoder, loaded))

    def encode_texts(self, encoder: DualEncoder, loaded: Tensor) -> Tensor:
        """Embed the result of `load_texts`; returns unit embeddings, shape `(n, d)`, with gradients if enabled."""
        return encoder.text_head(self.text_trunk(encoder, loaded))


class PixelInputs(PairInputs):
    """Decoded pixels and tokens: both whole encoders run."""

    def __init__(
        self, captions: Sequence[str], tokens: Tensor, lengths: Tensor, pixels: PixelStore
    ) -> None:
        super().__init__(captions, lengths, pixels.position)
        self.tokens = tokens
        self.pixels = pixels

    def load_images(self, rows: Rows) -> Tensor:
        return torch.from_numpy(self.pixels.pixels[rows])

    def load_texts(self, rows: Rows) -> Tensor:
        return self.tokens[torch.as_tensor(rows)].long()

    def image_trunk(self, encoder: DualEncoder, loaded: Tensor) -> Tensor:
        return encoder.image_trunk(encoder.image_input(loaded))

    def image_before_head(self, encoder: DualEncoder, loaded: Tensor) -> Tensor:
        return encoder.image_before_head(encoder.image_input(loaded))

    def text_trunk(self, encoder: DualEncoder, loaded: Tensor) -> Tensor:
        return encoder.text_trunk(loaded)


class FeatureInputs(PairInputs):
    """Features of frozen trunks: only the heads run."""

    def __init__(
        self,
        captions: Sequence[str],
        lengths: Tensor,
        image_features: Tensor,
        text_features: Tensor,
        image_position: IntArray,
    ) -> None:
        super().__init__(captions, lengths, image_position)
        self.image_features = image_features
        self.text_features = text_features

    def load_images(self, rows: Rows) -> Tensor:
        return self.image_features[torch.as_tensor(rows)]

    def load_texts(self, rows: Rows) -> Tensor:
        return self.text_features[torch.as_tensor(rows)]

    def image_trunk(self, encoder: DualEncoder, loaded: Tensor) -> Tensor:
        return loaded.to(encoder.device, non_blocking=True)

    def text_trunk(self, encoder: DualEncoder, loaded: Tensor) -> Tensor:
        return loaded.to(encoder.device, non_blocking=True)


def prepare_pixels(
    encoder: DualEncoder,
    pairs: PairDataset,
    *,
    images: IntArray | None = None,
    pixels: PixelStore | None = None,
    broken: Literal["raise", "drop"] = "raise",
    progress: ProgressFor | None = None,
) -> PixelInputs:
    """Decode the images and tokenise the captions of a data set for an encoder.

    Args:
        encoder: The encoder, which defines image preprocessing and tokenizer.
        pairs: All pairs that any stage will use; unused images are not decoded.
        images: Images needed although they are in no pair (a gallery may have images without captions).
        pixels: Already decoded images, reused if their preprocessing matches this encoder.
        broken: As in `PixelStore.decode`: with `drop`, unreadable images are listed in `pixels.broken`, and the caller
            must drop their pairs.
        progress: Returns a progress callback for a named step.

    Raises:
        InputError: If an image is missing or broken, and `broken` is not `drop`.
    """
    used = _needed(pairs, images)
    if (
        pixels is None
        or pixels.preparation != encoder.preparation
        or len(pixels.position) != len(pairs.images)
        or (pixels.position[used] < 0).any()
    ):
        pixels = PixelStore.decode(
            pairs,
            encoder.preparation,
            indices=used,
            broken=broken,
            progress=progress("decoding images") if progress else None,
        )
    captions = sorted(set(pairs.captions))
    tokens, lengths = _tokens(encoder, captions)
    return PixelInputs(captions, tokens, lengths, pixels)


def _tokens(encoder: DualEncoder, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    tokens = encoder.tokens(captions) if captions else torch.zeros((0, 1), dtype=torch.int64)
    return tokens.to(torch.int32), encoder.token_lengths(tokens)


def prepare_features(
    encoder: DualEncoder,
    pairs: PairDataset,
    *,
    images: IntArray | None = None,
    cache: Path | None = None,
    progress: ProgressFor | None = None,
) -> FeatureInputs:
    """Run both trunks over a data set once.

    Args:
        encoder: Must have a separate projection.
        pairs: All pairs that any stage will use.
        images: Images needed although they are in no pair, see `prepare_pixels`.
        cache: Folder of a content cache; None disables caching. Images and captions have separate entries. The key
            contains the trunk's weights, the captions or the images' paths, sizes and modification times, and the
            compute environment, so that stale entries are never used.
        progress: Returns a progress callback for a named step.

    Raises:
        InputError: If the encoder has no separate heads, or an image is missing or broken.
    """
    # a side without a separate head is all trunk: its features are its embeddings
    if not encoder.has_heads:
        encoder.head_parameters()
    captions = sorted(set(pairs.captions))
    used = _needed(pairs, images)
    position = np.full(len(pairs.images), -1, dtype=np.int32)
    position[used] = np.arange(len(used), dtype=np.int32)

    def image_features() -> dict[str, npt.NDArray[Any]]:
        pixels = PixelStore.decode(
            pairs,
            encoder.preparation,
            indices=used,
            progress=progress("decoding images") if progress else None,
        )
        image = run_in_batches(
            encoder,
            np.arange(len(used)),
            64,
            lambda rows: torch.from_numpy(pixels.pixels[rows]),
            lambda loaded: encoder.image_before_head(encoder.image_input(loaded)),
            progress=progress("image features") if progress else None,
        )
        return {"image": image}

    def text_features() -> dict[str, npt.NDArray[Any]]:
        tokens, lengths = (tensor.numpy() for tensor in _tokens(encoder, captions))
        text = run_in_batches(
            encoder,
            np.arange(len(captions)),
            256,
            lambda rows: torch.from_numpy(tokens[rows]).long(),
            encoder.text_trunk,
            lengths=lengths,
            progress=progress("text features") if progress else None,
        )
        return {"text": text, "lengths": lengths}

    def found(
        side: Side,
        inputs: Callable[[], dict[str, str]],
        compute: Callable[[], dict[str, Any]],
        *names: str,
    ) -> list[Tensor]:
        if cache is None:
            made = compute()
            return [torch.from_numpy(made[name]) for name in names]
        key = _features_key(encoder, side, inputs())
        return [*map(torch.from_numpy, ContentCache(cache).arrays(key, compute, *names))]

    # separate entries: sets with the same images may differ in captions, and models in one tower
    (image,) = found(
        "image", lambda: {"images": files_digest(pairs, used)}, image_features, "image"
    )
    text, lengths = found(
        "text",
        lambda: {"captions": texts_digest(captions), "tokenizer": tokenizer_key(encoder)},
        text_features,
        "text",
        "lengths",
    )
    return FeatureInputs(captions, lengths, image, text, position)


def add_missing(
    inputs: PairInputs,
    encoder: DualEncoder,
    pairs: PairDataset,
    *,
    progress: ProgressFor | None = None,
) -> PairInputs:
    """Extend inputs with the captions and images of a poisoned set, without recomputing existing ones.

    Args:
        inputs: Preprocessed inputs of the clean set.
        encoder: The model they were preprocessed for.
        pairs: The poisoned set, whose image table is the clean one, followed by new images if any.
        progress: Returns a progress callback for a named step.

    Raises:
        InputError: If an image is missing or broken.
    """
    position = np.full(len(pairs.images), -1, dtype=np.int32)
    position[: len(inputs.image_position)] = inputs.image_position
    known = set(inputs.captions)
    unknown = np.array([caption not in known for caption in pairs.captions], dtype=bool)
    lacking = (position[pairs.image] < 0) | unknown
    if not lacking.any():
        return inputs
    new = pairs.where(lacking)
    if isinstance(inputs, PixelInputs):
        everything = np.union1d(np.flatnonzero(position >= 0), new.image).astype(np.int32)
        more: PairInputs = prepare_pixels(
            encoder, new, images=everything, pixels=inputs.pixels, progress=progress
        )
    else:
        more = prepare_features(encoder, new, progress=progress)
    captions = [caption for caption in more.captions if caption not in known]
    text = torch.as_tensor(more.text_rows(captions))
    lengths = torch.cat([inputs.lengths, more.lengths[text]])
    if isinstance(inputs, PixelInputs) and isinstance(more, PixelInputs):
        tokens = torch.cat([inputs.tokens, more.tokens[text]])
        return PixelInputs([*inputs.captions, *captions], tokens, lengths, more.pixels)
    assert isinstance(inputs, FeatureInputs)
    assert isinstance(more, FeatureInputs)
    new_images = np.flatnonzero((position < 0) & (more.image_position >= 0))
    position[new_images] = len(inputs.image_features) + np.arange(len(new_images))
    image = more.image_rows(new_images.astype(np.int32))
    return FeatureInputs(
        [*inputs.captions, *captions],
        lengths,
        torch.cat([inputs.image_features, more.load_images(image)]),
        torch.cat([inputs.text_features, more.text_features[text]]),
        position,
    )


def _needed(pairs: PairDataset, images: IntArray | None) -> IntArray:
    used = pairs.used_images()
    return used if images is None else np.union1d(used, images).astype(np.int32)


def _features_key(encoder: DualEncoder, side: Side, inputs: dict[str, str]) -> CacheKey:
    parts = {
        "computed": compute_environment(encoder.device),
        "trunk": tower_digest(encoder, side, head=False),
        **inputs,
    }
    return CacheKey("features", parts, f"{side} features of {encoder.name}")


def texts_digest(texts: Iterable[str]) -> str:
    """Return the sha256 of texts in order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def files_digest(pairs: PairDataset, images: IntArray) -> str:
    """Return the sha256 of the paths, sizes and modification times of image files.

    Raises:
        InputError: If an image is missing.
    """
    digest = hashlib.sha256()
    ids = pairs.images.ids
    for path, size, changed in image_stats(pairs.root, (ids[index] for index in images)):
        digest.update(f"{path} {size} {changed}\n".encode())
    return digest.hexdigest()


def present_files_digest(pairs: PairDataset, images: IntArray) -> tuple[str, frozenset[str]]:
    """Return `files_digest` of a set that may lack images, and the ids of the missing ones.

    The digest includes which images are missing and why; if none is, it equals `files_digest`.
    """
    try:
        return files_digest(pairs, images), frozenset()
    except (InputError, OSError):
        pass
    digest = hashlib.sha256()
    missing: set[str] = set()
    for image_id in map(str, pairs.images.ids[images]):
        try:
            for path, size, changed in image_stats(pairs.root, [image_id]):
                digest.update(f"{path} {size} {changed}\n".encode())
        except (InputError, OSError) as error:
            missing.add(image_id)
            digest.update(f"missing: {image_id!r} {error}\n".encode(errors="surrogateescape"))
    return digest.hexdigest(), frozenset(missing)
