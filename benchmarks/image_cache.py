"""An epoch of training fed from stored pixels, against decoding the JPEGs in every epoch.

The usual way is measured as it is usually written: a torch DataLoader with a worker for each core, Pillow, and
open_clip's own transform, which decodes an image once for each of its captions. Both feed the same model the same
batches in the same order and do the same work with them. Photos of the usual size are made up in a temporary folder.

    python benchmarks/image_cache.py --json image_cache.json

The model is RN50 on a GPU. On a CPU it is `light`, a vision transformer of CLIP's 224 pixels so small that a CPU trains
it about as fast as a GPU trains RN50: what is measured is the feeding. With a model that keeps the machine busy by
itself, as `--model openmoji-small` does on a CPU, decoding hides behind it and the ratio is near 1.

`ratio` is `seconds_decode / seconds_store`: how many times as fast an epoch is. `seconds_build` is what filling the
store takes, once. `loading_ratio` is the same of feeding alone, without a model.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from mmpoison.base.files import write_json
from mmpoison.datasets import ImageTable, PairDataset
from mmpoison.images import PixelStore
from mmpoison.models import DualEncoder, load_encoder
from mmpoison.models.open_clip_build import build_module, build_tokenizer
from mmpoison.training.objective import contrastive_loss

Batch = tuple[Tensor, Tensor]
"""Images as the model takes them, and rows of the table of tokens."""

LIGHT: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {
        "image_size": 224,
        "patch_size": 32,
        "layers": 2,
        "width": 64,
        "head_width": 32,
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 64,
        "heads": 2,
        "layers": 2,
    },
}


def main() -> None:
    """Make the photos, feed the model both ways, print and write the result."""
    options = _options()
    device = torch.device(options.device)
    encoder = _encoder(options.model).to(device)
    with tempfile.TemporaryDirectory(prefix="image-cache-") as name:
        folder = Path(name)
        pairs = _photos(folder / "photos", options)
        begun = time.perf_counter()
        store = PixelStore.decode(pairs, encoder.image_size, cache=folder / "cache", in_memory=0)
        build = time.perf_counter() - begun
        feeds: dict[str, Callable[[int], Iterable[Batch]]] = {
            "store": lambda epoch: _from_store(encoder, pairs, store, epoch, options.batch),
            "decode": lambda epoch: _from_files(encoder, pairs, epoch, options),
        }
        loading = {
            way: min(_feed(feed(epoch), device) for epoch in range(options.epochs))
            for way, feed in feeds.items()
        }
        tokens = encoder.tokens([str(caption) for caption in pairs.captions])
        training = {
            way: min(_train(encoder, tokens, feed(epoch)) for epoch in range(options.epochs))
            for way, feed in feeds.items()
        }
    found = {
        "images": options.images,
        "captions_each": options.captions,
        "pairs": len(pairs),
        "width": options.width,
        "height": options.height,
        "model": options.model,
        "model_pixels": encoder.image_size,
        "batch": options.batch,
        "epochs": options.epochs,
        "workers": options.workers,
        "device": str(device),
        "seconds_build": round(build, 3),
        "seconds_store": round(training["store"], 3),
        "seconds_decode": round(training["decode"], 3),
        "ratio": round(training["decode"] / training["store"], 3),
        "loading_seconds_store": round(loading["store"], 3),
        "loading_seconds_decode": round(loading["decode"], 3),
        "loading_ratio": round(loading["decode"] / loading["store"], 3),
    }
    for key, value in found.items():
        print(f"{key:24} {value}")
    if options.json is not None:
        write_json(options.json, found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--captions", type=int, default=5, help="captions of each image")
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--model", help="`light`, one of ours, or open_clip's")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=1, help="the fastest of so many counts")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of the DataLoader")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if options.model is None:
        options.model = "light" if options.device == "cpu" else "RN50"
    return options


def _encoder(name: str) -> DualEncoder:
    import open_clip

    if name != "light" and name not in open_clip.list_models():
        return load_encoder(name)
    config: Any = LIGHT if name == "light" else open_clip.get_model_config(name)
    torch.manual_seed(0)
    preprocess = {
        "size": config["vision_cfg"]["image_size"],
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
    }
    return DualEncoder(
        build_module(config),
        build_tokenizer(config),
        {"model_cfg": config, "preprocess_cfg": preprocess},
        name,
    )


def _photos(folder: Path, options: argparse.Namespace) -> PairDataset:
    """Smooth shapes with some grain, which compress about as photos do (some 60 KB each)."""
    folder.mkdir()

    def draw(number: int) -> None:
        rng = np.random.default_rng(number)
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        photo = Image.fromarray(coarse).resize((options.width, options.height))
        grain = rng.integers(0, 40, (options.height, options.width, 3), dtype=np.uint8)
        grained = Image.fromarray(np.asarray(photo) // 8 * 7 + grain)
        grained.filter(ImageFilter.GaussianBlur(0.8)).save(folder / f"{number}.jpg", quality=90)

    with ThreadPoolExecutor() as pool:
        list(pool.map(draw, range(options.images)))
    ids = [f"{number}.jpg" for number in range(options.images)]
    table = ImageTable.build(ids, [None] * len(ids), ["train"] * len(ids), folder)
    image = np.repeat(np.arange(options.images), options.captions)
    return PairDataset.build(table, [f"photo {i} told {n}" for n, i in enumerate(image)], image)


def _order(count: int, epoch: int, batch: int) -> list[np.ndarray[Any, Any]]:
    rows = np.random.default_rng(epoch).permutation(count)
    return [rows[start : start + batch] for start in range(0, count - batch + 1, batch)]


def _from_store(
    encoder: DualEncoder, pairs: PairDataset, store: PixelStore, epoch: int, batch: int
) -> Iterator[Batch]:
    for rows in _order(len(pairs), epoch, batch):
        pixels = store.take(pairs.image[rows])
        yield encoder.image_input(pixels), torch.from_numpy(rows)


class _Files(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """A pair at a time, as open_clip's own training reads a table of files."""

    def __init__(self, encoder: DualEncoder, pairs: PairDataset) -> None:
        import open_clip

        preprocess = encoder.config["preprocess_cfg"]
        self._paths = [str(pairs.root / pairs.images.ids[image]) for image in pairs.image]
        self._transform: Any = open_clip.image_transform(
            encoder.image_size,
            is_train=False,
            mean=tuple(preprocess["mean"]),
            std=tuple(preprocess["std"]),
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        with Image.open(self._paths[row]) as image:
            return self._transform(image), row


def _from_files(
    encoder: DualEncoder, pairs: PairDataset, epoch: int, options: argparse.Namespace
) -> Iterator[Batch]:
    loader: Any = torch.utils.data.DataLoader(
        _Files(encoder, pairs),
        batch_sampler=[rows.tolist() for rows in _order(len(pairs), epoch, options.batch)],
        num_workers=options.workers,
        pin_memory=options.device != "cpu",
    )
    for images, rows in loader:
        yield images.to(options.device, non_blocking=True), rows


def _feed(batches: Iterable[Batch], device: torch.device) -> float:
    begun = time.perf_counter()
    for images, _ in batches:
        del images
    _wait(device)
    return time.perf_counter() - begun


def _train(encoder: DualEncoder, tokens: Tensor, batches: Iterable[Batch]) -> float:
    student = encoder.copy()
    student.module.train()
    student.module.requires_grad_(True)
    optimizer = torch.optim.AdamW(student.module.parameters(), lr=1e-5)
    begun = time.perf_counter()
    for images, rows in batches:
        with torch.autocast(student.device.type, torch.bfloat16, student.device.type == "cuda"):
            image = student.encode_image(images)
            text = student.encode_text(tokens[rows].to(student.device))
        loss = contrastive_loss(text.float(), image.float(), student.logit_scale.exp())
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
    _wait(student.device)
    return time.perf_counter() - begun


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
