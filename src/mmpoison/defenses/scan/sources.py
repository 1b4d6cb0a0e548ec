"""Opens the user's source as embeddings: precomputed ones, or pairs that are embedded first."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpoison.base.processes import find_device
from mmpoison.base.progress import RunProgress
from mmpoison.base.registry import check_name
from mmpoison.base.text import count_of, one_line
from mmpoison.datasets.catalogue import DATASETS, NamedData
from mmpoison.defenses.scan.cut.judging import needs_trusted
from mmpoison.defenses.scan.cut.score_filter import ScoreFilter
from mmpoison.defenses.scan.read.files import list_place
from mmpoison.defenses.scan.read.pieces import AllUnreadable, PairPieces, Unreadable
from mmpoison.defenses.scan.read.shards import EMBEDDED_FORMATS, EmbeddedSource, open_embedded
from mmpoison.errors import InputError
from mmpoison.pairs.table import PairDataset

if TYPE_CHECKING:
    from mmpoison.defenses.scan.read.embed import EmbeddedPairs
    from mmpoison.models.dual_encoder import DualEncoder

_IN_MEMORY = re.compile(r"(^|::)memory://")


DEFAULT_ENCODER = "efficientnet-minilm"
EXAMPLES = 20
"""Maximum number of left-out rows listed in `scan.json`."""
FOLDER, TRUSTED_FOLDER = "embeddings", "trusted"


@dataclass(frozen=True)
class OpenedSource:
    """Embeddings that a scan reads.

    Attributes:
        source: The embeddings.
        encoder: Name of the model, if the pairs were embedded by mmpoison.
        notes: Notes for the user.
        pieces: The data set, if its pairs were embedded by mmpoison.
        pairs: Its training pairs.
        trusted: Its clean pairs, if the cut is measured on them.
        named: The user's source, unless it is a set in memory.
        judge: The user's name for the model, if it is not the default.
    """

    source: EmbeddedSource
    encoder: str | None = None
    notes: tuple[str, ...] = ()
    pieces: PairPieces | None = None
    pairs: EmbeddedPairs | None = None
    trusted: EmbeddedPairs | None = None
    named: NamedData | None = None
    judge: str | None = None

    @property
    def data_root(self) -> Path | None:
        """The folder that image paths are relative to, if the data's location does not define it."""
        if self.pairs is None or self.named is None or self.pieces is None:
            return None
        data = self.pieces.data
        if data is None or data.place is None:
            return self.named.root
        home = data.place if data.place.is_dir() else data.place.parent
        return None if self.pairs.root.resolve() == home.resolve() else self.pairs.root

    @property
    def left_out(self) -> dict[str, Any] | None:
        """Rows without a pair, as listed in `scan.json`; None if there are none."""
        lines = [] if self.pieces is None else self.pieces.problems
        rows = sum(line.rows for line in lines)
        return {"rows": rows, "examples": list(lines[:EXAMPLES])} if lines else None

    @property
    def unreadable(self) -> Unreadable:
        """Unreadable images, whose pairs are not judged."""
        return Unreadable(0) if self.pairs is None else self.pairs.unreadable


def open_source(
    source: NamedData | PairDataset,
    work: Path,
    method: ScoreFilter,
    *,
    encoder: str | Path | DualEncoder | None,
    trusted: bool = True,
    device: str = "auto",
    progress: RunProgress,
) -> OpenedSource:
    """Open a source of embeddings, embedding pairs first.

    Args:
        source: A path, an address or a data set name, with options for embeddings or pairs; or pairs in memory.
        work: Folder for new embeddings.
        method: The method, which defines the embeddings it needs and whether it uses trusted pairs.
        encoder: The embedding model, `efficientnet-minilm` by default; refused for precomputed embeddings.
        trusted: Whether pairs of the split `val` are known to be clean.
        device: Device for the model.
        progress: Reports the progress.

    Raises:
        InputError: If nothing is readable.
    """
    named = source.root.name if isinstance(source, PairDataset) else str(source)
    chosen = source if isinstance(source, NamedData) else None
    if isinstance(source, NamedData):
        check_name("source", source.data)
        _refuse_memory(source.data)
        if _has_embeddings(source.data, source.format):
            if source.root is not None:
                raise InputError(f"{source}: has embeddings: omit --data-root")
            if encoder is not None:
                raise InputError(
                    f"{source}: has embeddings: omit --encoder, or give the --format of the pairs to embed them again"
                )
            return OpenedSource(
                open_embedded(source.data, format=source.format, options=source.options)
            )
        if not Path(source.data).exists() and named not in DATASETS and ":" not in named:
            raise InputError(
                f"{source}: no such folder or file, and no data set of that name (`mmpoison data list`)"
            )
    # imports torch, which scans of precomputed embeddings do not need
    from mmpoison.defenses.scan.read.embed import embed_source
    from mmpoison.defenses.scan.read.vectors import images_at_once
    from mmpoison.models.dual_encoder import DualEncoder
    from mmpoison.models.loading import load_encoder

    # refuse unreadable data before loading a model
    pieces = PairPieces(source, own_columns=True)
    if isinstance(encoder, DualEncoder):
        model = encoder
    else:
        loading = progress.progress(f"loading {encoder or DEFAULT_ENCODER}")
        loading(0, 1)
        try:
            model = load_encoder(encoder or DEFAULT_ENCODER).to(find_device(device))
        except InputError as error:
            if encoder is not None:
                raise
            raise InputError(f"{error}; or name a model with --encoder") from None
        loading(1, 1)
    pieces.images_at_once = images_at_once(model.image_size)
    made = embed_source(
        *(pieces, named, model, work / FOLDER), split="train", joint=method.joint, progress=progress
    )
    if made is None:
        raise InputError(f"{named}: has no training pairs (split 'train')")
    known = None
    if trusted and needs_trusted(method):
        try:
            known = embed_source(
                *(pieces, named, model, work / TRUSTED_FOLDER),
                split="val",
                joint=method.joint,
                progress=progress,
            )
        except AllUnreadable as error:
            raise InputError(
                f"{error} (or `--trusted none` measures on the judged pairs)"
            ) from None
    notes: tuple[str, ...] = () if made.foreign is None else (made.foreign,)
    if lost := sum(line.rows for line in pieces.problems):
        first = next(line for line in pieces.problems if line.rows)
        notes += (
            f"{count_of(lost, 'row')} left out, neither judged nor kept: {one_line(first)}"
            + (" (scan.json has more)" if len(pieces.problems) > 1 else ""),
        )
    if made.unreadable:
        name, reason = next(iter(made.unreadable.reasons.items()))
        notes += (
            f"{count_of(len(made.unreadable.reasons), 'image')} cannot be read, and their pairs are not judged: "
            f"{one_line(name)}: {one_line(reason)}",
        )
    judge = str(encoder) if isinstance(encoder, str | Path) else None
    return OpenedSource(made.source, model.name, notes, pieces, made, known, chosen, judge)


def broken_sources(opened: OpenedSource) -> list[dict[str, str]]:
    """Return pair files that could not be read to the end, in the form of `failed` in `scan.json`."""
    lines = [] if opened.pieces is None else opened.pieces.problems
    return [{"shard": opened.source.root, "reason": one_line(one)} for one in lines if one.broken]


def _refuse_memory(source: str | Path) -> None:
    """Refuse an address in this process's memory, because it is empty in worker processes."""
    if _IN_MEMORY.search(str(source)):
        raise InputError(
            f"{one_line(str(source))}: is in the memory of one process, and a scan uses several: copy it to a folder "
            "or an object store"
        )


def _has_embeddings(source: str | Path, format: str | None) -> bool:
    if format is not None:
        return format in EMBEDDED_FORMATS
    if "://" in str(source):
        return True
    if not Path(source).exists():
        return False  # the name of a data set, or a mistake
    place = list_place(source)
    return any(known.recognise(place) is not None for known in EMBEDDED_FORMATS.values())
