"""The formats of embeddings, found through one registry, and `open_embedded`, which recognises them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpoison.base.phrasing import one_line
from mmpoison.base.registry import Registry
from mmpoison.datasets.options import fit_options
from mmpoison.defenses.scan.read.files import Listing, list_place
from mmpoison.defenses.scan.read.shards import EmbeddedSource
from mmpoison.errors import InputError


@dataclass(frozen=True)
class EmbeddedFormat:
    """A layout in which people hold embeddings of captions and images.

    Attributes:
        name: Registered name; `format=` takes it.
        summary: One line: whose layout it is.
        looks_for: The files by which it is recognised, for messages.
        recognise: Gives the evidence (the name of a file) that a place is of this format, or None.
        open: `open(place, **options)` gives the source; the keyword-only parameters are its options.
    """

    name: str
    summary: str
    looks_for: str
    recognise: Callable[[Listing], str | None]
    open: Callable[..., EmbeddedSource]


EMBEDDED_FORMATS: Registry[EmbeddedFormat] = Registry(
    "format of embeddings", "mmpoison.defenses.scan.read.formats"
)


def register(format: EmbeddedFormat) -> EmbeddedFormat:
    """Register a format under its name."""
    return EMBEDDED_FORMATS.register(format.name)(format)


def open_embedded(
    path: str | Path, *, format: str | None = None, options: Mapping[str, Any] | None = None
) -> EmbeddedSource:
    """Open precomputed embeddings; only headers are read.

    Args:
        path: A folder or file of this machine, or an address of fsspec such as `s3://bucket/folder`.
        format: Registered name of the format, where it cannot be recognised.
        options: Options of the format, as text or as values.

    Returns:
        The source. A shard that cannot be read is in it and raises `ShardError` when it is read.

    Raises:
        InputError: If there is nothing at the path, no format or several recognise it, an option is unknown, or no
            shard can be read.
    """
    place = list_place(path)
    chosen = recognise_embedded(place) if format is None else EMBEDDED_FORMATS[format]
    fitted = fit_options(options or {}, chosen.open, f"format {chosen.name!r}")
    return chosen.open(place, **fitted)


def recognise_embedded(place: Listing) -> EmbeddedFormat:
    """Recognise the format of embeddings by the files of a place.

    Raises:
        InputError: If none fits (the message lists what was looked for) or several do.
    """
    found = [
        (known, evidence)
        for known in EMBEDDED_FORMATS.values()
        if (evidence := known.recognise(place)) is not None
    ]
    shown = one_line(place.given)
    if not found:
        sought = "; ".join(
            f"{known.name}: {known.looks_for}" for known in EMBEDDED_FORMATS.values()
        )
        raise InputError(f"{shown}: no known format of embeddings, looked for {sought}")
    if len(found) > 1:
        kinds = " or ".join(f"{known.name} ({one_line(evidence)})" for known, evidence in found)
        raise InputError(f"{shown}: could be {kinds}: say which with --format")
    return found[0][0]
