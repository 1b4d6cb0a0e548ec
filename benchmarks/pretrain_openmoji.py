"""Trains the shipped dual encoders: `python -m benchmarks.pretrain_openmoji --variant small --out DIR`.

They play the part of CLIP in the demo: trained from random weights on scenes of the `pretraining` pool, which shares no
seed, no background palette and, where a class has enough drawings, not every drawing with the demo's scenes.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console

from mmpoison._version import __version__
from mmpoison.attacks.settings import Goal
from mmpoison.base.files import atomic_file
from mmpoison.base.seeding import torch_seed
from mmpoison.datasets import ImageTable, PairDataset, load_dataset
from mmpoison.datasets.openmoji.build import ATTRIBUTION, CHUNK, in_parallel
from mmpoison.datasets.openmoji.compose import scene_at
from mmpoison.datasets.openmoji.scene_data import EVEN_WEIGHTS, OPENMOJI_SCENES_VERSION
from mmpoison.errors import InputError
from mmpoison.evaluation import GoalTarget, TestEmbeddings, TestSet
from mmpoison.evaluation.rows import class_retrieval, goal_row, utility_row
from mmpoison.images import PixelStore, Preparation
from mmpoison.models import DualEncoder, prepare_pixels
from mmpoison.models.checkpoint import CARD_FILE, CONFIG_FILE, load_checkpoint, save_checkpoint
from mmpoison.models.open_clip_build import BPE_FILE, build_module, small_tokenizer
from mmpoison.records.run_files import PretrainingRecord
from mmpoison.training import TrainingSettings, finetune
from mmpoison.training.loop import Step

IMAGE_SIZE = 64
CONTEXT = 28
MERGES = 7680
"""CLIP's first merges, most frequent first; with its bytes and two marks they make 8,194 tokens."""

VOCABULARY = 512 + MERGES + 2

MEAN_STD = {"mean": [0.481, 0.458, 0.408], "std": [0.269, 0.261, 0.276]}

TEXT = {"width": 128, "heads": 2, "layers": 3}
VARIANTS: dict[str, dict[str, Any]] = {
    # the victim of the demo
    "small": {"vision": {"layers": [1, 1, 1, 1], "width": 32, "head_width": 64}, "seed": 101},
    # another architecture, initialisation and data, for the filter
    "mini": {"vision": {"layers": [1, 1, 1, 1], "width": 24, "head_width": 32}, "seed": 202},
    # another family: a transformer, as CLIP's ViT models
    "vit": {"vision": {"layers": 4, "width": 128, "head_width": 32, "patch_size": 8}, "seed": 303},
}


def write_merges(target: Path) -> Path:
    """Write the first merges of CLIP's table, in its own format."""
    from open_clip.tokenizer import default_bpe

    with gzip.open(default_bpe(), "rt", encoding="utf-8") as stream:
        lines = stream.read().split("\n")[: MERGES + 1]
    # a fixed time in the header makes the same bytes every time
    target.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    return target


def random_encoder(variant: str, merges: Path) -> DualEncoder:
    """Return an untrained encoder of a variant, its config in open_clip's form."""
    model = {
        "embed_dim": 128,
        "vision_cfg": {"image_size": IMAGE_SIZE, **VARIANTS[variant]["vision"]},
        "text_cfg": {"context_length": CONTEXT, "vocab_size": VOCABULARY, **TEXT},
    }
    config = {"model_cfg": model, "preprocess_cfg": {"size": IMAGE_SIZE, **MEAN_STD}}
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed(VARIANTS[variant]["seed"], "initialisation"))
        module = build_module(model)
    return DualEncoder(module, small_tokenizer(merges, CONTEXT), config, f"openmoji-{variant}")


def _draw(
    seed: int, chunk: tuple[int, int]
) -> tuple[NDArray[np.uint8], list[tuple[str, ...]], list[str]]:
    start, count = chunk
    draw = partial(scene_at, seed=seed, pool="pretraining", part="stream", size=IMAGE_SIZE)
    scenes = [draw(index, weights=EVEN_WEIGHTS) for index in range(start, start + count)]
    images = np.stack([scene.image for scene in scenes])
    return images, [scene.captions for scene in scenes], [scene.label for scene in scenes]


def scenes(
    count: int, captions_each: int, seed: int, workers: int
) -> tuple[PairDataset, PixelStore]:
    """Build the pre-training pool: scenes with uniform classes, as a table of pairs in memory."""
    chunks = [(start, min(CHUNK, count - start)) for start in range(0, count, CHUNK)]
    pixels = np.empty((count, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    captions: list[tuple[str, ...]] = []
    labels: list[str] = []
    for images, some, classes in in_parallel(partial(_draw, seed), chunks, workers):
        pixels[len(labels) : len(labels) + len(classes)] = images
        captions += some
        labels += classes
    table = ImageTable.build(
        [f"pretraining/{i:07d}.jpg" for i in range(count)],
        labels,
        ["train"] * count,
        Path("pretraining"),
    )
    rows = np.repeat(np.arange(count, dtype=np.int32), captions_each)
    texts = [caption for scene in captions for caption in scene[:captions_each]]
    store = PixelStore(pixels, np.arange(count, dtype=np.int32), Preparation(IMAGE_SIZE))
    return PairDataset.build(table, texts, rows), store


def pretrain(
    variant: str, merges: Path, count: int, captions_each: int, epochs: int, workers: int
) -> tuple[DualEncoder, PretrainingRecord]:
    """Train a variant from random weights.

    Args:
        variant: One of `VARIANTS`.
        merges: The tokenizer's table of merges.
        count: Scenes.
        captions_each: Captions used of each scene, at most 5.
        epochs: Passes over the pairs.
        workers: Processes that draw scenes.

    Returns:
        The encoder, and how it was trained.
    """
    console = Console()
    seed = VARIANTS[variant]["seed"]
    pairs, pixels = scenes(count, captions_each, seed, workers)
    settings = TrainingSettings(
        epochs=epochs,
        batch_size=256,
        learning_rate=2e-3,
        min_learning_rate=2e-5,
        warmup_epochs=0.1,
        warmup_learning_rate=1e-5,
        schedule="step",
        weight_decay=0.1,
    )
    encoder = random_encoder(variant, merges)
    inputs = prepare_pixels(encoder, pairs, pixels=pixels)

    def show(step: Step, _: DualEncoder) -> None:
        if step.step % 100 == 0 or step.step == step.steps:
            console.print(
                f"step {step.step}/{step.steps} loss {step.loss:.3f} {step.pairs_per_second:.0f} pairs/s"
            )

    result = finetune(encoder, pairs, inputs, settings, seed=seed, on_step=show)
    return result.encoder, PretrainingRecord(
        variant=variant,
        scenes=count,
        captions_each=captions_each,
        seed=seed,
        scenes_version=OPENMOJI_SCENES_VERSION,
        tool_version=__version__,
        settings=settings.model_dump(mode="json"),
        training=result.summary(),
    )


def describe(folder: Path, seed: int = 0) -> None:
    """Measure a checkpoint on the demo's test scenes of a seed and write its model card."""
    encoder = load_checkpoint(folder)
    test = TestSet.of(load_dataset("openmoji", seed=seed))
    embedded = TestEmbeddings.of(encoder, prepare_pixels(encoder, test.pairs), test)
    classes = class_retrieval(embedded, test)
    utility = utility_row(embedded, test)
    goal = goal_row(embedded, test, GoalTarget(Goal("sheep", "aeroplane")))
    recipe = encoder.record.pretraining
    if recipe is None:
        raise InputError(f"{folder}: its {CONFIG_FILE} does not say how the model was pre-trained")
    parameters = sum(parameter.numel() for parameter in encoder.module.parameters())
    epochs = recipe.settings["epochs"]
    command = (
        f"python -m benchmarks.pretrain_openmoji --variant {recipe.variant} "
        f"--scenes {recipe.scenes} --captions-each {recipe.captions_each}"
        f"{f' --epochs {epochs}' if epochs != 1 else ''} --out DIR"
    )
    rows = (
        ("caption to its image", utility.image_retrieval),
        ("image to one of its captions", utility.text_retrieval),
        ("sheep captions to aeroplane images", goal),
    )
    hits = (
        f"| {name} | {' | '.join(f'{row.number(key):.3f}' for key in ('hit@1', 'hit@5', 'hit@10'))} |"
        for name, row in rows
    )
    log = {"settings": recipe.settings, "log": recipe.training.to_json()}
    card = f"""# {encoder.name}

A small dual encoder in the layout of open_clip's CLIP, trained from random weights on OpenMoji scenes. \
It plays the part of CLIP on such scenes and is good for nothing else. It has never seen a photo.

- {parameters / 1e6:.2f} million parameters; images of {IMAGE_SIZE} pixels; 128 dimensions
- tokenizer: CLIP's with its first {MERGES:,} merges (`{BPE_FILE}`), {VOCABULARY:,} tokens
- made by: mmpoison {recipe.tool_version}, `{command}`
- data: {recipe.scenes:,} scenes of the pool `pretraining`, version {recipe.scenes_version}, \
seed {recipe.seed}, {recipe.captions_each} captions each. The demo's scenes come from another pool: other seeds, other \
background palettes, and for the classes with enough drawings some that this model has never seen.
- weights are kept as 16-bit floats

## Measured on the demo's test scenes (seed {seed}; {len(test.gallery)} images, {len(test.pairs):,} captions)

| what | Hit@1 | Hit@5 | Hit@10 |
|---|---:|---:|---:|
{chr(10).join(hits)}

Sheep captions find their first aeroplane at rank {goal.min_rank:.1f} on average (from 0). A caption finds an image of \
its own class first in {np.mean(list(classes.values())):.1%} of the cases; by class:

{", ".join(f"{name} {share:.3f}" for name, share in classes.items())}.

## Training

```json
{json.dumps(log, indent=2)}
```

Loads with mmpoison by name, or with open_clip as `local-dir:PATH` (give its tokenizer `bpe_path=PATH/{BPE_FILE}`).

The scenes are drawn from OpenMoji: {ATTRIBUTION}
"""
    with atomic_file(folder / CARD_FILE) as temporary:
        temporary.write_text(card, encoding="utf-8")


def main(
    variant: str,
    out: Path,
    scenes: int = 240_000,
    captions_each: int = 2,
    epochs: int = 1,
    workers: int = 2,
) -> None:
    """Train a variant and write its checkpoint with its card."""
    with tempfile.TemporaryDirectory() as folder:
        merges = write_merges(Path(folder) / BPE_FILE)
        encoder, pretraining = pretrain(variant, merges, scenes, captions_each, epochs, workers)
        metadata = {"pretraining": pretraining}
        save_checkpoint(encoder, out, card=ATTRIBUTION, metadata=metadata, half=True)
    describe(out)


if __name__ == "__main__":
    typer.run(main)
