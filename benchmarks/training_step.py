"""A step of our fine-tuning against a step of the loop that the paper's authors released.

Ours is `mmpoison.training.finetune` itself, on pairs from the image store, timed from step to step: batch cut at its
longest caption, bf16 where the processor has it, AdamW. The reference is written out in `_Reference`: the model as
open_clip builds it, 32-bit, 77 tokens, the two cross-entropies, AdamW. Both train both encoders, on batches of one
size.

    python benchmarks/training_step.py --json training_step.json
    python benchmarks/training_step.py --memory
    python benchmarks/training_step.py --reference-repo PATH --open-clip PATH

Rounds are interleaved, each with its own matrix multiplications, so that a machine whose speed changes changes all.

`ratio_vs_reference_step` is the median of `seconds_reference / seconds` over the rounds. `fraction_of_matmul_rate` is
the rate of the step, its FLOPs by its seconds, over the rate of one large matrix multiplication with the same threads
and the same number format, the median over the rounds. FLOPs are those of the matrix multiplications and convolutions
of forward and backward pass, two for each multiply-add, counted by `torch.utils.flop_counter` on the operations that
our step really runs: nothing else of it counts, neither elementwise work nor the optimiser. `data_overhead` is the
share of time by which the step is longer with the image store than with the same tensors at hand in memory.
`ratio_vs_open_clip_blocks` is what `clip_blocks` and `depthwise` gain. Each `cpu_` figure is the same of processor time
over all threads, which others on the machine do not blur as much: with `OMP_NUM_THREADS=1` no thread waits for another.

`--memory` measures the peak memory of a large batch in chunks and of a batch as large as a chunk, each in its own
process. `--reference-repo` and `--open-clip` take checkouts of the released code and of open_clip and run the training
scripts in them beside ours, each in its own process: pairs a second, peak memory.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from embedding import made_up_photos
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from training_scripts import compare_memory, compare_scripts

from mmpoison.base.files import write_json
from mmpoison.datasets import PairDataset, load_pairs
from mmpoison.models import DualEncoder, load_encoder, prepare_pixels
from mmpoison.models.inputs import PixelInputs, Rows
from mmpoison.training import TrainingSettings, contrastive_loss, feed, finetune
from mmpoison.training.plan import FORMATS, Plan, autocast

SEED = 0

COUNTED = ("gflop", "fraction_of_matmul_rate")
"""Figures that count operations."""

Seconds = npt.NDArray[np.float64]
"""Wall time and processor time of all threads, shape `(2,)`."""


def main() -> None:
    """Measure, print and write the result."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="training-step-") as name:
        # the image store is made for this run
        os.environ["MMPOISON_CACHE"] = str(Path(name) / "cache")
        pairs = (
            made_up_photos(Path(name) / "photos", options.images)
            if options.data is None
            else load_pairs(options.data)
        )
        if options.memory:
            found = compare_memory(pairs, options)
        elif options.reference_repo is not None or options.open_clip is not None:
            found = compare_scripts(pairs, options, Path(name))
        else:
            found = _measure(pairs, options)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load_before": options.load,
    }
    for key, value in (machine | found).items():
        print(f"{key:34} {value}")
    if options.json is not None:
        write_json(options.json, machine | found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--data", type=Path, help="a pairs folder, instead of made-up photos")
    parser.add_argument("--images", type=int, default=128, help="how many photos are made up")
    parser.add_argument("--model", default="ViT-B-32-quickgelu:random")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=2, help="timed steps of ours a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--matmul", type=int, default=4096, help="side of the matrices")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory", action="store_true", help="peak memory of cached gradients")
    parser.add_argument("--large-batch", type=int, default=4096, help="of --memory")
    parser.add_argument("--chunk", type=int, default=128, help="of --memory")
    parser.add_argument("--reference-repo", type=Path, help="a checkout of the released code")
    parser.add_argument("--open-clip", type=Path, help="a checkout of open_clip")
    options = parser.parse_args()
    options.load = [round(value, 2) for value in os.getloadavg()]
    return options


def _measure(pairs: PairDataset, options: argparse.Namespace) -> dict[str, Any]:
    encoder = load_encoder(options.model).to(options.device)
    inputs = prepare_pixels(encoder, pairs)
    settings = TrainingSettings(
        batch_size=options.batch, max_steps=options.steps + 1, precision=options.precision
    )
    _, precision = autocast(encoder.device, settings.precision)
    plan = Plan(len(pairs), settings, SEED)
    batches = [
        (inputs.image_rows(pairs.image[batch]), inputs.text_rows(pairs.captions[batch]))
        for batch in map(plan.batch, range(plan.steps))
    ]
    flops = [count_flops(encoder, inputs, *batch) for batch in batches]
    at_hand = _AtHand(inputs, batches)
    reference = _Reference(encoder, inputs, batches)
    times: dict[str, list[Seconds]] = {
        key: [] for key in ("ours", "at_hand", "open_clip_blocks", "reference", "matmul")
    }

    def ours(what: PixelInputs, blocks: bool = True) -> Seconds:
        with contextlib.nullcontext() if blocks else _open_clip_blocks(encoder):
            return _step_seconds(encoder, pairs, what, settings)

    reference.step()  # the first step makes the moments
    for number in range(options.rounds):
        before = _matmul_seconds(options.matmul, precision, encoder.device)
        times["ours"].append(ours(inputs))
        after = _matmul_seconds(options.matmul, precision, encoder.device)
        times["matmul"].append(np.minimum(before, after))
        times["at_hand"].append(ours(at_hand))
        times["open_clip_blocks"].append(ours(inputs, blocks=False))
        times["reference"].append(reference.step())
        told = {key: [round(float(x), 3) for x in values[-1]] for key, values in times.items()}
        print(f"round {number + 1}: wall and processor seconds {told}", flush=True)
    seconds = {key: np.array(values) for key, values in times.items()}
    step_flops, matmul_flops = float(np.mean(flops[1:])), 2 * options.matmul**3
    found: dict[str, Any] = {
        "model": options.model,
        "device": str(encoder.device),
        "precision": precision,
        "batch": options.batch,
        "tokens": [_tokens(inputs, texts) for _, texts in batches[1:]],
        "gflop": round(step_flops / 1e9, 1),
    }
    for column, prefix in enumerate(("", "cpu_")):
        of = {key: values[:, column] for key, values in seconds.items()}
        rate = matmul_flops / of["matmul"]
        found |= {
            f"{prefix}seconds": round(median(of["ours"]), 3),
            f"{prefix}seconds_reference": round(median(of["reference"]), 3),
            f"{prefix}matmul_gflop_per_second": round(median(rate) / 1e9, 1),
            f"{prefix}ratio_vs_reference_step": round(median(of["reference"] / of["ours"]), 3),
            f"{prefix}ratio_vs_open_clip_blocks": round(
                median(of["open_clip_blocks"] / of["ours"]), 3
            ),
            f"{prefix}fraction_of_matmul_rate": round(median(step_flops / of["ours"] / rate), 3),
            f"{prefix}data_overhead": round(median(of["ours"] / of["at_hand"] - 1), 4),
        }
    if any(getattr(part, "groups", 1) > 1 for part in encoder.module.modules()):
        # torch counts a grouped convolution as if each channel saw all
        found = {key: value for key, value in found.items() if not key.endswith(COUNTED)}
    rounds = {key: values.round(3).tolist() for key, values in seconds.items()}
    return {**found, "rounds_wall_and_cpu": rounds}


# -- ours --------------------------------------------------------------------------------------------------------------


def _step_seconds(
    encoder: DualEncoder, pairs: PairDataset, inputs: PixelInputs, settings: TrainingSettings
) -> Seconds:
    """Mean seconds of the steps of a fine-tune but the first, which makes the moments."""
    ends: list[Seconds] = []
    finetune(
        encoder,
        pairs,
        inputs,
        settings,
        seed=SEED,
        on_step=lambda *_: ends.append(_now(encoder.device)),
    )
    return np.asarray(np.diff(ends, axis=0).mean(axis=0))


class _AtHand(PixelInputs):
    """Batches that lie in memory as tensors: data that costs nothing."""

    def __init__(self, inputs: PixelInputs, batches: list[tuple[Rows, Rows]]) -> None:
        super().__init__([], inputs.tokens, inputs.lengths, inputs.pixels)
        self._row = inputs._row
        self._images = {rows.tobytes(): inputs.load_images(rows) for rows, _ in batches}
        self._texts = {rows.tobytes(): inputs.load_texts(rows) for _, rows in batches}

    def load_images(self, rows: Rows) -> Tensor:
        return self._images[rows.tobytes()]

    def load_texts(self, rows: Rows) -> Tensor:
        return self._texts[rows.tobytes()]


@contextlib.contextmanager
def _open_clip_blocks(encoder: DualEncoder) -> Any:
    """A hook on its transformers leaves them to open_clip, in copies of the encoder too; gradients are torch's."""
    module: Any = encoder.module
    towers = (module.visual, getattr(module, "text", module))
    transformers = [tower.transformer for tower in towers if hasattr(tower, "transformer")]
    handles = [part.register_forward_pre_hook(_nothing) for part in transformers]
    try:
        with mock.patch.object(feed, "depthwise_gradients", return_value=contextlib.nullcontext()):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _nothing(*_: Any) -> None:
    """A hook that does nothing."""


def count_flops(encoder: DualEncoder, inputs: PixelInputs, images: Rows, texts: Rows) -> int:
    """FLOPs of the matrix multiplications of a step's forward and backward pass, where possible without computing."""
    # transformers look at the numbers
    ghost = encoder.copy().to(
        "cpu" if hasattr(getattr(encoder.module, "text", None), "pooler") else "meta"
    )
    ghost.module.train()
    with FlopCounterMode(display=False) as counter:
        image = inputs.image_trunk(ghost, inputs.load_images(images))
        text = inputs.text_trunk(ghost, inputs.load_texts(texts))
        scale = ghost.logit_scale.exp()
        loss = contrastive_loss(ghost.text_head(text), ghost.image_head(image), scale)
        torch.autograd.backward(loss)
    return counter.get_total_flops()


def _tokens(inputs: PixelInputs, texts: Rows) -> int:
    return int(inputs.lengths[torch.from_numpy(texts)].max())


# -- what it is compared with ------------------------------------------------------------------------------------------


class _Reference:
    """The step of the released loop on one batch whose tensors lie in memory: 32-bit, 77 tokens, AdamW."""

    def __init__(
        self, encoder: DualEncoder, inputs: PixelInputs, batches: list[tuple[Rows, Rows]]
    ) -> None:
        copied = encoder.copy()
        self.module: Any = copied.module.train()
        images, texts = batches[-1]
        self.images = copied.image_input(inputs.load_images(images)).contiguous()
        self.tokens = inputs.load_texts(texts).to(encoder.device)
        named = list(self.module.named_parameters())
        vectors = [p for name, p in named if p.ndim == 1 or name.endswith(".bias")]
        rest = [p for name, p in named if not (p.ndim == 1 or name.endswith(".bias"))]
        self.optimizer = torch.optim.AdamW(
            [{"params": vectors, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.2}],
            lr=1e-5,
            betas=(0.9, 0.98),
            eps=1e-6,
        )

    def step(self) -> Seconds:
        """Seconds of one step."""
        begun = _now(self.images.device)
        self.optimizer.zero_grad()
        image = F.normalize(self.module.encode_image(self.images), dim=-1)
        text = F.normalize(self.module.encode_text(self.tokens), dim=-1)
        logits_per_image = self.module.logit_scale.exp() * image @ text.T
        truth = torch.arange(len(image), device=image.device)
        loss = (
            F.cross_entropy(logits_per_image, truth) + F.cross_entropy(logits_per_image.T, truth)
        ) / 2
        torch.autograd.backward(loss)
        self.optimizer.step()
        float(loss.detach())
        return _now(self.images.device) - begun


def _matmul_seconds(side: int, precision: str, device: torch.device) -> Seconds:
    """Seconds of multiplying two large square matrices, the best of three."""
    kind = FORMATS.get(precision, torch.float32)
    a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    taken = []
    for _ in range(3):
        begun = _now(device)
        a @ b
        taken.append(_now(device) - begun)
    return np.asarray(np.min(taken, axis=0))


def _now(device: torch.device) -> Seconds:
    """Wall and processor time, when all is done that was asked of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return np.array([time.perf_counter(), time.process_time()])


if __name__ == "__main__":
    main()
