"""`scan`: is a data set poisoned? From embeddings that exist, without torch, or from the pairs themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpoison.api.progress import shown
from mmpoison.base.files import refuse_address
from mmpoison.datasets.catalogue import NamedData
from mmpoison.runs.progress import RunProgress

if TYPE_CHECKING:
    from mmpoison.records.data_scan import DataScan


def scan(
    source: str | Path | NamedData,
    *,
    out: str | Path,
    encoder: str | Path | None = None,
    lose: float | None = None,
    false_alarms: float = 0.01,
    planted: bool = True,
    seed: int = 0,
    format: str | None = None,
    options: Mapping[str, Any] | None = None,
    workers: int = 1,
    ray: str | None = None,
    device: str = "auto",
    progress: bool | RunProgress = True,
) -> DataScan:
    """Look for signs of poisoning in image-caption pairs, and write which of them to drop.

    Args:
        source: Embeddings that exist (clip-retrieval, DataComp, two `.npy` files, Parquet with list columns), also in
            an object store (`s3://...`), or pairs in any format, or the name of a data set; those are embedded first.
            `NamedData` has format and options itself.
        out: New folder: `drop.parquet` and `drop.csv`, the list of pairs that stay (`keep.npy` for uids, `keep/` for
            keys), `groups.json`, `shards.parquet`, `scan.json` and the page `scan.html`.
        encoder: The model that embeds pairs; `efficientnet-minilm` by default. Embeddings that exist need none.
        lose: Share of the pairs that may be dropped besides those of suspected goals, the most suspicious ones.
        false_alarms: How often clean data may raise an alarm, in (0, 1).
        planted: Whether to plant goals into a copy of some pairs, to say what would have been found.
        seed: Seed of everything random.
        format: Name of the format, where it is not recognised.
        options: Options of the format.
        workers: Processes, each with a shard at a time; the result does not depend on it.
        ray: Address of a Ray cluster, or `local`.
        device: Where pairs are embedded: `auto`, `cpu`, `cuda` or `cuda:N`.
        progress: False shows no progress; by default bars are shown on a terminal and in a notebook.

    Returns:
        The verdict with all that the page shows; `failed` lists shards that could not be read.

    Raises:
        InputError: If there is nothing to read, or an option is out of range.

    Example:
        ```python
        found = mmpoison.scan("laion/embeddings", out="scan", workers=8)
        print(found.verdict, *found.summary)
        ```
    """
    from mmpoison.runs.data_scan.scan_embedded import ScanSettings, scan_embedded
    from mmpoison.runs.data_scan.sources import open_source

    settings = ScanSettings(lose=lose, level=false_alarms, planted=planted, seed=seed)
    refuse_address(out)
    target = Path(out)
    work = work_folder(target)
    with shown(progress) as reporter:
        opened = open_source(
            source
            if isinstance(source, NamedData)
            else NamedData(str(source), None, format, options or {}),
            work,
            encoder=encoder,
            device=device,
            progress=reporter,
        )
        judged = scan_embedded(
            opened, target, work, settings, workers=workers, threads=1, ray=ray, progress=reporter
        )
    assert judged.scan is not None
    return judged.scan


def work_folder(out: Path) -> Path:
    """Return the folder of unfinished work of a scan, from which it resumes."""
    return out.with_name(f"{out.name}.scanning")
