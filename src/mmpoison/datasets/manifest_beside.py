"""The manifest beside a set that is not a pairs folder: poison stays marked in every format."""

from __future__ import annotations

from pathlib import Path

from mmpoison.datasets.manifest import PoisonManifest
from mmpoison.datasets.pairs import PairDataset
from mmpoison.datasets.pairs_folder import MANIFEST_FILE, apply_manifest
from mmpoison.errors import InputError


def with_manifest(pairs: PairDataset, folder: Path) -> PairDataset:
    """The pairs, marked by the `manifest.json` in their folder where there is one.

    Raises:
        InputError: If the manifest is broken or does not describe the pairs.
    """
    file = folder / MANIFEST_FILE
    return apply_manifest(pairs, PoisonManifest.read(file)) if file.is_file() else pairs


def is_poisoned(folder: Path) -> bool:
    """Whether a manifest lies in a folder."""
    return (folder / MANIFEST_FILE).is_file()


def refuse_poisoned(folder: Path) -> None:
    """Refuse to read a poisoned set piece by piece, since a piece could not say what in it is poisoned.

    Raises:
        InputError: If a manifest lies in the folder.
    """
    if is_poisoned(folder):
        raise InputError(
            f"{folder}: is a poisoned set ({MANIFEST_FILE}), which can only be read as a whole (load_pairs)"
        )
