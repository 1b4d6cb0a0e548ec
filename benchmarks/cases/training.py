"""Measures how fast models are trained and fed, compared with the usual loops."""

from __future__ import annotations

import contextlib
import tempfile
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from cases.photos import decoded, device, made_up_photos, wait
from harness import Clock, Found, clocked, compared, now, take_turns
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mmpoison.datasets import PairDataset
from mmpoison.images import PixelStore
from mmpoison.models import DualEncoder, embed_images, embed_texts, load_encoder, prepare_pixels
from mmpoison.models.inputs import PixelInputs, Rows
from mmpoison.models.open_clip_build import build_module, build_tokenizer
from mmpoison.training import TrainingSettings, contrastive_loss, finetune
from mmpoison.training.settings import FORMATS, Plan, autocast

VIT = "ViT-B-32-quickgelu:random"
MATRIX = 4096


def training_step(
    model: str = VIT,
    images: int = 64,
    rounds: int = 3,
    steps: int = 2,
    batch: int = 32,
    precision: str = "auto",
) -> Found:
    """ViT-B/32 with random weights, both encoders, 32 pairs per batch, AdamW, in the precision that `auto` chooses.
    The peer is the step of the paper's released loop: 32-bit, 77 tokens. Both take turns.

    Gains that depend on the data: captions of 17 to 19 tokens here, cut at the longest of a batch.
    """
    encoder = load_encoder(model).to(device())
    with tempfile.TemporaryDirectory() as folder:
        pairs = made_up_photos(Path(folder) / "photos", images)
        inputs = prepare_pixels(encoder, pairs)
        settings = TrainingSettings(batch_size=batch, max_steps=steps + 1, precision=precision)
        _, kind = autocast(encoder.device, settings.precision)
        plan = Plan(len(pairs), settings, 0)
        batches = [
            (inputs.image_rows(pairs.image[rows]), inputs.text_rows(pairs.captions[rows]))
            for rows in map(plan.batch, range(plan.steps))
        ]
        at_hand = _at_hand(inputs, batches)
        released = _released_step(encoder, inputs, batches[-1])

        def ours(what: PixelInputs) -> Clock:
            return _step(encoder, pairs, what, settings)

        times: dict[str, list[Clock]] = defaultdict(list)
        released()  # the first step makes the moments
        for _ in range(rounds):
            # on both sides, so that a machine whose speed changes changes both
            before = _matmul(kind, encoder.device)
            times["ours"].append(ours(inputs))
            times["matmul"].append(np.minimum(before, _matmul(kind, encoder.device)))
            times["at_hand"].append(ours(at_hand))
            with _torch_blocks(encoder):
                times["torch_blocks"].append(ours(inputs))
            times["released"].append(clocked(released)[0])
        found = compared(times) | {"model": model, "precision": kind, "batch": batch}
        found["data_overhead"] = 1 / found["ratio"].pop("at_hand") - 1
        matmul = found["ratio"].pop("matmul")
        # torch counts a grouped convolution as if each channel saw all
        if all(getattr(part, "groups", 1) == 1 for part in encoder.module.modules()):
            flops = np.mean([count_flops(encoder, inputs, *each) for each in batches[1:]])
            found["gflop"] = flops / 1e9
            found["fraction_of_matmul_rate"] = flops * matmul / (2 * MATRIX**3)
    return found


def training_step_fp32(images: int = 64, rounds: int = 2, steps: int = 1) -> Found:
    """As on a processor without bf16 instructions.

    Only the shorter text, the last block and the memory that is used again save time here.
    """
    return training_step(images=images, rounds=rounds, steps=steps, precision="fp32")


def training_step_depthwise(images: int = 64, rounds: int = 5, steps: int = 4) -> Found:
    """EfficientNet-Lite0 and MiniLM-L6 (`efficientnet-minilm`), as `flickr8k-full` trains them.
    The peer is the released loop on this model.
    """
    return training_step("efficientnet-minilm", images, rounds, steps)


def _step(
    encoder: DualEncoder, pairs: PairDataset, inputs: PixelInputs, settings: TrainingSettings
) -> Clock:
    """Return the mean time of the steps of a fine-tune, except the first, which allocates the moments."""
    ends: list[Clock] = []

    def note(*_: Any) -> None:
        wait()
        ends.append(now())

    finetune(encoder, pairs, inputs, settings, seed=0, on_step=note)
    return np.asarray(np.diff(ends, axis=0).mean(axis=0))


def _at_hand(inputs: PixelInputs, batches: list[tuple[Rows, Rows]]) -> PixelInputs:
    """Batches that are in memory as tensors: data at no cost."""
    same: Any = copy(inputs)
    for side, name in enumerate(("load_images", "load_texts")):
        stored = {rows[side].tobytes(): getattr(inputs, name)(rows[side]) for rows in batches}
        setattr(same, name, lambda rows, stored=stored: stored[rows.tobytes()])
    return same


@contextlib.contextmanager
def _torch_blocks(encoder: DualEncoder) -> Iterator[None]:
    """A hook on its transformers leaves them to open_clip, in copies of the encoder too."""
    module: Any = encoder.module
    towers = (module.visual, getattr(module, "text", module))
    with contextlib.ExitStack() as stack:
        for tower in towers:
            if hasattr(tower, "transformer"):
                hook = tower.transformer.register_forward_pre_hook(lambda *_: None)
                stack.callback(hook.remove)
        yield


def count_flops(encoder: DualEncoder, inputs: PixelInputs, images: Rows, texts: Rows) -> int:
    """FLOPs of the matrix multiplications of a step's forward and backward pass, where possible without computing.

    Those of the operations that our step really runs; neither elementwise work nor the optimiser counts.
    """
    # transformers look at the numbers
    looks = hasattr(getattr(encoder.module, "text", None), "pooler")
    ghost = encoder.copy().to("cpu" if looks else "meta")
    ghost.module.train()
    with FlopCounterMode(display=False) as counter:
        image = inputs.image_trunk(ghost, inputs.load_images(images))
        text = inputs.text_trunk(ghost, inputs.load_texts(texts))
        scale = ghost.logit_scale.exp()
        loss = contrastive_loss(ghost.text_head(text), ghost.image_head(image), scale)
        torch.autograd.backward(loss)
    return counter.get_total_flops()


def _released_step(
    encoder: DualEncoder, inputs: PixelInputs, batch: tuple[Rows, Rows]
) -> Callable[[], None]:
    """The step of the released loop on one batch whose tensors are in memory: 32-bit, 77 tokens, AdamW."""
    copied = encoder.copy()
    module: Any = copied.module.train()
    images = copied.image_input(inputs.load_images(batch[0])).contiguous()
    tokens = inputs.load_texts(batch[1]).to(encoder.device)
    groups: dict[float, list[Any]] = {0.0: [], 0.2: []}
    for name, weight in module.named_parameters():
        groups[0.0 if weight.ndim == 1 or name.endswith(".bias") else 0.2].append(weight)
    decayed = [{"params": weights, "weight_decay": decay} for decay, weights in groups.items()]
    optimizer = torch.optim.AdamW(decayed, lr=1e-5, betas=(0.9, 0.98), eps=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        image = F.normalize(module.encode_image(images), dim=-1)
        text = F.normalize(module.encode_text(tokens), dim=-1)
        logits = module.logit_scale.exp() * image @ text.T
        truth = torch.arange(len(image), device=image.device)
        loss = (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2
        torch.autograd.backward(loss)
        optimizer.step()
        float(loss.detach())

    return step


def _matmul(precision: str, where: torch.device) -> Clock:
    """Time of multiplying two large square matrices, the best of three."""
    kind = FORMATS.get(precision, torch.float32)
    a, b = (torch.randn(MATRIX, MATRIX, device=where).to(kind) for _ in range(2))

    def multiply() -> None:
        a @ b
        wait()

    return np.asarray(np.min([clocked(multiply)[0] for _ in range(3)], axis=0))


# -- embedding ---------------------------------------------------------------------------------------------------------


def embedding(model: str = VIT, images: int = 24, batch: int = 32, workers: int = 0) -> Found:
    """ViT-B/32, five captions per image. The peer is the usual loop over pairs with open_clip."""
    encoder = load_encoder(model).to(device())
    module: Any = encoder.module
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        pairs = made_up_photos(Path(folder) / "photos", images)
        batches = np.split(np.arange(len(pairs)), range(batch, len(pairs), batch))

        def ours(precision: Any) -> Any:
            with mock.patch.dict("os.environ", MMPOISON_CACHE=f"{folder}/{precision}"):
                inputs = prepare_pixels(encoder, pairs)  # decodes, every time
            sizes = {"batch_size": batch, "precision": precision}
            images = embed_images(encoder, inputs, pairs.image, **sizes)
            return np.concatenate([images, embed_texts(encoder, inputs, pairs.captions, **sizes)])

        def plain() -> Any:
            found: tuple[list[Tensor], list[Tensor]] = ([], [])
            for images, rows in decoded(encoder, pairs, batches, workers):
                tokens = encoder.tokenizer(pairs.captions[rows.numpy()].tolist())
                found[0].append(module.encode_image(images, normalize=True))
                found[1].append(module.encode_text(tokens.to(encoder.device), normalize=True))
            return torch.cat([*found[0], *found[1]]).cpu().numpy()

        encoder.encode_text(encoder.tokens(["warm", "up"]).to(encoder.device))
        ways = {"ours": lambda: ours("fp32"), "plain": plain, "bf16": lambda: ours("bf16")}
        found, made = take_turns(ways)
    found["largest_difference"] = {
        name: float(np.abs(made["ours"] - made[name]).max()) for name in ("plain", "bf16")
    }
    return found


# -- the image store ---------------------------------------------------------------------------------------------------

LIGHT: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 224, "patch_size": 32, "layers": 2, "width": 64, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
"""A vision transformer of CLIP's 224 pixels so small that a CPU trains it about as fast as a GPU trains RN50."""


def image_cache(
    model: str = "light", images: int = 500, batch: int = 128, workers: int = 2
) -> Found:
    """An epoch fed from stored pixels. The peer is a DataLoader that decodes the JPEG for each caption.

    A model that keeps the machine busy by itself hides most of it.
    """
    encoder = (_light() if model == "light" else load_encoder(model)).to(device())
    with tempfile.TemporaryDirectory() as name:
        pairs = made_up_photos(Path(name) / "photos", images)
        filling, store = clocked(
            lambda: PixelStore.decode(
                pairs, encoder.image_size, cache=Path(name) / "cache", in_memory=0
            )
        )
        order = np.random.default_rng(0).permutation(len(pairs))
        batches = list(order[: len(order) // batch * batch].reshape(-1, batch))

        def stored() -> Iterator[tuple[Tensor, Any]]:
            for rows in batches:
                yield encoder.image_input(store.take(pairs.image[rows])), torch.from_numpy(rows)

        feeds = {"stored": stored, "decoding": lambda: decoded(encoder, pairs, batches, workers)}
        tokens = encoder.tokens([str(caption) for caption in pairs.captions])
        feed_alone = deque[Any](maxlen=0).extend
        found: Found = {"seconds_filling": filling[0]}
        for name, work in ("feeding", feed_alone), ("training", partial(_epoch, encoder, tokens)):
            ways = {way: lambda work=work, feed=feed: work(feed()) for way, feed in feeds.items()}
            found[name] = take_turns(ways)[0]
    return found


def _light() -> DualEncoder:
    import open_clip

    torch.manual_seed(0)
    colours = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    config = {"model_cfg": LIGHT, "preprocess_cfg": {"size": 224, **colours}}
    return DualEncoder(build_module(LIGHT), build_tokenizer(LIGHT), config, "light")


def _epoch(encoder: DualEncoder, tokens: Tensor, batches: Iterable[tuple[Tensor, Any]]) -> None:
    student = encoder.copy()
    student.module.train()
    student.module.requires_grad_(True)
    optimizer = torch.optim.AdamW(student.module.parameters(), lr=1e-5)
    for images, rows in batches:
        with torch.autocast(student.device.type, torch.bfloat16, student.device.type == "cuda"):
            image = student.encode_image(images)
            text = student.encode_text(tokens[rows].to(student.device))
        loss = contrastive_loss(text.float(), image.float(), student.logit_scale.exp())
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
    wait()
