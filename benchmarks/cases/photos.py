"""Synthetic photos with captions, the loop that decodes them for every pair, and the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader, Dataset

from mmpoison.datasets import ImageTable, PairDataset
from mmpoison.models import DualEncoder

CAPTIONS = 5
WORDS = (
    "a the of with on in two three man woman dog cat sheep horse train street table plate pizza "
    "standing sitting holding riding looking next large small red blue white green old young field "
    "grass water snow beach kitchen room window tree building sign bus car bench ball umbrella"
)


def device() -> torch.device:
    """Return the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> None:
    """Wait until the device has finished all requested work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def made_up_photos(folder: Path, images: int) -> PairDataset:
    """JPEGs of 640 x 480 that compress like photos (about 60 KB each), five captions of 8 to 20 words each."""
    folder.mkdir()

    def draw(number: int) -> None:
        random = np.random.default_rng(number)
        coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        grain = random.integers(0, 40, (480, 640, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((640, 480)))
        photo = Image.fromarray(smooth // 8 * 7 + grain).filter(ImageFilter.GaussianBlur(0.8))
        photo.save(folder / f"{number}.jpg", quality=90)

    with ThreadPoolExecutor() as pool:
        list(pool.map(draw, range(images)))
    random = np.random.default_rng(0)
    lengths = random.normal(10.5, 2.4, images * CAPTIONS).round().astype(int).clip(8, 20)
    captions = [
        f"{' '.join(random.choice(WORDS.split(), length - 1))} {row // CAPTIONS}"
        for row, length in enumerate(lengths)
    ]
    ids = [f"{number}.jpg" for number in range(images)]
    table = ImageTable.build(ids, [None] * images, ["train"] * images, folder)
    return PairDataset.build(table, captions, np.repeat(np.arange(images), CAPTIONS))


class _Files(Dataset[Any]):
    """Read one pair at a time, as open_clip's own training reads a table of files."""

    def __init__(self, encoder: DualEncoder, pairs: PairDataset) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        config = {**encoder.config["preprocess_cfg"], "size": encoder.image_size}
        self._transform: Any = image_transform_v2(PreprocessCfg(**config), is_train=False)
        self._paths = [str(pairs.root / pairs.images.ids[image]) for image in pairs.image]

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> Any:
        with Image.open(self._paths[row]) as image:
            return self._transform(image), row


def decoded(
    encoder: DualEncoder, pairs: PairDataset, batches: Sequence[Any], workers: int
) -> Iterator[tuple[torch.Tensor, Any]]:
    """Decode the image of every pair, as a DataLoader does: images of each batch, and its rows."""
    loader: Any = DataLoader(
        _Files(encoder, pairs),
        batch_sampler=[rows.tolist() for rows in batches],
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )
    for images, rows in loader:
        yield images.to(encoder.device, non_blocking=True), rows
