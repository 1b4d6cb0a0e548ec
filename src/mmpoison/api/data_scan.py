"""`scan`: looks for poison in a data set, and lists the pairs to drop.

Scanning precomputed embeddings needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpoison.api.progress import shown
from mmpoison.base.files import refuse_address, refuse_occupied
from mmpoison.base.option_checks import checked
from mmpoison.errors import InputError

if TYPE_CHECKING:
    from mmpoison.base.progress import RunProgress
    from mmpoison.datasets.catalogue import NamedData
    from mmpoison.defenses.scan.cut.judging import Trusted
    from mmpoison.defenses.scan.cut.score_filter import ScoreFilter
    from mmpoison.models.dual_encoder import DualEncoder
    from mmpoison.pairs.folder import ImagePolicy
    from mmpoison.pairs.table import PairDataset
    from mmpoison.reporting.scan_result import ScanResult


@checked
def scan(
    source: str | Path | NamedData | PairDataset,
    *,
    out: str | Path,
    method: str | ScoreFilter = "suspicious-groups",
    kept: str | Path | None = None,
    images: ImagePolicy = "link",
    planted: bool = True,
    threshold: float | None = None,
    lose: float | None = None,
    labels: str | Path | None = None,
    false_alarms: float | None = None,
    encoder: str | Path | DualEncoder | None = None,
    trusted: Trusted = "val",
    force: bool = False,
    seed: int = 0,
    format: str | None = None,
    options: Mapping[str, Any] | None = None,
    workers: int = 1,
    ray: str | None = None,
    device: str = "auto",
    progress: bool | RunProgress = True,
    **parameters: Any,
) -> ScanResult:
    """Look for signs of poisoning in image-caption pairs, and list the pairs to drop.

    Args:
        source: Precomputed embeddings (clip-retrieval, DataComp, two `.npy` files, Parquet with
            list columns), also in an object store (`s3://...`); or pairs in any format, the name of
            a data set, or pairs in memory, which are embedded first. `NamedData` contains its own
            format and options.
        out: New folder for `drop.parquet` and `drop.csv`, `scores.parquet`, the list of kept pairs
            (`keep.npy` for uids, `keep/` for keys), `groups.json`, `scan.json` and `scan.html`.
        method: A registered pre-training defence (see `mmpoison defenses`), or a filter object.
        kept: New folder for the remaining pairs as a data set with images; not for precomputed embeddings.
        images: With `kept`: hard links (`link`), copies (`copy`), or the table alone (`none`).
        planted: Plant test goals in a copy of some pairs, to measure which goals the scan would find.
        threshold: Drop pairs with a larger score.
        lose: Acceptable loss, as a share of the clean pairs, measured on the split `val` if there
            is one and the method can use it. Otherwise this share of all pairs is dropped, those in
            likely groups first.
        labels: A CSV of verdicts, with the columns pair and verdict.
        false_alarms: Acceptable share of clean data sets with an alarm, for a method that finds
            groups; 0.01 by default.
        encoder: The model that embeds pairs; `efficientnet-minilm` by default. Precomputed
            embeddings need none.
        trusted: Pairs to measure `lose` on: split `val`, or `none` for the judged pairs.
        force: Use a model even if it cannot distinguish true from shuffled pairs. Otherwise a
            method that compares captions with images refuses it.
        seed: Seed for all random choices.
        format: Name of the format, if it is not recognised.
        options: Options of the format.
        workers: Number of processes, each with one shard at a time. The result does not depend on
            it.
        ray: Address of a Ray cluster whose workers scan the shards, or `local`.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.
        progress: False shows no progress; by default bars are shown on a terminal and in a notebook.
        **parameters: Parameters of the method.

    Returns:
        The verdict and everything the page shows, with `to_pandas()`. `failed` lists unreadable shards.

    Raises:
        InputError: If there is nothing to read, an option is out of range, or every pair would be
            dropped.
        ResultError: If the method compares captions with images, and the model cannot distinguish
            true from shuffled pairs.

    Example:
        ```python
        found = mmpoison.scan("laion/embeddings", out="scan", workers=8)
        print(found)  # a notebook shows the groups with pictures
        drop = found.to_pandas()
        ```
    """
    from mmpoison.datasets.catalogue import NamedData
    from mmpoison.defenses.scan.cut.labels import read_labels
    from mmpoison.defenses.scan.cut.score_filter import build_filter
    from mmpoison.defenses.scan.scan import PASSES, ScanSettings, scan_embedded
    from mmpoison.defenses.scan.sources import open_source
    from mmpoison.defenses.scan.write.files import KEPT_MARK, KeptFolder
    from mmpoison.reporting.scan_result import ScanResult

    cut = {
        "threshold": threshold,
        "clean_loss": lose,
        "labels": labels,
        "false_alarms": false_alarms,
    }
    given = {**parameters, **{name: value for name, value in cut.items() if value is not None}}
    chosen = build_filter(method, given) if isinstance(method, str) else method
    if given and chosen is method:
        raise InputError("the method is an object: set its parameters on the object")
    refuse_address(out)
    target = Path(out)
    refuse_occupied(target)
    if kept is not None and not (work_folder(target) / PASSES / KEPT_MARK).is_file():
        refuse_occupied(Path(kept))  # otherwise this scan wrote part of it and was killed
    if chosen.cut.labels is not None:
        read_labels(chosen.cut.labels)  # fail before loading the data
    work = work_folder(target)
    if isinstance(source, str | Path):
        source = NamedData(str(source), None, format, options or {})
    with shown(progress) as reporter:
        opened = open_source(
            source,
            work,
            chosen,
            encoder=encoder,
            trusted=trusted == "val",
            device=device,
            progress=reporter,
        )
        judged = scan_embedded(
            opened,
            target,
            work,
            ScanSettings(chosen, planted, force, seed),
            workers=workers,
            threads=1,
            ray=ray,
            progress=reporter,
            kept=None if kept is None else KeptFolder(Path(kept), images),
        )
    assert judged.scan is not None
    return ScanResult.made(judged.scan, target)


def work_folder(out: Path) -> Path:
    """Return the folder with a scan's unfinished work, from which the scan resumes."""
    return out.with_name(f"{out.name}.scanning")
