"""Opens what a user names as embeddings: those that exist, or those of pairs that are embedded here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmpoison.base.phrasing import count_of, one_line
from mmpoison.datasets.catalogue import NamedData
from mmpoison.embedded.catalogue import EMBEDDED_FORMATS, open_embedded
from mmpoison.embedded.files import list_place
from mmpoison.embedded.source import EmbeddedSource
from mmpoison.errors import InputError
from mmpoison.runs.progress import RunProgress

_IN_MEMORY = re.compile(r"(^|::)memory://")


@dataclass(frozen=True)
class OpenedSource:
    """Embeddings that a scan reads.

    Attributes:
        source: The embeddings.
        encoder: Name of the model, where the pairs were embedded here.
        notes: What a user must know of it.
        root: Folder of the images, where the pairs were embedded here.
        unreadable: Of these, images that cannot be read, and why.
    """

    source: EmbeddedSource
    encoder: str | None = None
    notes: tuple[str, ...] = ()
    root: Path | None = None
    unreadable: Mapping[str, str] = field(default_factory=dict)


def open_source(
    source: NamedData,
    work: Path,
    *,
    encoder: str | Path | None,
    device: str,
    progress: RunProgress,
) -> OpenedSource:
    """Open a source of embeddings; pairs are embedded first.

    Args:
        source: A path, an address, or the name of a data set, with the options of embeddings or of pairs.
        work: Folder for embeddings that are made here.
        encoder: The model that makes them; given for embeddings that exist it is refused.
        device: Where to compute.
        progress: Reports the progress.

    Raises:
        InputError: If nothing can be read.
    """
    _refuse_memory(source.data)
    if _has_embeddings(source.data, source.format):
        if source.root is not None:
            raise InputError(f"{source}: has embeddings, which need no --data-root")
        if encoder is not None:
            raise InputError(
                f"{source}: has embeddings, which need no --encoder; to embed its pairs again name their --format"
            )
        return OpenedSource(
            open_embedded(source.data, format=source.format, options=source.options)
        )
    from mmpoison.runs.data_scan.embed_source import embed_source

    made = embed_source(
        source,
        work,
        encoder=encoder,
        device=device,
        progress=progress,
    )
    notes: tuple[str, ...] = () if made.foreign is None else (made.foreign,)
    if made.unreadable:
        name, reason = next(iter(made.unreadable.items()))
        notes += (
            f"{count_of(len(made.unreadable), 'image')} cannot be read, and their pairs are not judged: "
            f"{one_line(name)}: {one_line(reason)}",
        )
    return OpenedSource(made.source, made.encoder, notes, made.root, made.unreadable)


def _refuse_memory(source: str | Path) -> None:
    """Refuse an address in the memory of this process: the workers are other processes, where it is empty."""
    if _IN_MEMORY.search(str(source)):
        raise InputError(
            f"{one_line(str(source))}: lies in the memory of one process, and a scan works in others: copy it to a "
            "folder or an object store"
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
