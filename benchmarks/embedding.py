"""Embedding a test set of five captions an image, against the plain loop over pairs with open_clip.

The plain loop is the one that is usually written: a torch DataLoader over pairs with open_clip's own transform and
tokenizer, `encode_image` and `encode_text` of every pair, 32-bit. Here each image is embedded once, each distinct
caption once, captions sorted by length and each batch cut at its longest caption.

    python benchmarks/embedding.py --json embedding.json
    python benchmarks/embedding.py --data ucm --images 64

Without `--data`, photos of the usual size are made up in a temporary folder, with captions of the lengths that COCO's
have, no two of them equal.

`ratio` is `seconds_plain / seconds`, both in 32-bit, decoding and tokenising among it; `ratio_bf16` is the same with
our side in bf16. `cpu_ratio` is of processor time, which a machine that others use at the same time does not blur.
`largest_difference` is between the embeddings of the two in 32-bit, over all images and captions.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader, Dataset

from mmpoison.base.files import write_json
from mmpoison.datasets import ImageTable, PairDataset, load_pairs
from mmpoison.models import DualEncoder, embed_images, embed_texts, load_encoder, prepare_pixels

WORDS = (
    "a the of with on in two three man woman dog cat sheep horse train street table plate pizza "
    "standing sitting holding riding looking next large small red blue white green old young field "
    "grass water snow beach kitchen room window tree building sign bus car bench ball umbrella"
)


def main() -> None:
    """Embed both ways, print and write the result."""
    options = _options()
    device = torch.device(options.device)
    encoder = load_encoder(options.model).to(device)
    with tempfile.TemporaryDirectory(prefix="embedding-") as name:
        # so that decoding is part of what is measured, every time
        os.environ["MMPOISON_CACHE"] = str(Path(name) / "cache")
        pairs = (
            made_up_photos(Path(name) / "photos", options.images)
            if options.data is None
            else _first_images(load_pairs(options.data), options.images)
        )
        _warm_up(encoder)
        cpu = [time.process_time()]
        seconds, images, texts = _ours(encoder, pairs, options.batch, "fp32")
        cpu.append(time.process_time())
        seconds_bf16, *rough = _ours(encoder, pairs, options.batch, "bf16")
        cpu.append(time.process_time())
        seconds_plain, plain_images, plain_texts = _plain(encoder, pairs, options)
        cpu.append(time.process_time())
        cpu_ours, cpu_bf16, cpu_plain = np.diff(cpu)
    found = {
        "model": options.model,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "images": len(pairs.used_images()),
        "pairs": len(pairs),
        "distinct_captions": len(set(pairs.captions)),
        "batch": options.batch,
        "seconds_plain": round(seconds_plain, 3),
        "seconds": round(seconds, 3),
        "seconds_bf16": round(seconds_bf16, 3),
        "ratio": round(seconds_plain / seconds, 3),
        "ratio_bf16": round(seconds_plain / seconds_bf16, 3),
        "cpu_ratio": round(cpu_plain / cpu_ours, 3),
        "cpu_ratio_bf16": round(cpu_plain / cpu_bf16, 3),
        "largest_difference": float(
            max(np.abs(images - plain_images).max(), np.abs(texts - plain_texts).max())
        ),
        "largest_difference_bf16": float(
            max(np.abs(images - rough[0]).max(), np.abs(texts - rough[1]).max())
        ),
    }
    for key, value in found.items():
        print(f"{key:24} {value}")
    if options.json is not None:
        write_json(options.json, found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--data", type=Path, help="a pairs folder, instead of made-up photos")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--model", default="ViT-B-32-quickgelu:random")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=0, help="of the plain loop's DataLoader")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def made_up_photos(folder: Path, images: int) -> PairDataset:
    """Blurred noise as JPEGs of 640 x 480, five captions of 8 to 20 words each."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    names, captions = [], []
    for index in range(images):
        small = generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        photo = Image.fromarray(small).resize((640, 480)).filter(ImageFilter.GaussianBlur(2))
        names.append(f"{index:06}.jpg")
        photo.save(folder / names[-1], quality=90)
        lengths = np.clip(generator.normal(10.5, 2.4, 5).round().astype(int), 8, 20)
        captions += [f"{' '.join(generator.choice(WORDS.split(), n - 1))} {index}" for n in lengths]
    table = ImageTable.build(names, [None] * len(names), ["test"] * len(names), folder)
    return PairDataset.build(table, captions, np.repeat(np.arange(len(names)), 5))


def _first_images(pairs: PairDataset, images: int) -> PairDataset:
    used = pairs.used_images()
    chosen = used[:: max(1, len(used) // images)][:images]
    return pairs.where(np.isin(pairs.image, chosen))


def _warm_up(encoder: DualEncoder) -> None:
    size = encoder.image_size
    with torch.no_grad():
        encoder.encode_image(encoder.image_input(np.zeros((2, size, size, 3), dtype=np.uint8)))
        encoder.encode_text(encoder.tokens(["a", "b"]).to(encoder.device))


def _ours(encoder: DualEncoder, pairs: PairDataset, batch: int, precision: Any) -> Any:
    begun = time.perf_counter()
    inputs = prepare_pixels(encoder, pairs)
    images = embed_images(encoder, inputs, pairs.image, batch_size=batch, precision=precision)
    texts = embed_texts(encoder, inputs, pairs.captions, batch_size=batch, precision=precision)
    return time.perf_counter() - begun, images, texts


class _Pairs(Dataset[Any]):
    """Pairs as the plain loop reads them."""

    def __init__(self, pairs: PairDataset, transform: Any, tokenizer: Any) -> None:
        self.pairs, self.transform, self.tokenizer = pairs, transform, tokenizer

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Any:
        path = self.pairs.root / self.pairs.images.ids[self.pairs.image[index]]
        image = self.transform(Image.open(path))
        return image, self.tokenizer([str(self.pairs.captions[index])])[0]


def _plain(encoder: DualEncoder, pairs: PairDataset, options: argparse.Namespace) -> Any:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = {**encoder.config["preprocess_cfg"], "size": encoder.image_size}
    transform = image_transform_v2(PreprocessCfg(**config), is_train=False)
    module: Any = encoder.module
    begun = time.perf_counter()
    loader = DataLoader(
        _Pairs(pairs, transform, encoder.tokenizer),
        batch_size=options.batch,
        num_workers=options.workers,
    )
    images, texts = [], []
    with torch.no_grad():
        for pixels, tokens in loader:
            images.append(module.encode_image(pixels.to(options.device), normalize=True).cpu())
            texts.append(module.encode_text(tokens.to(options.device), normalize=True).cpu())
    seconds = time.perf_counter() - begun
    return seconds, torch.cat(images).numpy(), torch.cat(texts).numpy()


if __name__ == "__main__":
    main()
